#!/usr/bin/env python3
"""Time one federated job in several ways on the same machine, model, texts, row lists and settings, in turns.

    peft          flower/tools/peft_baseline: a Flower app with PyTorch and PEFT, one client a SuperNode
    peft-sliced   the same with each batch cut into four slices of like length; only where --sides names it
    flower-each   Bonfire's Flower app, one client a SuperNode
    flower-one    Bonfire's Flower app, all clients on one SuperNode
    train         bonfire train, without Flower

    python3 flower/tools/times.py --model DIR --data DIR --peft-python PYTHON --flower-python PYTHON \\
      --bonfire target/release/bonfire

--peft-python has what flower/tools/peft_baseline needs, --flower-python flwr[simulation], numpy and the bonfire
wheel. Flower runs in its simulation engine, on a SuperLink of this script's own that is up before the clock
starts. The job: FedIT, rank 8 on query and value, head trained, one epoch a round, batches of 32, in f32 on
the CPU (without a GPU in the machine: Bonfire's app would take it). `s a round` is on the server's clock,
from the first message to the averaged model: the median of the rounds but the first, which has the start-up
in it, and the last, which has the only evaluation. `job` is from the command to its end. Needs Python's
standard library alone.
"""

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/banking77.toml"  # the job, but for what `write_job` sets
SIDES = ["peft", "peft-sliced", "flower-each", "flower-one", "train"]
Reading = dict[str, Any]  # "rounds", "job": seconds; "accuracy": a share
# The environments are complete, and nothing leaves this machine.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the SuperLink goes too
    options = {key: str(value) for key, value in vars(args).items()}
    turns: list[Reading] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        args.work = Path(folder)
        args.rows_file, args.toml = write_job(args)
        for turn in range(1, args.turns + 1):
            for side in args.sides:
                reading = measure(args, side, args.work / f"{side}-{turn}")
                print(f"turn {turn}  {side:<12} {told(reading)}", file=sys.stderr, flush=True)
                turns.append({"turn": turn, "side": side, **reading})
    rows = [summary(side, [turn for turn in turns if turn["side"] == side]) for side in args.sides]
    print(table(rows))
    if args.json:
        job = {"clients": args.clients, "examples": args.examples}
        result = {"rows": rows, "turns": turns, **job, "options": options}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--model", required=True, type=Path, help="a Hugging Face folder of an encoder")
    option("--data", required=True, type=Path, help="train.jsonl and test.jsonl, with labels as numbers")
    option("--peft-python", help="an interpreter with flwr, torch, transformers and peft")
    option("--flower-python", help="an interpreter with flwr and bonfire")
    option("--bonfire", default="target/release/bonfire", type=Path, help="the binary")
    option("--partition", type=Path, help="row lists as JSON; else drawn, Dirichlet 0.1")
    option("--rows", type=int, help="at most so many rows a client, drawn from its list; else all")
    sides = [side for side in SIDES if side != "peft-sliced"]
    option("--sides", type=lambda text: text.split(","), default=sides, help=f"of {','.join(SIDES)}")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    option("--threads", type=int, default=threads, help="of a side, all its processes together")
    option("--peft-actors", type=int, default=2, help="Ray actors that share --threads on the sides of PEFT")
    option("--flower-actors", type=int, default=1, help="Ray actors that share --threads in flower-each")
    option("--timeout", type=int, default=1800, help="seconds that a job may take")
    for name, default in [("rounds", 4), ("turns", 1), ("seed", 0)]:
        option("--" + name, type=int, default=default)
    option("--json", type=Path, help="also write every reading here")
    args = parser.parse_args()
    check(parser, args)
    args.load = os.getloadavg()[0]
    return args


def check(parser: ArgumentParser, args: Namespace) -> None:
    if unknown := [side for side in args.sides if side not in SIDES]:
        parser.error(f"--sides {','.join(unknown)}: known are {','.join(SIDES)}")
    if args.rounds < 3:
        parser.error(f"--rounds {args.rounds}: at least 3, as the first and the last are not counted")
    for kind, python in [("peft", args.peft_python), ("flower", args.flower_python)]:
        needed = any(side.startswith(kind) for side in args.sides)
        if needed and not (python and (Path(python).parent / "flower-superlink").exists()):
            parser.error(f"--{kind}-python {python}: --sides {kind}… needs a Python beside flwr's commands")
    for path in [args.model, args.data, args.bonfire, args.partition]:
        if path and not path.exists():
            parser.error(f"{path} is not there")


