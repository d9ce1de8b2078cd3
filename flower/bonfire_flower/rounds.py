"""The rounds: plan, send, collect from those that answer, aggregate, save."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any, TypeVar

import bonfire
from flwr.app import MessageType, RecordDict
from flwr.common.logger import log

from . import protocol
from .exchange import Exchange
from .folder import RunFolder
from .roster import PAUSE, Node, NoNodes, Roster, ranges
from .secure_rounds import secure_sum
from .settings import Settings

Read = TypeVar("Read")

# So often a round is begun of which no node sends anything before the run gives up.
ATTEMPTS = 3


class Again(Exception):
    """A node is to be sent something else in the same round."""

    def __init__(self, content: RecordDict) -> None:
        super().__init__()
        self.content = content


@dataclass
class Rounds:
    server: bonfire.Server
    exchange: Exchange
    roster: Roster
    folder: RunFolder
    settings: Settings

    def run(self) -> None:
        """All rounds that are left. Raises NoNodes; the checkpoint is that of the last complete round."""
        while not self.server.finished:
            row, wire = self.round()
            self.folder.add(self.server, row, wire)
            log(INFO, "%s", line(row, self.server.rounds))

    def round(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """One round: its row, and those of its nodes' bytes."""
        plan = self.server.plan()
        for _ in range(ATTEMPTS):
            nodes = self.roster.gather(plan.clients)
            begin = time.monotonic()
            if unheld := self.roster.unheld():
                log(INFO, "no node holds clients %s", ranges(unheld))
            asked = [client for node in nodes for client in node.examples if client in plan.clients]
            try:
                ended = self.end(plan, nodes, asked)
            except bonfire.BonfireError as error:
                # Each upload alone is fit to be read; together they are not. Other clients may answer next time.
                log(WARNING, "round %d: %s", plan.round, " ".join(str(error).split()))
                continue
            if ended is not None:
                row, counted = ended
                self.roster.counted(asked, plan.round)
                scores = self.evaluate() if self.settings.evaluate == "sites" else {}
                if not self.folder.minimal:
                    row |= {"nodes": len(nodes), "answered": len(counted)}
                row |= scores
                return row | {"seconds": time.monotonic() - begin}, self.wire(plan.round, nodes, counted)
            log(WARNING, "round %d: none of %d nodes sent anything of use", plan.round, len(nodes))
        raise NoNodes(f"round {plan.round} was begun {ATTEMPTS} times, and no node sent anything of use")

    def end(
        self, plan: bonfire.Plan, nodes: list[Node], asked: list[int]
    ) -> tuple[dict[str, Any], dict[int, int]] | None:
        """Trains the nodes and ends the round with what they send: its row, and by node the bytes that the ledger counts. None where
        nothing of use came. Raises BonfireError where no model can be made of it."""
        if self.settings.secure is not None:
            summed = secure_sum(self, plan, nodes)
            if summed is None:
                return None
            told = {"sites": len(summed.nodes), "sent_bytes": sum(summed.bytes.values()), "asked": asked}
            row = self.server.aggregate_mean(summed.mean, summed.examples, **told)
            return row, {node: summed.bytes[node] for node in summed.nodes}
        uploads = self.train(plan, nodes)
        if not uploads:
            return None
        row = self.server.aggregate([upload for some in uploads.values() for upload in some], asked)
        return row, {node: sum(upload.nbytes for upload in some) for node, some in uploads.items()}

    def train(self, plan: bonfire.Plan, nodes: list[Node]) -> dict[int, list[bonfire.Upload]]:
        """The uploads of the nodes that answered in time, by node."""

        def read(node: Node, content: RecordDict) -> list[bonfire.Upload]:
            asked = {client: node.examples[client] for client in plan.clients if client in node.examples}
            uploads = protocol.read_uploads(content, asked, plan.round)
            for upload in uploads:
                self.check(upload)
            return uploads

        return self.order(MessageType.TRAIN, nodes, plan, read)

    def check(self, upload: bonfire.Upload) -> None:
        """Raises BadReply where the server would refuse it: sizes, slots, numbers that are not finite."""
        try:
            self.server.check(upload)
        except bonfire.BonfireError as error:
            raise protocol.BadReply(" ".join(str(error).split())) from error

    def evaluate(self) -> dict[str, Any]:
        """The new global model on the test rows of all nodes, pooled by examples; empty if there are none."""
        nodes = list(self.roster.nodes.values())

        def read(node: Node, content: RecordDict) -> list[dict[str, Any]]:
            return protocol.read_scores(content, node.examples)

        answers = self.order(MessageType.EVALUATE, nodes, None, read)
        rows = [row for rows in answers.values() for row in rows]
        examples = sum(row["examples"] for row in rows)
        if not examples:
            return {}
        # Where numbers are foretold there is no accuracy.
        measured = [key for key in ("loss", "accuracy") if all(key in row for row in rows)]
        mean = {f"site_{key}": sum(row[key] * row["examples"] for row in rows) / examples for key in measured}
        return {"site_examples": examples} | mean

    def order(
        self,
        kind: str,
        nodes: list[Node],
        plan: bonfire.Plan | None,
        read: Callable[[Node, RecordDict], Read],
        more: Mapping[int, RecordDict] | None = None,
    ) -> dict[int, Read]:
        """Sends nodes an order, and to some `more` with it, and reads what comes back. One that lacks what the order builds on is sent
        the whole model once."""
        by_id, whole = {node.id: node for node in nodes}, set()

        def content(node: Node) -> RecordDict:
            return RecordDict(dict(self.lacking(node, plan)) | dict((more or {}).get(node.id, {})))

        def reply(node_id: int, told: RecordDict) -> Read:
            node = by_id[node_id]
            if protocol.lacks(told) and node_id not in whole:
                log(INFO, "node %d has lost what it held, and is sent the whole model", node_id)
                whole.add(node_id)
                node.holds = 0
                raise Again(content(node))
            answer = read(node, told)
            node.holds = self.server.round + 1
            return answer

        return self.collect(kind, {node.id: content(node) for node in nodes}, reply)

    def lacking(self, node: Node, plan: bonfire.Plan | None) -> RecordDict:
        """The order with what a node lacks, the configuration too if it holds nothing."""
        self.roster.settle(node)
        config = "" if node.holds else self.server.config
        # Where clients hold fewer slots a site knows which only from a plan: without one it is sent all.
        download = self.server.download(node.holds, sorted(node.examples) if plan else None)
        return protocol.pack_order(protocol.Order(config, self.server.clients, download, plan))

    def collect(
        self, kind: str, contents: Mapping[int, RecordDict], read: Callable[[int, RecordDict], Read]
    ) -> dict[int, Read]:
        """Sends nodes their contents and reads what comes back in the round's time; the others are lost."""
        deadline = time.monotonic() + self.settings.round_timeout
        group = str(self.server.round + 1)
        waiting = self.exchange.send(kind, contents, self.settings.round_timeout, group)
        for node in contents.keys() - waiting.values():
            self.roster.lose(node, "the SuperLink did not take its message")
        answers: dict[int, Read] = {}
        while waiting and time.monotonic() < deadline:
            for answer in self.exchange.receive(waiting):
                try:
                    answers[answer.node] = read(answer.node, answer.get())
                except Again as again:
                    left = max(deadline - time.monotonic(), PAUSE)
                    waiting |= self.exchange.send(kind, {answer.node: again.content}, left, group)
                except protocol.BadReply as error:
                    self.roster.lose(answer.node, str(error))
            self.roster.look()
            time.sleep(PAUSE)
        for node in waiting.values():
            self.roster.lose(node, f"no answer within {self.settings.round_timeout:.0f} s")
        return answers

    def wire(
        self, round: int, nodes: list[Node], counted: Mapping[int, int]
    ) -> list[dict[str, Any]]:
        """A row a node: bytes of its messages' records since the last round, whatever they were, and what the
        ledger counts of what it sent up. A node that was only greeted has no clients here."""
        sent, received = self.exchange.take_bytes()
        clients = {node.id: sorted(node.examples) for node in nodes}
        return [
            {
                "round": round,
                "node": node,
                "clients": clients.get(node, []),
                "answered": node in counted,
                "sent_bytes": sent.get(node, 0),
                "received_bytes": received.get(node, 0),
                "ledger_upload_bytes": counted.get(node, 0),
            }
            for node in sorted(clients.keys() | sent.keys() | received.keys())
        ]


