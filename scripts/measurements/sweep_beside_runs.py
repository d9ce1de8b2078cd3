"""Measures a sweep beside its own cells run one by one, in turns: seconds on the clock from the start of the program to its end.

    python scripts/measurements/sweep_beside_runs.py -- CONFIG --set train.lr_a=1e-4,3e-4 --seeds 0,1,2

What stands behind `--` goes to `bonfire sweep`. Three ways are taken in turns, so that what else the machine does meets all: the
sweep, the same with `--side-by-side 1` (as `compare`: one process, one cell after another), and a `bonfire train` for each cell.
Prints every time, the least of each way, and how far the last accuracies of the cells are apart.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from machine import cpu


def timed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def accuracies(folder: Path) -> list[float]:
    cells = json.loads((folder / "compare.json").read_text())["cells"]
    return [cell.get("final_accuracy") or cell.get("personal_accuracy") for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bonfire", default="target/release/bonfire")
    parser.add_argument("--times", type=int, default=2, help="how often each way is taken")
    parser.add_argument("sweep", nargs="+", help="what goes to bonfire sweep")
    args = parser.parse_args()
    times: dict[str, list[float]] = {"sweep": [], "sweep --side-by-side 1": [], "train, cell by cell": []}
    apart = 0.0
    with tempfile.TemporaryDirectory() as room:
        for turn in range(args.times):
            out, alone = Path(room, f"sweep{turn}"), Path(room, f"alone{turn}")
            sweep = [args.bonfire, "sweep", *args.sweep, "--quiet", "--out"]
            times["sweep"].append(timed([*sweep, str(out)]))
            times["sweep --side-by-side 1"].append(timed([*sweep, str(alone), "--side-by-side", "1"]))
            apart = max(apart, *(abs(x - y) for x, y in zip(accuracies(out), accuracies(alone), strict=True)))
            cells = sorted((out / "runs").iterdir())
            each = [
                timed([args.bonfire, "train", str(cell / "config.toml"), "--quiet", "--out", str(Path(room, "run", cell.name))])
                for cell in cells
            ]
            times["train, cell by cell"].append(sum(each))
            shutil.rmtree(Path(room, "run"))
    print(f"{len(cells)} cells, {cpu()}, {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}")
    for way, seconds in times.items():
        print(f"{way:24} {min(seconds):7.1f} s   ({', '.join(f'{s:.1f}' for s in seconds)})")
    print(f"the cells' last accuracies are {100 * apart:.2f} points apart at most")


if __name__ == "__main__":
    main()