def write_job(args: Namespace) -> tuple[Path, Path]:
    """The row lists, and Bonfire's configuration of the job with every key resolved."""
    rows, toml = args.work / "rows.json", args.work / "job.toml"
    own = {"model.path": quoted(args.model), "data.path": quoted(args.data), "train.seed": args.seed}
    lists = args.partition or rows
    if not args.partition:
        finish([args.bonfire, "partition", CONFIG, "--quiet", "--no-svg", "--json", rows, *set_keys(own)])
    clients, rng = json.loads(lists.read_text(encoding="utf-8")), random.Random(args.seed)
    if args.rows:
        clients = [rng.sample(client, min(args.rows, len(client))) for client in clients]
    rows.write_text(json.dumps(clients), encoding="utf-8")
    args.clients, args.examples = len(clients), sum(map(len, clients))
    job = {
        "clients.count": args.clients,
        "clients.budget": '"full"',
        "strategy.name": '"fedit"',
        "adapter.targets": '["query","value"]',
        "data.partition": f'{{kind="file",path={quoted(rows)}}}',
        "train.lr_b": 1e-3,
        "train.rounds": args.rounds,
        "evaluate.every": args.rounds,
        "engine.device": '"cpu"',
    }
    resolved = finish([args.bonfire, "config", CONFIG, "--quiet", *set_keys(own | job)])
    toml.write_text(resolved, encoding="utf-8")
    return rows, toml


def set_keys(keys: dict[str, object]) -> list[str]:
    return [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]


def quoted(path: Path) -> str:
    return json.dumps(str(Path(path).resolve()))


def measure(args: Namespace, side: str, out: Path) -> Reading:
    """Seconds of each round and of the job, and the accuracy after the last round."""
    if side == "train":
        return train(args, out)
    if side.startswith("peft"):
        config = peft_config(args, out, slices=4 if side == "peft-sliced" else 1)
        job = flower(
            args, args.peft_python, "flower/tools/peft_baseline", config, args.clients, args.peft_actors, out
        )
        return {"job": job, **read(args, out / "rounds.jsonl")}
    supernodes, actors = (1, 1) if side == "flower-one" else (args.clients, args.flower_actors)
    config = {"config": str(args.toml), "out": str(out), "min-nodes": supernodes}
    job = flower(args, args.flower_python, "flower", config, supernodes, actors, out)
    return {"job": job, **read(args, out / "metrics.jsonl")}


