#!/usr/bin/env python3
"""Read a run's event file with TensorBoard and hold it against the run's own rows.

    pip install -r scripts/checks/interop/requirements.txt
    python scripts/checks/interop/check_tensorboard.py --bonfire target/release/bonfire

Trains two short rounds with `track.tensorboard` and every client evaluated, and reads the scalars and the histogram of
clients' accuracies with TensorBoard's own reader, which checks checksums.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {"test/accuracy": "test_accuracy", "test/loss": "test_loss", "train/loss": "train_loss",
        "bytes/upload": "upload_bytes", "tokens/round": "tokens", "time/round_seconds": "seconds"}
SETS = ["train.rounds=2", "train.epochs=1", "clients.count=4", "data.labels=4", "data.min_shard=4",
        "evaluate.per_client=true", "track.tensorboard=true"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bonfire", required=True, type=Path)
    bonfire = parser.parse_args().bonfire.resolve()
    with tempfile.TemporaryDirectory() as room:
        run = Path(room) / "run"
        sets = [word for item in SETS for word in ("--set", item)]
        subprocess.run([bonfire, "train", "--quiet", "--device", "cpu", "--out", run, *sets], check=True)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        clients = [json.loads(line) for line in (run / "clients.jsonl").read_text().splitlines()]
        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"histograms": 0, "scalars": 0})
        events.Reload()
    failures = []
    for tag, field in TAGS.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        # The model before the first round has no training loss: a row says null, and no event is written.
        expected = [(row["round"], row[field]) for row in rows if row[field] is not None]
        same = len(found) == len(expected) and all(
            a == c and math.isclose(b, d, rel_tol=1e-6) for (a, b), (c, d) in zip(found, expected))
        if not same:
            failures.append(f"{tag}: {found}, expected {expected}")
    total = events.Scalars("bytes/upload_total")[-1].value
    if total != sum(row["upload_bytes"] for row in rows):
        failures.append(f"bytes/upload_total: {total}")
    evaluated = [client["test_accuracy"] for client in clients if client["round"] == 2 and "test_accuracy" in client]
    spread = events.Histograms("clients/accuracy")[-1].histogram_value
    if (spread.num, sum(spread.bucket)) != (len(evaluated), len(evaluated)) or not math.isclose(spread.sum, sum(evaluated)):
        failures.append(f"clients/accuracy: {spread}, expected {evaluated}")
    if failures:
        sys.exit("\n".join(failures))
    print(f"TensorBoard reads {len(events.Tags()['scalars'])} scalars of {len(rows)} rounds, as metrics.jsonl has them")


if __name__ == "__main__":
    main()
