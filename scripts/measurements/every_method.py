"""Every method at equal bytes, on a small real set: runs them with `bonfire sweep` and makes one table.

    python scripts/measurements/every_method.py run --model DIR --data DIR --bonfire PROGRAM --out DIR --seeds 0
    python scripts/measurements/every_method.py table DIR [DIR …]
    python scripts/measurements/every_method.py attacked --model DIR --data DIR --bonfire PROGRAM --out DIR --seeds 0
    python scripts/measurements/every_method.py attacked-table DIR [DIR …]

`run` goes on where it stopped: complete cells are never run again. `table` takes the folders of one or more runs, so that seeds
may come from several machines. `attacked` runs two methods under every robust rule, once with honest clients and once with a
fifth that train on flipped labels; of twelve clients, since Bulyan asks for eleven where two may mean harm.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "configs/every-method.toml"

# At these ranks uploads of a run are as long as FedIT's at rank 4 with the trained head, about 103 MB (`bonfire cost`); the scale
# alpha/rank is 2 for all. What cannot be cut as finely comes nearest: `fedask` 129 MB, `fedlada` 126, `fed-sb` 113.
RANKS = {
    "fedit": 4,
    "ffa-lora": 8,
    "rolora": 8,
    "flexlora": 4,
    "flora": 4,
    "florist": 4,
    "raflora": 4,
    "hetlora": 4,
    "replication": 4,
    "fedex-lora": 4,
    "lora-fair": 4,
    "fedsa-lora": 16,
    "fedrot-lora": 4,
    "la-lora": 4,
    "fedask": 2,
    "fedsvd": 8,
    "fed-sb": 32,
    "sa-fedlora": 6,
    "sora": 4,
    "xgblora": 11,
    "fedpeptao": 7,
    "fedlada": 1,
    "dfl": 8,
    "clustered": 4,
    "local": 4,
    "pooled": 4,
}
# These choose among sixteen slots.
BUDGETS = {"lora-a2": 8, "fslora": 4, "fed-plora": 4}
# What the server makes of uploads of which two may mean harm.
RULES = {
    "mean": '{ name = "mean" }',
    "median": '{ name = "median" }',
    "trimmed mean": '{ name = "trimmed-mean", trim = 0.2 }',
    "Krum": '{ name = "krum", attackers = 2 }',
    "Multi-Krum": '{ name = "multi-krum", attackers = 2 }',
    "Bulyan": '{ name = "bulyan", attackers = 2 }',
    "clipped norms": '{ name = "norm-clip" }',
}
ATTACKED = {"fedit": "adapter.rank=4:adapter.alpha=8", "lora-a2": "clients.budget=8"}
# What differences are taken from.
BESIDE = "fedit"
FLIPPED = '{ kind = "label-flip", share = 0.2 }'


def variants() -> list[str]:
    chosen = [f"{name}:clients.budget={budget}" for name, budget in BUDGETS.items()]
    return chosen + [f"{name}:adapter.rank={rank}:adapter.alpha={2 * rank}" for name, rank in RANKS.items()]


def sweep(args: argparse.Namespace, names: list[str], out: Path, *settings: str) -> int:
    command = [args.bonfire, "sweep", CONFIG, "--side-by-side", "1", "--out", out]
    command += ["--seeds", args.seeds, "--alphas", args.alphas]
    command += ["--strategies", ",".join(names), "--device", args.device]
    for setting in (f"model.path={args.model}", f"data.path={args.data}", *settings):
        command += ["--set", setting]
    return subprocess.run([str(part) for part in command], check=False).returncode


def run(args: argparse.Namespace) -> None:
    names = [v for v in variants() if args.only is None or v.split(":")[0] in args.only]
    sys.exit(sweep(args, names, args.out))


def attacked(args: argparse.Namespace) -> None:
    names = [f"{method}:{keys}:server.aggregate={rule}" for rule in RULES.values() for method, keys in ATTACKED.items()]
    for folder, attack in (("clean", []), ("flipped", [f"attack={FLIPPED}"])):
        if code := sweep(args, names, args.out / folder, "clients.count=12", *attack):
            sys.exit(code)


def attacked_table(args: argparse.Namespace) -> None:
    of = defaultdict(list)
    for folder in args.folders:
        for kind in ("clean", "flipped"):
            for cell in cells(folder / kind):
                of[kind, cell["text"].replace(" ", "")].append(cell)
    kinds = [f"`{method}`, {kind}" for method in ATTACKED for kind in ("clean", "a fifth flipped")]
    print("| the server takes | " + " | ".join(kinds) + " |")
    print("|---|" + "---:|" * len(kinds))
    for rule, value in RULES.items():
        line = [rule]
        for method, keys in ATTACKED.items():
            text = f"{method}:{keys}:server.aggregate={value}".replace(" ", "")
            line += [shown([cell["accuracy"] for cell in of[kind, text]]) for kind in ("clean", "flipped")]
        print("| " + " | ".join(line) + " |")
    print(f"\n{sum(map(len, of.values()))} runs")


def cells(folder: Path) -> list[dict]:
    """What a table needs of the complete runs in a folder."""
    found = []
    for cell in json.loads((folder / "compare.json").read_text())["cells"]:
        if cell["status"] != "done":
            continue
        last = json.loads((folder / cell["run"] / "metrics.jsonl").read_text().splitlines()[-1])
        clients = last.get("client_accuracy") or {}
        own = last.get("personal_accuracy")
        found.append(
            {
                "method": cell["strategy"],
                "text": cell["variant"],
                "rank": cell["rank"],
                "alpha": cell["alpha"],
                "seed": cell["seed"],
                "up": cell["upload_bytes"] / 1e6,
                "down": cell["download_bytes"] / 1e6,
                "accuracy": last.get("test_accuracy"),
                "clients": clients.get("mean", own),
                "worst": clients.get("worst_decile"),
            }
        )
    return found


def shown(values: list[float | None]) -> str:
    """Mean and sample deviation in percent."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.1f}"
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def table(args: argparse.Namespace) -> None:
    found = [cell for folder in args.folders for cell in cells(folder)]
    of = defaultdict(list)
    for cell in found:
        of[cell["method"], cell["alpha"]].append(cell)
    alphas = sorted({cell["alpha"] for cell in found}, reverse=True)
    methods = list(dict.fromkeys(cell["method"] for cell in found))

    def first(method: str) -> float:
        values = [cell["accuracy"] or 0.0 for cell in of[method, alphas[0]]]
        return -statistics.mean(values) if values else 0.0

    heads = [f"α {alpha}: {what}" for alpha in alphas for what in ("global", "clients", "worst tenth")]
    print("| method | rank | MB up | MB down | " + " | ".join(heads) + " |")
    print("|---|---:|---:|---:|" + "---:|" * len(heads))
    for method in sorted(methods, key=first):
        rows = [cell for alpha in alphas for cell in of[method, alpha]]
        up, down = (statistics.mean(row[way] for row in rows) for way in ("up", "down"))
        line = [f"`{method}`", str(rows[0]["rank"]), f"{up:.0f}", f"{down:.0f}"]
        for alpha in alphas:
            for what in ("accuracy", "clients", "worst"):
                line.append(shown([cell[what] for cell in of[method, alpha]]))
        print("| " + " | ".join(line) + " |")
    seeds = sorted({cell["seed"] for cell in found})
    differences(found, methods, alphas, seeds)
    print(f"\n{len(found)} runs, seeds {', '.join(map(str, seeds))}")


