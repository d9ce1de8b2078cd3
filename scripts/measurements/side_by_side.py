#!/usr/bin/env python3
"""Measure Bonfire and a PyTorch peer on the same machine, model, texts and settings, in turns: A B A B …

    python3 scripts/measurements/side_by_side.py --peer PEER.py --peer-python PYTHON --model DIR --data DIR \\
      --bonfire target/release/bonfire

PEER.py is a script with the command line

    PEER.py speed --model DIR --data DIR --method fedit --targets all|qv --rank N --alpha N --head trained|frozen
            --clients N --batch N --steps N --max-len N --seed N --reps N --threads N --device D --dtype f32|bf16

that trains the clients one after another and prints its real tokens a second last. It is taken to hand client c the rows
`numpy.random.default_rng(seed).permutation(n)[c * batch * steps:][:batch * steps]`; Bonfire is given the same rows. Both
sides run once for nothing and give the best of `--reps` readings; the turns guard against what else the machine does.
Needs Python's standard library; the peer's interpreter needs numpy and what the peer needs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHARED = ["targets", "rank", "alpha", "head", "clients", "batch", "steps", "seed"]


def main():
    args = arguments()
    for path in [args.bonfire, args.peer, args.model, args.data]:
        if not Path(path).exists():
            sys.exit(f"{path} is not there")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        rows.write_text(json.dumps(deal(args)), encoding="utf-8")
        readings = {}
        for turn in range(1, args.turns + 1):
            take(readings, turn, {"peer": peer(args)})
            take(readings, turn, bonfire(args, rows, Path(folder) / "bench.json"))
    medians = {side: statistics.median(values) for side, values in readings.items()}
    for side, median in medians.items():
        ratio = "" if side == "peer" else f"   {median / medians['peer']:.2f} times the peer"
        print(f"median  {side:<16} {median:10.1f} tokens/s{ratio}")
    if args.json:
        result = {"readings": readings, "medians": medians, "options": {k: str(v) for k, v in vars(args).items()}}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, type=Path, help="the peer's script")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has what the peer needs")
    parser.add_argument("--peer-device", default="cpu", help="the peer's --device")
    parser.add_argument("--peer-dtype", default="f32", help="the peer's --dtype")
    parser.add_argument("--peer-extra", default="", help="more options for the peer, as one text")
    parser.add_argument("--bonfire", default="target/release/bonfire", help="the binary")
    parser.add_argument("--device", default="cpu", help="Bonfire's --device")
    parser.add_argument("--ways", default="auto", help="Bonfire's --ways: all-in-flight,auto,one-in-flight,burn-apply-lora")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--targets", choices=["all", "qv"], default="all")
    parser.add_argument("--head", choices=["trained", "frozen"], default="trained")
    for name, default in [("rank", 8), ("clients", 10), ("batch", 32), ("steps", 4), ("max-length", 64), ("seed", 0)]:
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--alpha", type=float, default=16)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=int, default=threads, help="for both sides, on the CPU")
    parser.add_argument("--reps", type=int, default=3, help="readings a turn, the best of which counts")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every reading here")
    return parser.parse_args()


def deal(args):
    """Each client's rows as the peer draws them; numpy lives in the peer's interpreter."""
    with (args.data / "train.jsonl").open(encoding="utf-8") as file:
        count = sum(1 for line in file if line.strip())
    size = args.batch * args.steps
    if count < size * args.clients:
        sys.exit(f"{args.data} has {count} training rows; clients x batch x steps are {size * args.clients}")
    code = f"import json, numpy; print(json.dumps(numpy.random.default_rng({args.seed}).permutation({count}).tolist()))"
    order = json.loads(run([args.peer_python, "-c", code]))
    return [order[c * size : (c + 1) * size] for c in range(args.clients)]


def take(readings, turn, found):
    for side, rate in found.items():
        print(f"turn {turn}  {side:<16} {rate:10.1f} tokens/s", flush=True)
        readings.setdefault(side, []).append(rate)


def shared(args):
    """Options that both sides spell alike."""
    return [text for name in SHARED for text in ("--" + name, str(getattr(args, name)))]


def peer(args):
    command = [args.peer_python, str(args.peer), "speed", "--model", str(args.model), "--data", str(args.data)]
    command += ["--method", "fedit", *shared(args), "--max-len", str(args.max_length), "--reps", str(args.reps)]
    command += ["--threads", str(args.threads), "--device", args.peer_device, "--dtype", args.peer_dtype]
    return float(run(command + args.peer_extra.split()).split()[-1])


def bonfire(args, rows, result):
    command = [args.bonfire, "bench", "step", "--quiet", "--device", args.device, "--shape", str(args.model)]
    command += ["--data", str(args.data), "--rows", str(rows), "--strategy", "fedit", *shared(args)]
    command += ["--max-length", str(args.max_length), "--repeats", str(args.reps), "--ways", args.ways, "--json", str(result)]
    run(command, RAYON_NUM_THREADS=str(args.threads))
    report = json.loads(result.read_text(encoding="utf-8"))
    return {row["id"]: row["tokens_per_second"] for row in report["devices"][0]["step"]["rows"]}


def run(command, **environment):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
