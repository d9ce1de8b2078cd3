#!/usr/bin/env python3
"""Run one setting by FedSA-LoRA's official code and by Bonfire, and print the losses and accuracies of both, round by round.

    python scripts/measurements/beside_fedsa_lora.py --code DIR --model DIR --data DIR --bonfire target/release/bonfire \\
      --method fedsa-lora --rounds 5 --lr 0.02 --out DIR

--code is a checkout of https://github.com/Pengxin-Guo/FedSA-LoRA, which runs as it is: its server, clients, trainer, aggregator
and split. What it would fetch is handed to it: the model in --model (RoBERTa's layout), and rows of two classes in --data
(train.jsonl, test.jsonl: text, label) in the place of SST-2; the test rows are its validation split. Bonfire then has the adapter
and head that it began with and its split of the rows. Without --dropout both see the same batches, rows in order, so losses
are the same up to rounding; with it each draws its own batches and masks.

Two settings are not fedsa-lora.yaml's. `share_local_model` is off and clients begin alike: with it all clients train one model in
turn, so that what should stay with a client (B, the head) passes on to the next. `ignore_weight` is on: clients weigh the same.

Needs torch, transformers, peft, datasets and what the code itself imports (yacs, iopath, fvcore, grpcio, scipy, pympler, …).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CLIENTS, STEPS, BATCH, LENGTH, RANK, ALPHA = 3, 10, 16, 32, 8, 16


def main():
    args = arguments()
    # Both change folders.
    for name in ("code", "model", "data", "bonfire", "out"):
        setattr(args, name, Path(getattr(args, name)).resolve())
    (args.out / "init").mkdir(parents=True, exist_ok=True)
    theirs = official(args)
    ours, accuracies = bonfire(args)
    for number, (mine, accuracy, (losses, right, tested)) in enumerate(zip(ours, accuracies, theirs, strict=True), 1):
        apart = max(abs(a - b) for a, b in zip(mine, losses, strict=True))
        say = [" ".join(f"{loss:.6f}" for loss in side) for side in (mine, losses)]
        print(f"round {number}: Bonfire {say[0]}  official {say[1]}  apart {apart:.1e}", end="  ")
        print(f"accuracy {accuracy:.4f}, official {right / tested:.4f}")


def official(args):
    """A round's mean loss of every client, right answers and answers."""
    os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
    sys.path.insert(0, str(args.code))
    os.chdir(args.code)
    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    rows = {n: [json.loads(line) for line in (args.data / f"{n}.jsonl").read_text().splitlines()] for n in ("train", "test")}
    columns = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}

    def split(name):
        content = {"sentence": [row["text"] for row in rows[name]], "label": [row["label"] for row in rows[name]]}
        return datasets.Dataset.from_dict(content, features=datasets.Features(columns))

    class Accuracy:
        def compute(self, predictions, references):
            return {"accuracy": sum(map(int.__eq__, map(int, predictions), map(int, references))) / max(1, len(predictions))}

    datasets.load_dataset = lambda *_, **__: datasets.DatasetDict(train=split("train"), validation=split("test"))
    datasets.load_metric = lambda *_, **__: Accuracy()
    model, tokenizer = transformers.AutoModelForSequenceClassification, transformers.AutoTokenizer
    read_model, read_tokenizer = model.from_pretrained, tokenizer.from_pretrained
    share = 0.1 if args.dropout else 0.0
    shares = {"hidden_dropout_prob": share, "attention_probs_dropout_prob": share}
    model.from_pretrained = lambda _, num_labels, **__: read_model(
        args.model, num_labels=num_labels, dtype=torch.float32, **shares
    )
    tokenizer.from_pretrained = lambda *_, **__: read_tokenizer(args.model)
    sys.argv = sys.argv[:1]
    from federatedscope.core.auxiliaries.data_builder import get_data
    from federatedscope.core.auxiliaries.runner_builder import get_runner
    from federatedscope.core.auxiliaries.utils import setup_seed
    from federatedscope.core.auxiliaries.worker_builder import get_client_cls, get_server_cls
    from federatedscope.core.configs.config import global_cfg
    from federatedscope.glue.trainer.trainer import GLUETrainer

    lora = {"adapter_package": "peft", "adapter_method": "lora", "r": RANK, "lora_alpha": ALPHA}
    config = global_cfg.clone()
    config.merge_from_file("federatedscope/glue/yamls/fedsa-lora.yaml")
    changed = {
        "use_gpu": False, "seed": args.seed, "data.type": "sst2@glue", "model.type": "model@huggingface_llm",
        "outdir": str(args.out / "official"), "llm.tok_len": LENGTH, "dataloader.batch_size": BATCH, "dataloader.num_workers": 0,
        "dataloader.shuffle": args.dropout, "federate.total_round_num": args.rounds, "federate.save_to": "",
        "federate.share_local_model": False, "federate.ignore_weight": True, "federate.freeze_A": args.method == "ffa-lora",
        "personalization.local_param": ["lora_B", "classifier"] if args.method == "fedsa-lora" else [],
        "train.optimizer.lr": args.lr, "train.is_enable_half": False,
        "llm.adapter.args": [lora | {"lora_dropout": 0.05 if args.dropout else 0.0}],
    }  # fmt: skip
    config.merge_from_list([part for pair in changed.items() for part in pair])
    setup_seed(config.seed)
    data, changes = get_data(config=config.clone(), client_cfgs=None)
    config.merge_from_other_cfg(changes)
    config.freeze()
    seen, rounds, models = [], [], {}

    def note(trainer, context):
        entry = (models.get(id(context.model), 0), context.loss_batch.item(), context.y_true, context.y_pred)
        if context.cur_split == "train":
            if not seen or seen[-1] != "train":
                rounds.append(({}, [0, 0]))
            rounds[-1][0].setdefault(entry[0], []).append(entry[1])
        else:
            rounds[-1][1][0] += int((entry[2] == entry[3]).sum())
            rounds[-1][1][1] += len(entry[2])
        seen[:] = [context.cur_split]
        return end(trainer, context)

    end, GLUETrainer._hook_on_batch_end = GLUETrainer._hook_on_batch_end, note
    hold(args, rows["train"], data, read_tokenizer(args.model), config)
    workers = {"server_class": get_server_cls(config), "client_class": get_client_cls(config)}
    runner = get_runner(data=data, config=config.clone(), client_configs=None, **workers)
    begin(args, runner, models)
    runner.run()
    return [([sum(losses[k]) / len(losses[k]) for k in sorted(losses)], *tested) for losses, tested in rounds]