def peft_config(args: Namespace, out: Path, slices: int) -> dict[str, object]:
    """The settings of Bonfire's configuration, by the names of the PEFT app."""
    job = tomllib.loads(args.toml.read_text(encoding="utf-8"))
    train, adapter = job["train"], job["adapter"]
    return {
        "model": str(args.model.resolve()),
        "data": str(args.data.resolve()),
        "partition": str(args.rows_file),
        "out": str(out),
        "clients": args.clients,
        "rank": adapter["rank"],
        "alpha": adapter["alpha"],
        "targets": ",".join(adapter["targets"]),
        "max-length": job["data"]["max_length"],
        "batch-size": train["batch_size"],
        "slices": slices,
        "epochs": train["epochs"],
        "rounds": args.rounds,
        "lr-a": train["lr_a"],
        "lr-b": train["lr_b"],
        "lr-head": train["lr_head"],
        "seed": args.seed,
        "threads": max(1, args.threads // args.peft_actors),
        "server-threads": args.threads,
        "evaluate-every": args.rounds,
    }


def flower(
    args: Namespace, python: str, app: str, config: dict[str, object], supernodes: int, actors: int, out: Path
) -> float:
    """Seconds that `flwr run` takes, to the end of the run."""
    out.mkdir(parents=True)
    run_config = out / "run-config.toml"
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in config.items())
    run_config.write_text("".join(lines), encoding="utf-8")
    cores = max(1, args.threads // actors)
    engine = {
        "num-supernodes": supernodes,
        "client-resources-num-cpus": cores,
        "client-resources-num-gpus": 0.0,
        "init-args-num-cpus": args.threads,
    }
    options = " ".join(f"{key}={value}" for key, value in engine.items())
    commands = Path(python).parent
    with superlink(commands, out, cores) as environment:
        start = time.perf_counter()
        command = [commands / "flwr", "run", ROOT / app, "timed", "--stream", "--federation-config", options]
        finish([*command, "--run-config", run_config], out / "flwr.log", args.timeout, environment)
        return time.perf_counter() - start


@contextmanager
def superlink(commands: Path, out: Path, threads: int) -> Iterator[dict[str, str]]:
    """A SuperLink with the simulation engine on a free port; the environment in which `flwr` finds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = out / "flwr-home"
    home.mkdir()
    connection = f'[superlink.timed]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection, encoding="utf-8")
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(home), "RAYON_NUM_THREADS": str(threads)}
    environment["PATH"] = f"{commands}{os.pathsep}{os.environ['PATH']}"
    command = [
        commands / "flower-superlink",
        "--insecure",
        "--simulation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (out / "superlink.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        wait_for(process, port, out / "superlink.log")
        yield environment
    finally:
        stop(process)


def wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    """Until the SuperLink answers."""
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    sys.exit(f"the SuperLink did not start:\n{end_of(log)}")


def stop(process: subprocess.Popen) -> None:
    """The SuperLink and all that came of it: the simulation of a run that was cut would outlive it."""
    pids = [process.pid, *children(process.pid)]
    for sign in [signal.SIGTERM, signal.SIGKILL]:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
            return


def children(pid: int) -> list[int]:
    """The processes below this one, of whatever session."""
    parents = [tuple(map(int, line.split())) for line in finish(["ps", "-eo", "pid=,ppid="]).splitlines()]
    found = [pid]
    for above in found:
        found += [child for child, parent in parents if parent == above]
    return found[1:]


def train(args: Namespace, out: Path) -> Reading:
    command = [args.bonfire, "train", args.toml, "--quiet", "--out", out]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    start = time.perf_counter()
    finish(command, args.work / f"{out.name}.log", args.timeout, environment)
    return {"job": time.perf_counter() - start} | read(args, out / "metrics.jsonl")


def read(args: Namespace, file: Path) -> Reading:
    """Of a file with a row a round: all sides have the same names in it."""
    rows = records(args, file)
    return {"rounds": [row["seconds"] for row in rows], "accuracy": rows[-1]["test_accuracy"]}


def records(args: Namespace, file: Path) -> list[dict]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    # The untrained model, round 0, stands first where it was evaluated.
    rows = [row for row in map(json.loads, lines) if row["round"] > 0]
    if len(rows) != args.rounds:
        log = file.parent / "flwr.log"
        sys.exit(f"{file} has {len(rows)} of {args.rounds} rounds:\n{end_of(log) if log.exists() else ''}")
    return rows


def finish(
    command: Sequence[str | Path],
    log: Path | None = None,
    timeout: int = 600,
    environment: dict | None = None,
) -> str:
    """What the command printed, which also goes to the log; leaves with its last lines where it fails."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"{' '.join(command)}\nhad not ended after {timeout} seconds")
    if log:
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def end_of(file: Path, lines: int = 30) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def summary(side: str, turns: list[Reading]) -> Reading:
    """Medians over the turns; of the rounds, over all that count."""
    return {
        "side": side,
        "round": statistics.median(second for turn in turns for second in turn["rounds"][1:-1]),
        "job": statistics.median(turn["job"] for turn in turns),
        "accuracy": [turn["accuracy"] for turn in turns],
    }


def told(turn: Reading) -> str:
    rounds = " ".join(f"{seconds:.1f}" for seconds in turn["rounds"])
    return f"rounds {rounds} s   job {turn['job']:.1f} s   accuracy {100 * turn['accuracy']:.2f}%"


def table(rows: list[Reading]) -> str:
    """A ratio above 1 says how many times faster than peft."""
    lines = ["| | s a round | | job, s | | accuracy, % |", "|---|---|---|---|---|---|"]
    base = next((row for row in rows if row["side"] == "peft"), None)
    for row in rows:
        cells = [row["side"]]
        for key in ["round", "job"]:
            cells += [f"{row[key]:.1f}", f"{base[key] / row[key]:.2f} ×" if base else ""]
        accuracy = ", ".join(f"{100 * value:.2f}" for value in row["accuracy"])
        lines.append("| " + " | ".join([*cells, accuracy]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
