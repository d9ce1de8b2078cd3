"""Which nodes there are, which clients they hold, and what of the model."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from logging import INFO, WARNING

import bonfire
from flwr.app import MessageType, RecordDict
from flwr.common.logger import log

from . import protocol
from .clients import bound
from .exchange import Answer, Exchange
from .settings import Settings

# Seconds between two looks, and before a node that failed is greeted again.
PAUSE = 0.5
REST = 5.0


class NoNodes(Exception):
    """Nodes were waited for in vain."""


@dataclass
class Node:
    """A node that takes part: training examples by client, and the round whose start it holds."""

    id: int
    examples: dict[int, int]
    holds: int


class Roster:
    """Nodes come in by introducing themselves, go out by failing, and may introduce themselves again."""

    def __init__(self, server: bonfire.Server, exchange: Exchange, settings: Settings) -> None:
        self.server, self.exchange, self.settings = server, exchange, settings
        self.bound = bound(settings.nodes, server.clients)
        self.nodes: dict[int, Node] = {}
        self._why: dict[int, str] = {}  # why a node that answered is not used
        self._greeted: dict[str, int] = {}
        self._aside: dict[int, Node] = {}  # their clients are held by another
        self._refused: set[int] = set()
        self._failed: dict[int, float] = {}  # when; no round waits for these to introduce themselves
        # By client, the round whose start the ledger believes it to hold. Of a run that goes on nothing is
        # known but that the ledger may have counted all of it.
        self._counted: dict[int, int] = {}
        self._at_least = server.round

    def gather(self, clients: Iterable[int]) -> list[Node]:
        """The nodes that hold some of these clients, once there are enough nodes. Raises NoNodes."""
        begin = time.monotonic()
        wanted, patience = set(clients), min(self.settings.wait, self.settings.round_timeout)
        while True:
            self.look()
            able = [node for node in self.nodes.values() if wanted & node.examples.keys()]
            enough = len(self.nodes) >= self.settings.min_nodes and bool(able)
            waited = time.monotonic() - begin
            if enough and (waited > patience or not self._newcomers()):
                return able
            if waited > self.settings.wait:
                raise NoNodes(
                    f"after {self.settings.wait:.0f} s there are {len(self.nodes)} nodes of "
                    f"{self.settings.min_nodes} (min-nodes), {len(able)} of them hold clients of the round"
                    + "".join(f"; node {node}: {why}" for node, why in sorted(self._why.items()))
                )
            time.sleep(PAUSE)

    def look(self) -> None:
        """Lets nodes go that are gone, greets new ones, takes in those that have introduced themselves."""
        there = self.exchange.nodes()
        self._let_go(there)
        known = self.nodes.keys() | self._aside.keys() | self._refused | set(self._greeted.values())
        now = time.monotonic()
        new = sorted(node for node in there - known if now - self._failed.get(node, -REST) >= REST)
        greetings = dict.fromkeys(new, self._greeting())
        self._greeted |= self.exchange.send(MessageType.QUERY, greetings, self.settings.wait, "greeting")
        for answer in self.exchange.receive(self._greeted):
            self._welcome(answer)
        for node in list(self._aside.values()):
            self._admit(node)

    def lose(self, node: int, why: str) -> None:
        """A node that failed is used no more until it introduces itself again."""
        self._failed[node] = time.monotonic()
        if self.nodes.pop(node, None) is not None:
            log(WARNING, "node %d is left out: %s", node, why)

    def settle(self, node: Node) -> None:
        """Where a node holds less than was counted, the ledger shall count its next download whole."""
        lost = [client for client in node.examples if node.holds < self._counted.get(client, self._at_least)]
        if lost:
            self.server.forget(lost)
            self._counted |= dict.fromkeys(lost, 0)

    def counted(self, clients: Iterable[int], round: int) -> None:
        """The ledger has counted the download of this round to these clients."""
        self._counted |= dict.fromkeys(clients, round)

    def unheld(self) -> list[int]:
        """Clients of the federation that no node holds."""
        held = {client for node in self.nodes.values() for client in node.examples}
        return sorted(set(range(self.server.clients)) - held)

    def _greeting(self) -> RecordDict:
        secure = self.settings.secure is not None
        return protocol.pack_greeting(self.server.config, self.server.clients, secure)

    def _newcomers(self) -> bool:
        return any(node not in self._failed for node in self._greeted.values())

    def _let_go(self, there: set[int]) -> None:
        for node in [node for node in self.nodes if node not in there]:
            self.lose(node, "it is gone")
        self._aside = {node: held for node, held in self._aside.items() if node in there}
        self._greeted = {message: node for message, node in self._greeted.items() if node in there}
        self._refused &= there
        self._why = {node: why for node, why in self._why.items() if node in there}
        self._failed = {node: when for node, when in self._failed.items() if node in there}

    def _welcome(self, answer: Answer) -> None:
        if answer.content is None:  # it may be able to later
            self._why[answer.node] = f"could not introduce itself: {answer.failure}"
            log(WARNING, "node %d could not introduce itself: %s", answer.node, answer.failure)
            self._failed[answer.node] = time.monotonic()
            return
        try:
            introduction = protocol.read_introduction(answer.content, self.server.clients)
            if introduction.fingerprint != self.server.fingerprint:
                raise protocol.BadReply(
                    f"its fingerprint is {introduction.fingerprint[:12]}, the server's "
                    f"{self.server.fingerprint[:12]}: another model, tokenizer, adapter, or list of labels "
                    "(labels.json: the same names in the same order everywhere)"
                )
            if self.bound is not None and (
                foreign := introduction.examples.keys() - self.bound.get(answer.node, set())
            ):
                raise protocol.BadReply(f"it claims clients {ranges(foreign)}, which `nodes` does not give it")
            if introduction.holds > self.server.round + 1:
                raise protocol.BadReply(
                    f"it holds round {introduction.holds}, the server is at {self.server.round}"
                )
        except protocol.BadReply as error:
            self._why[answer.node] = f"refused: {error}"
            log(WARNING, "node %d is refused: %s", answer.node, error)
            self._refused.add(answer.node)
            return
        self._admit(Node(answer.node, introduction.examples, introduction.holds))

    def _admit(self, node: Node) -> None:
        for other in self.nodes.values():
            if both := node.examples.keys() & other.examples.keys():
                if node.id not in self._aside:
                    text = "node %d is not used: node %d holds clients %s already"
                    log(WARNING, text, node.id, other.id, ranges(both))
                self._aside[node.id] = node
                return
        self._aside.pop(node.id, None)
        self._failed.pop(node.id, None)
        self._why.pop(node.id, None)
        self.nodes[node.id] = node
        examples = sum(node.examples.values())
        log(INFO, "node %d holds clients %s, %d examples", node.id, ranges(node.examples), examples)


def ranges(clients: Iterable[int]) -> str:
    """Client numbers as text: 0-3,7."""
    parts: list[list[int]] = []
    for client in sorted(clients):
        if parts and client == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], client]
        else:
            parts.append([client])
    return ",".join("-".join(map(str, part)) for part in parts)
