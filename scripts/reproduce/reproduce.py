"""Runs the grid of the reproduction in the background, cell by cell, at the lowest priority.

    python scripts/reproduce/reproduce.py start --model MINILM --banking77 DIR [--20news DIR] [--bonfire target/release/bonfire]
    python scripts/reproduce/reproduce.py status | pause | go | stop
    python scripts/reproduce/reproduce.py tables           # docs/reproduction/cells → tables and pictures
    python scripts/reproduce/reproduce.py check            # a small cell, killed twice and gone on with, is that of one go

`start` freezes a copy of the binary, with its version and commit, and goes on where an earlier start stopped: a cell that was
cut resumes after its last round, a finished one is not run again. Finished cells lie in docs/reproduction/cells, one small
file each. Any machine can run any cell: `--only` names some.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import grid

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CELLS = ROOT / "docs/reproduction/cells"
# Training rows of BANKING77 that are drawn for each intent: 4,004 in all, of which the short lines have the half.
ROWS_AN_INTENT = {"banking77": 52, "banking77-small": 26}
# What a run that a signal ended before its last round ends with.
STOPPED = (129, 130, 143)


def room_folder() -> Path:
    """Where runs, the frozen binary and drawn data lie."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "bonfire" / "reproduction"


def finished() -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))}


def write(path: Path, value: object) -> None:
    """Beside, then renamed: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    beside.replace(path)


def freeze(binary: Path, room: Path, commit: str | None) -> Path:
    """The copy that runs every cell, and what it is; one that is there stays, so that all cells are of one program."""
    frozen = room / "bonfire"
    if frozen.exists():
        return frozen
    if not binary.exists():
        sys.exit(f"error: no program at {binary}; build it (cargo build --release) or name it with --bonfire")
    room.mkdir(parents=True, exist_ok=True)
    if commit is None:
        state = subprocess.run(["git", "-C", ROOT, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        head = ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
        commit += "+changes" if state.strip() else ""
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    shutil.copy2(binary, frozen)
    write(room / "program.json", {"version": version, "commit": commit})
    return frozen


def draw_banking77(source: Path, target: Path, rows_an_intent: int) -> None:
    """So many rows of every intent, drawn once; the whole test split."""
    if (target / "train.jsonl").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    by_label = defaultdict(list)
    rows = (source / "train.jsonl").read_text().splitlines()
    for at, row in enumerate(rows):
        by_label[json.loads(row)["label"]].append(at)
    draw = random.Random(77)
    # An intent with fewer gives all it has.
    kept = sorted(at for _, own in sorted(by_label.items()) for at in draw.sample(own, min(rows_an_intent, len(own))))
    for name in ("test.jsonl", "labels.json"):
        if (source / name).exists():
            shutil.copy2(source / name, target / name)
    (target / "train.jsonl").write_text("\n".join(rows[at] for at in kept) + "\n")


def command(cell: grid.Cell, run: Path, options: dict, frozen: Path) -> list[str]:
    """What runs a cell, or goes on with it."""
    if (run / "checkpoints").exists() and any((run / "checkpoints").iterdir()):
        return [str(frozen), "train", "--resume", str(run), "--quiet"]
    shutil.rmtree(run, ignore_errors=True)
    sets = [f"model.path={options['model']}", f"data.path={options[cell.line.data]}", f"name={cell.name}", *cell.settings()]
    texts = [part for text in sets for part in ("--set", text)]
    return [str(frozen), "train", str(HERE / "base.toml"), "--out", str(run), "--quiet", "--device", options["device"], *texts]


def overlap(clients: list[dict]) -> list[float] | None:
    """For each round the mean Jaccard overlap of two clients' chosen slots; `None` where nobody chose."""
    rounds = defaultdict(list)
    for row in clients:
        if "slots" in row:
            rounds[row["round"]].append({(t, slot) for t, slots in enumerate(row["slots"]) for slot in slots})
    means = []
    for _, chosen in sorted(rounds.items()):
        pairs = [(a, b) for i, a in enumerate(chosen) for b in chosen[:i] if a | b]
        means.append(sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs) if pairs else 0.0)
    return means or None


