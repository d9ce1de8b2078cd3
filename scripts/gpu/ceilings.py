#!/usr/bin/env python3
"""What a CUDA card does at most, by PyTorch: large square products and a copy, as one JSON object."""

import json
import statistics
import sys

import torch

SIDE = 8192
COPIED = 1 << 30


def seconds(work, repeats=10):
    """The median time of `work` on the device, by its own clock, after a warm-up."""
    times = []
    for turn in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if turn >= 3:
            times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def product(precision):
    """TFLOP/s of a product of random numbers: zeros can run faster than real ones."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, y = (torch.randn(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * SIDE**3 / seconds(lambda: x @ y) / 1e12


def main():
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device")
    source = torch.randint(0, 255, (COPIED,), device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    found = {
        "torch": torch.__version__,
        "card": torch.cuda.get_device_name(),
        "side": SIDE,
        "tflops": {precision: product(precision) for precision in ("bf16", "tf32", "f32")},
        "copy_gigabytes_per_second": 2 * COPIED / seconds(lambda: target.copy_(source)) / 1e9,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
