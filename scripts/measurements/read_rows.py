"""Measures how fast a million rows are read, and the peak of memory, beside pandas and polars.

    pip install pandas polars pyarrow
    cargo build --release --workspace --example read-rows
    python scripts/measurements/read_rows.py target/release/examples/read-rows

Each reader is a process of its own, so that its peak is its own; the run of three with the least CPU-seconds
counts. Bonfire's rows are parsed,
checked and labelled; pandas and polars make a table.
"""

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 1_000_000

PEERS = {
    ("pandas", "jsonl"): "import pandas; pandas.read_json(PATH, lines=True)",
    ("pandas", "parquet"): "import pandas; pandas.read_parquet(PATH)",
    ("polars", "jsonl"): "import polars; polars.read_ndjson(PATH)",
    ("polars", "parquet"): "import polars; polars.read_parquet(PATH)",
}


def write(folder):
    """Texts of 8 to 24 made-up words, 77 labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(8, 24))) for _ in range(ROWS)]
    labels = [f"label_{rng.randrange(77)}" for _ in range(ROWS)]
    with open(folder / "train.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in zip(texts, labels))
    pq.write_table(pa.table({"text": texts, "label": labels}), folder / "train.parquet")


def measured(command):
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, command
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - begin, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", help="the example read-rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # In a process of its own: a child's peak begins with what its parent holds.
        maker = multiprocessing.get_context("spawn").Process(target=write, args=(folder,))
        maker.start()
        maker.join()
        print("| reader | file | MB | CPU-seconds | seconds | rows a CPU-second | peak MB |\n|---|---|---|---|---|---|---|")
        for kind in ["jsonl", "parquet"]:
            path = folder / f"train.{kind}"
            commands = {"bonfire": [args.reader, str(path)]}
            for (peer, of), code in PEERS.items():
                if of == kind:
                    commands[peer] = [sys.executable, "-c", code.replace("PATH", repr(str(path)))]
            for name, command in commands.items():
                cpu, seconds, peak = min(measured(command) for _ in range(3))
                size = path.stat().st_size / 1e6
                print(
                    f"| {name} | {kind} | {size:.0f} | {cpu:.2f} | {seconds:.2f} | {ROWS / cpu:,.0f} | {peak:.0f} |", flush=True
                )


if __name__ == "__main__":
    main()