def digest(cell: grid.Cell, run: Path, room: Path) -> dict:
    """What is kept of a finished run."""

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (run / name).read_text().splitlines()]

    # Round 0 is the untrained model, which older programs did not evaluate.
    rounds, clients = [row for row in rows("metrics.jsonl") if row["round"] > 0], rows("clients.jsonl")
    last = max(row["round"] for row in clients)
    of_clients = [row["test_accuracy"] for row in clients if row["round"] == last and "test_accuracy" in row]
    chosen = overlap(clients)
    return {
        "cell": cell.name,
        "line": cell.line.name,
        "method": cell.method.name,
        "settings": cell.settings(),
        "seed": cell.seed,
        "rate": cell.rate,
        "search": cell.search,
        "rounds": cell.rounds,
        "accuracy": [round(row["test_accuracy"], 5) for row in rounds if "test_accuracy" in row],
        "final_accuracy": round(rounds[-1]["test_accuracy"], 5),
        "clients_accuracy": [round(value, 4) for value in of_clients],
        "upload_params": sum(row["upload_params"] for row in rounds),
        "upload_bytes": sum(row["upload_bytes"] for row in rounds),
        "upload_head_params": sum(row.get("upload_head_params", 0) for row in rounds),
        "upload_index_bytes": sum(row.get("upload_index_bytes", 0) for row in rounds),
        "download_bytes": sum(row["download_bytes"] for row in rounds),
        "tokens": sum(row["tokens"] for row in rounds),
        # The machine is shared and the run paused at will: no measure of speed.
        "seconds": round(sum(row["seconds"] for row in rounds)),
        "device": json.loads((run / "summary.json").read_text())["device"],
        "machine": platform.processor() or platform.machine(),
        "slot_overlap": [round(value, 4) for value in chosen] if chosen else None,
        "program": json.loads((room / "program.json").read_text()),
    }


def work(room: Path, only: str | None) -> None:
    """Runs cells until none is left."""
    options = json.loads((room / "options.json").read_text())
    frozen = room / "bonfire"
    failed: set[str] = set()
    while True:
        done = finished()
        wanted = (c for c in grid.order(done) if c.name not in done and c.name not in failed and c.line.data in options)
        cell = next((c for c in wanted if only is None or only in c.name), None)
        if cell is None:
            return
        run = room / "runs" / cell.name
        run.parent.mkdir(parents=True, exist_ok=True)
        with (room / "log.txt").open("a") as log:
            print(f"{time.strftime('%F %T')} {cell.name}", file=log, flush=True)
            code = subprocess.run(command(cell, run, options, frozen), stdout=log, stderr=log, check=False).returncode
            metrics = run / "metrics.jsonl"
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            rounds = sum(json.loads(line)["round"] > 0 for line in lines)
            if code in STOPPED or (code == 0 and rounds < cell.rounds):
                # By a signal, in peace: the next start goes on with it.
                return
            if code != 0:
                # A setting that this program does not have, or a full disk: the next one is tried.
                print(f"{cell.name} ended with {code}", file=log, flush=True)
                failed.add(cell.name)
            else:
                write(CELLS / f"{cell.name}.json", digest(cell, run, room))
                shutil.rmtree(run)


def worker(room: Path) -> int | None:
    """The process group of the worker, if one is there."""
    try:
        pid = int((room / "pid").read_text())
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    return pid


