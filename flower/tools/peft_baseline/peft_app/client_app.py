"""A client: one shard, trained from the server's adapter and head for a round."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from peft_app.task import Settings, network, shards, train

app = ClientApp()


@app.train()
def train_round(message: Message, context: Context) -> Message:
    settings = Settings.of(context.run_config)
    torch.set_num_threads(context.run_config["threads"])
    client, round_ = context.node_config["partition-id"], message.content["config"]["server-round"]
    rows, net = shards(settings)[client], network(settings)
    set_peft_model_state_dict(net, message.content["arrays"].to_torch_state_dict())
    loss = train(net, settings, rows, seed=[settings.seed, round_, client])
    content = {
        "arrays": ArrayRecord(get_peft_model_state_dict(net)),
        "metrics": MetricRecord({"train-loss": loss, "num-examples": len(rows)}),
    }
    return Message(content=RecordDict(content), reply_to=message)