def line(row: Mapping[str, Any], rounds: int) -> str:
    """A round in a line; what a round does not have is left out."""
    parts = [f"round {row['round']:>{len(str(rounds))}}/{rounds}", str(row.get("phase", ""))]
    if row.get("train_loss") is not None:
        parts.append(f"loss {row['train_loss']:.4f}")
    for key, name in (("test_accuracy", "accuracy"), ("site_accuracy", "at the sites")):
        if row.get(key) is not None:
            parts.append(f"{name} {100 * row[key]:.1f}%")
    if row.get("test_f1") is not None:
        parts.append(f"F1 {100 * row['test_f1']:.1f}%")
    if row.get("test_pearson") is not None:
        parts.append(f"Pearson {row['test_pearson']:.3f}")
    if row.get("skipped"):
        parts.append(f"left out {ranges(row['skipped'])}")
    if "nodes" in row:  # under privacy.publish = "minimal" a row tells nothing of who took part
        parts.append(f"nodes {row['answered']}/{row['nodes']}")
        parts.append(f"upload {megabytes(row['upload_bytes'])}")
    parts.append(f"{row['seconds']:.1f} s")
    return "  ".join(part for part in parts if part)


def megabytes(count: float) -> str:
    """Bytes in the unit that leaves one to three digits."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            break
        count /= 1000
    else:
        unit = "GB"
    return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