def hold(args, rows, data, tokenizer, config):
    """Writes down who holds which rows, and puts them in order."""
    places = {}
    for place, row in enumerate(rows):
        ids = tokenizer(row["text"], padding="max_length", max_length=LENGTH, truncation=True)["input_ids"]
        places.setdefault((tuple(ids), row["label"]), []).append(place)
    held = []
    for client in range(1, CLIENTS + 1):
        own = data[client].train_data
        mine = [places[tuple(row["input_ids"].tolist()), int(row["label"])].pop(0) for row in own]
        data[client].train_data = [own[at] for at in sorted(range(len(mine)), key=mine.__getitem__)]
        data[client].client_cfg = None
        data[client].setup(config)
        held.append(sorted(mine))
    (args.out / "rows.json").write_text(json.dumps(held))


def begin(args, runner, models):
    """Lets all clients begin with the server's adapter and head, and writes these down as PEFT does."""
    from safetensors.torch import save_file

    start = {name: value.clone() for name, value in runner.server.model.model.state_dict().items()}
    for number, client in runner.client.items():
        client.trainer.ctx.model.model.load_state_dict(start)
        models[id(client.trainer.ctx.model)] = number
    trained = {name: value for name, value in start.items() if "lora_" in name or "modules_to_save" in name}
    plain = {name.replace(".default", "").replace(".modules_to_save", ""): v.contiguous() for name, v in trained.items()}
    save_file(plain, args.out / "init" / "adapter_model.safetensors")
    about = {
        "peft_type": "LORA", "task_type": "SEQ_CLS", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
        "target_modules": ["query", "value"], "modules_to_save": ["classifier", "score"],
    }  # fmt: skip
    (args.out / "init" / "adapter_config.json").write_text(json.dumps(about))


def bonfire(args):
    """A round's mean loss of every client, and the accuracies."""
    run = args.out / "bonfire"
    config = f"""
model = {{ path = "{args.model}", dropout = {{ hidden = {0.1 * args.dropout}, attention = {0.1 * args.dropout} }} }}
data = {{ path = "{args.data}", max_length = {LENGTH}, partition = {{ kind = "file", path = "{args.out / "rows.json"}" }} }}
clients = {{ count = {CLIENTS} }}
strategy = {{ name = "{args.method}" }}
server = {{ weights = "uniform" }}
[adapter]
rank = {RANK}
alpha = {ALPHA}
dropout = {0.05 * args.dropout}
targets = ["query", "value"]
head = "trained"
init = "{args.out / "init"}"
[train]
rounds = {args.rounds}
steps = {STEPS}
batch_size = {BATCH}
optimizer = {{ name = "sgd" }}
lr_a = {args.lr}
lr_b = {args.lr}
lr_head = {args.lr}
shuffle = {str(args.dropout).lower()}
seed = {args.seed}
"""
    (args.out / "bonfire.toml").write_text(config)
    command = [args.bonfire, "train", args.out / "bonfire.toml", "--device", "cpu", "--quiet", "--out", run]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = {n: [json.loads(line) for line in (run / f"{n}.jsonl").read_text().splitlines()] for n in ("metrics", "clients")}
    losses = [[row["train_loss"] for row in rows["clients"] if row["round"] == n] for n in range(1, args.rounds + 1)]
    measured = [row for row in rows["metrics"] if row["round"] > 0]
    return losses, [row.get("test_accuracy", row.get("personal_accuracy")) for row in measured]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("code", "model", "data", "bonfire", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--method", choices=["fedit", "ffa-lora", "fedsa-lora"], default="fedsa-lora")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dropout", action="store_true", help="dropout as fedsa-lora.yaml has it, and shuffled rows")
    return parser.parse_args()


if __name__ == "__main__":
    main()
