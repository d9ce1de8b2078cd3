"""What `track.trackio` sends, taken by a Trackio server on this machine. A run is trained and then gone on with for more rounds;
what the server stored must be what the run has, once, in one run with the settings.

    pip install trackio
    python scripts/checks/check_trackio.py --bonfire target/release/bonfire
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TAGS = {"test_accuracy": "test/accuracy", "train_loss": "train/loss", "upload_bytes": "bytes/upload"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bonfire", type=Path, default=Path("target/release/bonfire"))
    bonfire = parser.parse_args().bonfire.resolve()
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        os.environ |= {"TRACKIO_DIR": str(room / "stored"), "TRACKIO_WRITE_TOKEN": "between-us"}
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        app, address, *_ = trackio.show(block_thread=False, open_browser=False)
        address = address.split("?")[0].rstrip("/")
        print(f"Trackio {trackio.__version__} at {address}")

        def train(*more: str) -> None:
            subprocess.run([bonfire, "train", "--quiet", "--device", "cpu", *more], cwd=room, check=True)

        short = ("clients.count=4", "data.labels=4", "data.min_shard=4", "train.rounds=2", f"track.trackio={address}")
        train("--out", "run", *(part for text in short for part in ("--set", text)))
        train("--resume", "run", "--set", "train.rounds=4")
        rows = [json.loads(line) for line in (room / "run/metrics.jsonl").read_text().splitlines()]
        stored = SQLiteStorage.get_logs("bonfire", "run")
        config = SQLiteStorage.get_run_config("bonfire", "run")
    wrong = []
    if [log["step"] for log in stored] != [row["round"] for row in rows]:
        wrong.append(f"rounds {[log['step'] for log in stored]}, expected {[row['round'] for row in rows]}")
    for log, row in zip(stored, rows, strict=False):
        for key, tag in TAGS.items():
            there, here = log.get(tag), row.get(key)
            if (here is None) != (there is None) or (here is not None and not math.isclose(here, there, rel_tol=1e-12)):
                wrong.append(f"round {row['round']}: {tag} is {there}, expected {here}")
    if (config or {}).get("train.lr_head") is None or config.get("clients.count") != "4":
        wrong.append(f"the settings are {config}")
    sys.exit("\n".join(wrong) or None) if wrong else print(f"{len(rows)} rounds are there once, with {len(config)} settings")


if __name__ == "__main__":
    main()