def start(args: argparse.Namespace, room: Path) -> None:
    if (pid := worker(room)) is not None:
        sys.exit(f"error: the grid runs already (process {pid}); `pause`, `go` and `stop` speak to it")
    freeze(args.bonfire, room, args.commit)
    options = {"model": str(args.model.resolve()), "device": args.device}
    if args.banking77:
        for name, rows in ROWS_AN_INTENT.items():
            draw_banking77(args.banking77, room / "data" / name, rows)
            options[name] = str(room / "data" / name)
    if args.news:
        options["20news"] = str(args.news.resolve())
    write(room / "options.json", options)
    lowest = ["chrt", "--idle", "0"] if shutil.which("chrt") else []
    only = ["--only", args.only] if args.only else []
    this = [*lowest, "nice", "-n", "19", sys.executable, __file__, "work", *only]
    with (room / "log.txt").open("a") as log:
        process = subprocess.Popen(this, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    (room / "pid").write_text(str(process.pid))
    print(f"the grid runs in the background (process {process.pid}); its log: {room / 'log.txt'}")


def check(binary: Path) -> None:
    """Runs a small cell of the built-in model in one go, and again killed after its first and its third round: what is kept of
    both must be the same, number by number."""
    line = grid.Line("check", "builtin", 0.1, 1, "trained", ("lora-a2",))
    cell = grid.Cell(line, grid.METHODS["lora-a2"], 0, grid.PAPER_RATE, 5)
    options = {"model": "builtin", "builtin": "builtin", "device": "cpu"}

    def rounds(run: Path) -> int:
        metrics = run / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        # Not read as JSON: the last line may be on its way.
        return sum('"round":0,' not in line for line in lines)

    def ran(run: Path, room: Path, kills: tuple[int, ...]) -> dict:
        for after in kills:
            process = subprocess.Popen(command(cell, run, options, binary), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and rounds(run) < after:
                time.sleep(0.05)
            process.kill()
            process.wait()
            if not after <= rounds(run) < cell.rounds:
                sys.exit(f"error: the run was to be killed after round {after}, and it has {rounds(run)} rounds")
        subprocess.run(command(cell, run, options, binary), check=True, stdout=subprocess.DEVNULL)
        kept = digest(cell, run, room)
        del kept["seconds"]
        return kept

    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        write(room / "program.json", {})
        whole, cut = ran(room / "whole", room, ()), ran(room / "cut", room, (1, 3))
    different = [key for key in whole if whole[key] != cut[key]]
    if different:
        sys.exit(f"error: a cell that was cut differs from one of one go in {', '.join(different)}")
    print(f"the same in one go and killed twice: {len(whole)} fields, accuracy by round {whole['accuracy']}")


def tell(room: Path, what: signal.Signals) -> None:
    pid = worker(room)
    if pid is None:
        sys.exit("error: the grid does not run; `start` starts it")
    os.killpg(pid, what)


def status(room: Path) -> None:
    done = finished()
    cells = grid.order(done)
    print(f"{len(done)} cells are finished; {sum(c.name not in done for c in cells)} more are known")
    print("running" if worker(room) is not None else "not running")
    log = room / "log.txt"
    if log.exists():
        print("\n".join(log.read_text().splitlines()[-3:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    begin = commands.add_parser("start", help="run the grid in the background, or go on with it")
    begin.add_argument("--model", type=Path, required=True, help="an encoder in RoBERTa layout")
    begin.add_argument("--banking77", type=Path, help="a folder with train.jsonl and test.jsonl")
    begin.add_argument("--20news", dest="news", type=Path, help="the same of 20 Newsgroups")
    begin.add_argument("--bonfire", type=Path, default=ROOT / "target/release/bonfire")
    begin.add_argument("--commit", help="what the program was built from [default: this checkout's commit]")
    begin.add_argument("--device", default="cpu")
    begin.add_argument("--only", help="cells whose name has this text")
    inner = commands.add_parser("work", help="run the grid here, in the foreground")
    inner.add_argument("--only")
    for name, text in (("status", "how far it is"), ("pause", "halt it where it is"), ("go", "go on after a pause")):
        commands.add_parser(name, help=text)
    commands.add_parser("stop", help="end it; `start` goes on after the last round")
    commands.add_parser("tables", help="tables and pictures of what is finished")
    proof = commands.add_parser("check", help="whether a cell that is cut ends as one of one go")
    proof.add_argument("--bonfire", type=Path, default=ROOT / "target/release/bonfire")
    args = parser.parse_args()
    room = room_folder()
    match args.command:
        case "start":
            start(args, room)
        case "work":
            work(room, args.only)
        case "status":
            status(room)
        case "pause":
            tell(room, signal.SIGSTOP)
        case "go":
            tell(room, signal.SIGCONT)
        case "stop":
            tell(room, signal.SIGTERM)
        case "check":
            check(args.bonfire)
        case "tables":
            import tables

            tables.rebuild(finished(), ROOT / "docs/reproduction")


if __name__ == "__main__":
    main()
