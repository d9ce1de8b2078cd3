"""The server: Flower's own FedAvg over A, B and the head, and the test accuracy after a round."""

import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from peft_app.task import Settings, accuracy, network

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = Settings.of(context.run_config)
    torch.set_num_threads(context.run_config["server-threads"])
    everybody = {"min_train_nodes": settings.clients, "min_available_nodes": settings.clients}
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, **everybody)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_peft_model_state_dict(network(settings))),
        num_rounds=settings.rounds,
        evaluate_fn=Evaluation(settings, context.run_config["evaluate-every"], context.run_config["out"]),
    )


class Evaluation:
    """What FedAvg calls before the first round and after each: evaluates, and keeps the rounds' clock."""

    def __init__(self, settings: Settings, every: int, out: str) -> None:
        self.settings, self.every = settings, every
        self.file = Path(out) / "rounds.jsonl" if out else None
        self.mark = time.perf_counter()
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text("", encoding="utf-8")

    def __call__(self, round_: int, arrays: ArrayRecord) -> MetricRecord | None:
        if round_ == 0:
            self.mark = time.perf_counter()
            return None
        ended = time.perf_counter()
        row = {"round": round_, "seconds": ended - self.mark}  # send, train, receive, average
        if round_ % self.every == 0 or round_ == self.settings.rounds:
            net = network(self.settings)
            set_peft_model_state_dict(net, arrays.to_torch_state_dict())
            row["test_accuracy"] = accuracy(net, self.settings)
            row["evaluate_seconds"] = time.perf_counter() - ended
        if self.file:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self.mark = time.perf_counter()
        return MetricRecord({key: value for key, value in row.items() if key != "round"})
