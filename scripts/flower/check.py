#!/usr/bin/env python3
"""Compare the adapter of a Flower run with that of `bonfire.train` under the same configuration.

    python3 scripts/flower/check.py RUN [--config FILE] [--override KEY=VALUE]

Every client trained the same texts from the same start in both, but in batches of other clients, so sums of floats ran in
another order. The measure is the largest difference of two entries, against the largest movement of any entry since the
start of the run; the exit code is 1 above --tolerance.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import bonfire
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "flower"))
from bonfire_flower.settings import assignments

TOLERANCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder that the app wrote")
    parser.add_argument("--config", default="", help="a Bonfire TOML (default: the built-in quickstart)")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    args = parser.parse_args()
    sys.exit(0 if compare(args.config, "; ".join(args.override), args.run, args.tolerance) else 1)


def compare(config: str, overrides: str, run: Path, tolerance: float) -> bool:
    """Trains in this process, prints the difference, and says whether it is within the tolerance."""
    settings = {"config": config or None, "overrides": assignments(overrides) or None}
    with tempfile.TemporaryDirectory(prefix="bonfire-check-") as folder:
        alone = bonfire.train(**settings, out=Path(folder) / "alone")
        ours = read_adapter(run / "adapter")
        other = read_adapter(Path(alone.folder) / "adapter")
    start = bonfire.Server(**settings).tensors()
    if not ours.keys() == other.keys() == start.keys():
        print(
            f"check     other tensors: {sorted(ours.keys() ^ other.keys() | other.keys() ^ start.keys())}: FAILED"
        )
        return False
    movement = max(float(np.abs(other[name] - start[name]).max()) for name in other)
    difference = max(float(np.abs(ours[name] - other[name]).max()) for name in ours)
    share = difference / movement
    print(
        f"check     {len(ours)} tensors, largest movement {movement:.3g}, largest difference {difference:.3g}"
    )
    print(
        f"check     {share:.2g} of the movement, tolerance {tolerance:.2g}: {'passed' if share <= tolerance else 'FAILED'}"
    )
    return share <= tolerance


def read_adapter(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file whose entries are all f32."""
    content = (folder / "adapter_model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:begin]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{folder}: {name} is {entry['dtype']}, not F32")
        first, last = entry["data_offsets"]
        tensors[name] = np.frombuffer(content[begin + first : begin + last], "<f4").reshape(entry["shape"])
    return tensors


if __name__ == "__main__":
    main()
