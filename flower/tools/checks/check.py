#!/usr/bin/env python3
"""Compare the adapter of a Flower run with that of `bonfire.train`: same configuration, seed and shards.

    python3 flower/tools/checks/check.py RUN

The measure is the largest difference of two entries, against the largest movement of any entry since the
start of the run; the exit code is 1 above --tolerance. Sums of floats run in another order where clients
share a batch with others, and training makes more of it from round to round; with `engine.in_flight=1` every
client trains alone wherever it is, and what is left is nothing.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import bonfire
import numpy as np

TOLERANCE = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder that the app wrote")
    parser.add_argument("--device", default="auto", help="where `bonfire.train` computes")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    args = parser.parse_args()
    sys.exit(0 if compare(args.run, args.tolerance, device=args.device) else 1)


def compare(run: Path, tolerance: float, bound: float = 0.0, device: str = "auto") -> bool:
    """Trains in this process, prints the difference, and says whether it is within the tolerance, or a bound of its own."""
    config = run / "config.toml"
    with tempfile.TemporaryDirectory(prefix="bonfire-check-") as folder:
        alone = bonfire.train(config, device=device, out=Path(folder) / "alone")
        other = read_adapter(Path(alone.folder) / "adapter")
    ours, start = read_adapter(run / "adapter"), bonfire.Server(config).tensors()
    if not ours.keys() == other.keys() == start.keys():
        others = sorted(ours.keys() ^ other.keys() | other.keys() ^ start.keys())
        print(f"check     tensors that not all have: {others}: FAILED")
        return False
    movement = max(float(np.abs(other[name] - start[name]).max()) for name in other)
    difference = max(float(np.abs(ours[name] - other[name]).max()) for name in ours)
    share = difference / movement
    print(
        f"check     {len(ours)} tensors, largest movement {movement:.3g}, largest difference {difference:.3g}"
    )
    allowed = max(tolerance, bound / movement)
    word = "passed" if share <= allowed else "FAILED"
    print(f"check     {share:.2g} of the movement, tolerance {allowed:.2g}: {word}")
    return share <= allowed


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