def differences(found: list[dict], methods: list[str], alphas: list[float], seeds: list[int]) -> None:
    """Points of the global model's accuracy above `BESIDE` on the same partition, seed by seed, and their means."""
    of = {(cell["method"], cell["alpha"], cell["seed"]): cell["accuracy"] for cell in found}
    rows = {}
    for method in methods:
        parts = []
        for alpha in alphas:
            pairs = [(of.get((method, alpha, seed)), of.get((BESIDE, alpha, seed))) for seed in seeds]
            parts.append([100 * (own - other) for own, other in pairs if own is not None and other is not None])
        if method != BESIDE and all(parts):
            rows[method] = parts
    heads = [head for alpha in alphas for head in (f"α {alpha}, seeds {', '.join(map(str, seeds))}", "mean")]
    print("\n| method | " + " | ".join(heads) + " |")
    print("|---|" + "---|---:|" * len(alphas))
    for method, parts in sorted(rows.items(), key=lambda row: -statistics.mean(row[1][-1])):
        texts = [t for part in parts for t in (", ".join(map(signed, part)), signed(statistics.mean(part)))]
        print(f"| `{method}` | " + " | ".join(texts) + " |")


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_subparsers(dest="way", required=True)
    for way, alphas, text in (
        ("run", "0.1,0.01", "train what is missing"),
        ("attacked", "0.1", "the same of robust rules, with attackers and without"),
    ):
        runs = ways.add_parser(way, help=text)
        runs.add_argument("--model", type=Path, required=True, help="folder of the encoder")
        runs.add_argument("--data", type=Path, required=True, help="folder of BANKING77")
        runs.add_argument("--bonfire", type=Path, default=Path("target/release/bonfire"))
        runs.add_argument("--out", type=Path, required=True, help="folder of the runs")
        runs.add_argument("--seeds", default="0,1,2")
        runs.add_argument("--alphas", default=alphas)
        runs.add_argument("--device", default="cpu")
        if way == "run":
            runs.add_argument("--only", nargs="*", help="these methods alone")
    for way in ("table", "attacked-table"):
        tables = ways.add_parser(way, help="one table of what is complete")
        tables.add_argument("folders", type=Path, nargs="+")
    args = parser.parse_args()
    {"run": run, "table": table, "attacked": attacked, "attacked-table": attacked_table}[args.way](args)


if __name__ == "__main__":
    main()
