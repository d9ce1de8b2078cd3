#!/usr/bin/env python3
"""Run the Flower app over real processes on this machine: a SuperLink, SuperNodes, TLS and node
authentication.

    python3 flower/tools/checks/loopback.py --nodes 4 --clients-per-node 3,3,2,2 --out RUN
    python3 flower/tools/checks/loopback.py --kill 1@2 --start 1@3 --out RUN   # a site dies, another comes
    python3 flower/tools/checks/loopback.py --simulation --out RUN             # in Flower's simulation engine
    python3 flower/tools/checks/loopback.py --stop 2 --out RUN                 # and then --resume --out RUN
    python3 flower/tools/checks/loopback.py --check --override engine.in_flight=1 --out RUN    # as `bonfire.train`
    python3 flower/tools/checks/loopback.py --secure-aggregation --override strategy.name=fedit --override clients.budget=full \\
        --override train.rounds=1 --override engine.in_flight=1 --check --out RUN              # as it, to the quantisation

Needs a Python with flwr and bonfire, for the simulation flwr[simulation]. Everything listens on 127.0.0.1, on
ports that are free, and is killed at the end, whatever happened. The exit code is 0 if the run ended with all
its rounds (and the check passed), else 1.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import check
from federation import Failed, Federation

POLL = 0.2


def main() -> None:
    args = arguments()
    out = args.out.resolve()
    secure = not (args.insecure or args.simulation)
    with (
        tempfile.TemporaryDirectory(prefix="bonfire-flower-") as temporary,
        Federation(Path(temporary), secure, args.simulation) as federation,
    ):
        try:
            run(federation, args, out)
        except Failed as error:
            say(f"failed: {error}")
            for name in ["superlink", *(f"node-{i}" for i in range(args.nodes))]:
                say(f"the end of {name}'s log:\n{federation.log(name)[-1500:]}")
            sys.exit(1)
    if args.check and not check.compare(out, args.tolerance, quantisation(args)):
        sys.exit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=4, help="SuperNodes, or virtual ones in the simulation")
    parser.add_argument(
        "--clients", type=int, default=10, help="clients of the federation, as the configuration has it"
    )
    parser.add_argument(
        "--clients-per-node", help="how many each node holds, such as 3,3,2,2 (default: as even as can be)"
    )
    parser.add_argument("--config", default="", help="a Bonfire TOML (default: the built-in quickstart)")
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="may be repeated"
    )
    add_app_options(parser)
    parser.add_argument("--evaluate", default="server", choices=["server", "sites", "none"])
    parser.add_argument("--kill", action="append", default=[], type=moment, metavar="NODE@ROUND")
    parser.add_argument("--start", action="append", default=[], type=moment, metavar="NODE@ROUND")
    parser.add_argument(
        "--same-key", action="store_true", help="--start brings a dead node back, in place of a new one"
    )
    parser.add_argument(
        "--stop", type=int, metavar="ROUND", help="kill everything after this round; --resume goes on"
    )
    parser.add_argument("--min-nodes", type=int, help="default: all, or one less for each that is killed")
    parser.add_argument("--round-timeout", type=float, default=300.0, help="seconds")
    parser.add_argument("--insecure", action="store_true", help="neither TLS nor node authentication")
    parser.add_argument(
        "--simulation", action="store_true", help="Flower's simulation engine in place of SuperNodes"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--check", action="store_true", help="compare the adapter with `bonfire.train`'s")
    parser.add_argument("--tolerance", type=float, default=check.TOLERANCE)
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    return parser.parse_args()


def add_app_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--secure-aggregation", action="store_true", help="the server sees sums alone")
    parser.add_argument("--clipping-range", type=float, help="of the secure sum (default: the app's)")
    parser.add_argument("--quantization-range", type=int, help="of the secure sum (default: the app's)")


def app_options(args: argparse.Namespace) -> dict[str, float | bool]:
    """What the run configuration has of them."""
    ranges = {"clipping-range": args.clipping_range, "quantization-range": args.quantization_range}
    return {"secure-aggregation": args.secure_aggregation} | {
        key: value for key, value in ranges.items() if value is not None
    }


def quantisation(args: argparse.Namespace) -> float:
    """How far a number of the adapter can be off after one round of secure sums: each node rounds by less than a step, and its weight by
    what comes to half of one; the node of most examples has the weight 1, and all that the others have makes it less."""
    if not args.secure_aggregation:
        return 0.0
    clip, steps = args.clipping_range or 8.0, args.quantization_range or 1 << 22
    return 1.5 * args.nodes * 2 * clip / steps


def moment(text: str) -> tuple[int, int]:
    """NODE@ROUND"""
    node, _, round = text.partition("@")
    if not (node.isdecimal() and round.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not of the form NODE@ROUND, such as 1@2")
    return int(node), int(round)


def run(federation: Federation, args: argparse.Namespace, out: Path) -> None:
    deadline = time.monotonic() + args.timeout
    shares = client_shares(args)
    federation.start_superlink()
    say(
        f"SuperLink on port {federation.port}, "
        + ("TLS and node authentication" if federation.secure else "no TLS")
    )
    if not args.simulation:
        for number, share in enumerate(shares):
            federation.start_node(number, f'clients="{share}" trust-server=true')
            say(f"node {number} started, clients {share}")
    app = federation.run_app(run_config(args, out), *simulation_options(args))
    if follow(federation, args, shares, out, deadline):
        say(f"stopped after round {args.stop}")
        return
    status = federation.status()
    say(f"flwr run: exit code {app.returncode}, run {status}")
    rows = read_rows(out)
    if app.returncode or status != "finished:completed" or not rows:
        raise Failed(f"the run is {status} after {len(rows)} rounds")
    for row in rows:
        say(json.dumps(row))


def follow(
    federation: Federation, args: argparse.Namespace, shares: list[str], out: Path, deadline: float
) -> bool:
    """Passes the run's log on, and kills and starts nodes when their moment comes, until `flwr run` ends or
    is to be stopped, which it says."""
    kills, starts, spare, seen = list(args.kill), list(args.start), args.nodes, 0
    while True:
        ended = federation.processes["run"].poll() is not None
        log = federation.log("run")
        sys.stdout.write(log[seen:])
        sys.stdout.flush()
        seen = len(log)
        if ended:
            break
        if args.stop and len(read_rows(out)) >= args.stop:
            return True
        if time.monotonic() > deadline:
            raise Failed(f"not done after {args.timeout:.0f} s")
        federation.check_alive(
            ["superlink", *(name for name in federation.processes if name.startswith("node-"))]
        )
        for node, round in [kill for kill in kills if federation.trains(*kill)]:
            federation.kill(f"node-{node}")
            kills.remove((node, round))
            say(f"node {node} killed in round {round}")
        for node, round in [start for start in starts if len(read_rows(out)) >= start[1] - 1]:
            starts.remove((node, round))
            if args.same_key:
                federation.restart_node(node)
                say(f"node {node} started again in round {round}, with its key")
                continue
            federation.start_node(spare, f'clients="{shares[node]}" trust-server=true')
            say(f"node {spare} started in round {round}, clients {shares[node]} as node {node} had")
            spare += 1
        time.sleep(POLL)
    if left := kills + starts:
        raise Failed(f"the run ended before these nodes could be killed or started: {left}")
    return False


def client_shares(args: argparse.Namespace) -> list[str]:
    """What each node's configuration says of its clients."""
    if args.clients_per_node:
        counts = [int(count) for count in args.clients_per_node.split(",")]
    else:
        counts = [
            args.clients * (i + 1) // args.nodes - args.clients * i // args.nodes for i in range(args.nodes)
        ]
    if len(counts) != args.nodes or sum(counts) != args.clients:
        sys.exit(f"{counts} clients on {args.nodes} nodes do not make {args.clients}")
    firsts = [sum(counts[:i]) for i in range(args.nodes)]
    return [f"{first}-{first + count - 1}" for first, count in zip(firsts, counts, strict=True)]


def run_config(args: argparse.Namespace, out: Path) -> dict[str, str | float | bool]:
    return {
        "config": str(Path(args.config).resolve()) if args.config else "",
        "overrides": "; ".join(args.override),
        "out": str(out),
        "resume": args.resume,
        "evaluate": args.evaluate,
        "min-nodes": args.min_nodes or max(1, args.nodes - len(args.kill)),
        "round-timeout": args.round_timeout,
        "wait": 120,
    } | app_options(args)


def simulation_options(args: argparse.Namespace) -> list[str]:
    if not args.simulation:
        return []
    return ["--federation-config", f"num-supernodes={args.nodes} client-resources-num-cpus=1"]


def read_rows(out: Path) -> list[dict]:
    path = out / "metrics.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def say(text: str) -> None:
    print(f"loopback  {text}", flush=True)


if __name__ == "__main__":
    main()
