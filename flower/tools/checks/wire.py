#!/usr/bin/env python3
"""Measure the bytes that the Flower app puts on the wire, beside those that the ledger counts.

    python3 flower/tools/checks/wire.py --nodes 4 --json wire.json [--config FILE] [--override KEY=VALUE] [--tls]

Between each SuperNode and the SuperLink stands a forwarder that counts bytes in each direction: payload of
TCP, HTTP's headers and Flower's own requests included. Without --tls nothing is encrypted, so records of TLS
do not blur the sums. What a connected node costs that does nothing (it asks for messages every 3 s, and says
every 24 to 30 s that it lives) is measured first, printed, and in no round: a round's figure is what is left
after that rate times the round's seconds. Needs what loopback.py needs.
"""

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from federation import Failed, Federation
from loopback import add_app_options, app_options, client_shares, read_rows, say

POLL = 0.02
BLOCK = 1 << 16


class Forwarder:
    """Passes TCP connections on to a port of this machine and counts: `up` towards it, `down` from it, in
    bytes."""

    def __init__(self, target: int) -> None:
        self.target, self.up, self.down = target, 0, 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def counts(self) -> tuple[int, int]:
        with self._lock:
            return self.up, self.down

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            for source, sink, up in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pass, args=(source, sink, up), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while block := source.recv(BLOCK):
                with self._lock:
                    self.up += len(block) if up else 0
                    self.down += 0 if up else len(block)
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side closed, as HTTP clients may


def main() -> None:
    args = arguments()
    with (
        tempfile.TemporaryDirectory(prefix="bonfire-wire-") as temporary,
        Federation(Path(temporary) / "federation", args.tls) as federation,
    ):
        try:
            result = measure(federation, args, Path(temporary) / "run")
        except Failed as error:
            sys.exit(f"wire: {error}\n{federation.log('run')[-3000:]}")
    print_table(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument(
        "--clients", type=int, default=10, help="clients of the federation, as the configuration has it"
    )
    parser.add_argument("--clients-per-node", help="how many each node holds, such as 3,3,2,2")
    parser.add_argument("--config", default="", help="a Bonfire TOML (default: the built-in quickstart)")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    add_app_options(parser)
    parser.add_argument("--tls", action="store_true", help="count under TLS and node authentication")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds that idle traffic is measured for")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for the run")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(federation: Federation, args: argparse.Namespace, out: Path) -> dict:
    federation.start_superlink()
    forwarders = []
    for number, share in enumerate(client_shares(args)):
        forwarders.append(Forwarder(federation.port))
        federation.start_node(number, f'clients="{share}" trust-server=true', forwarders[-1].port)
    idle = measure_idle(federation, forwarders, args.idle)
    federation.run_app(
        {
            "config": str(Path(args.config).resolve()) if args.config else "",
            "overrides": "; ".join(args.override),
            "out": str(out),
            "evaluate": "none",
            "min-nodes": args.nodes,
        }
        | app_options(args)
    )
    marks = watch(federation, forwarders, out, time.monotonic() + args.timeout)
    return {"nodes": args.nodes, "tls": args.tls, "idle": idle, "rounds": rounds(marks, idle, out)}


def measure_idle(federation: Federation, forwarders: list[Forwarder], seconds: float) -> dict[str, float]:
    """Bytes a second of a connected node that does nothing, mean over the nodes."""
    deadline = time.monotonic() + 60
    while not all("SuperNode ID" in federation.log(f"node-{i}") for i in range(len(forwarders))):
        if time.monotonic() > deadline:
            raise Failed("the SuperNodes did not connect within 60 s")
        time.sleep(POLL)
    before = [forwarder.counts() for forwarder in forwarders]
    time.sleep(seconds)
    after = [forwarder.counts() for forwarder in forwarders]
    share = 1 / (seconds * len(forwarders))
    up, down = (sum(b[way] - a[way] for a, b in zip(before, after, strict=True)) * share for way in (0, 1))
    return {"up_bytes_per_second": up, "down_bytes_per_second": down, "seconds": seconds}


def watch(federation: Federation, forwarders: list[Forwarder], out: Path, deadline: float) -> list[dict]:
    """The forwarders' counts at the end of each round, as soon as its row is there, and the moments."""
    marks = [{"at": time.monotonic(), "counts": [forwarder.counts() for forwarder in forwarders]}]
    while federation.processes["run"].poll() is None:
        federation.check_alive(["superlink", *(f"node-{i}" for i in range(len(forwarders)))])
        if time.monotonic() > deadline:
            raise Failed("the run took too long")
        if len(read_rows(out)) >= len(marks):
            marks.append({"at": time.monotonic(), "counts": [forwarder.counts() for forwarder in forwarders]})
        time.sleep(POLL)
    if federation.status() != "finished:completed":
        raise Failed(f"the run is {federation.status()}")
    return marks


def rounds(marks: list[dict], idle: dict[str, float], out: Path) -> list[dict]:
    """A row a round. What came before the first round (the app itself, greetings) counts to the first."""
    wire = [json.loads(line) for line in (out / "wire.jsonl").read_text(encoding="utf-8").splitlines()]
    table = []
    for row, mark, last in zip(read_rows(out), marks[1:], marks, strict=False):
        pairs = list(zip(last["counts"], mark["counts"], strict=True))
        seconds = (mark["at"] - last["at"]) * len(pairs)
        up, down = (sum(after[way] - before[way] for before, after in pairs) for way in (0, 1))
        ours = [entry for entry in wire if entry["round"] == row["round"]]
        table.append(
            {
                "round": row["round"],
                "up_bytes": round(up - idle["up_bytes_per_second"] * seconds),
                "down_bytes": round(down - idle["down_bytes_per_second"] * seconds),
                "nodes": [{"up_bytes": b[0] - a[0], "down_bytes": b[1] - a[1]} for a, b in pairs],
                "records_up_bytes": sum(entry["received_bytes"] for entry in ours),
                "records_down_bytes": sum(entry["sent_bytes"] for entry in ours),
                "ledger_up_bytes": row["upload_bytes"],
                "ledger_down_bytes": row["download_bytes"],
            }
        )
    return table


def print_table(result: dict) -> None:
    idle = result["idle"]
    up, down = idle["up_bytes_per_second"], idle["down_bytes_per_second"]
    say(f"idle, a node: {up:.0f} B/s up, {down:.0f} B/s down over {idle['seconds']:.0f} s, left out below")
    print("round     wire up  records up   ledger up  ratio    wire down  records down  ledger down")
    for row in result["rounds"]:
        ratio = row["up_bytes"] / row["ledger_up_bytes"] if row["ledger_up_bytes"] else float("nan")
        print(
            f"{row['round']:>5}{row['up_bytes']:>12,}{row['records_up_bytes']:>12,}"
            f"{row['ledger_up_bytes']:>12,}{ratio:>7.3f}"
            f"{row['down_bytes']:>13,}{row['records_down_bytes']:>14,}{row['ledger_down_bytes']:>13,}"
        )


if __name__ == "__main__":
    main()
