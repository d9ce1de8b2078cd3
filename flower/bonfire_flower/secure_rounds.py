"""A round in which the server sees no upload, only their sum."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from logging import WARNING
from typing import TYPE_CHECKING, TypeVar

import bonfire
import numpy as np
from flwr.app import ConfigRecord, MessageType, RecordDict
from flwr.common.logger import log

from .protocol import size
from .roster import Node, NoNodes
from .secure import Halted, SecureSum
from .secure_messages import LARGEST_LOSS, Masked, read_ciphertexts, read_keys, read_masked, read_shares
from .secure_settings import LEAST_NODES

if TYPE_CHECKING:
    from .rounds import Rounds

Read = TypeVar("Read")


@dataclass(frozen=True)
class Summed:
    """The mean of all clients whose nodes are in the sum, their examples, and bytes of what came for it, by node."""

    mean: bonfire.Upload
    examples: dict[int, int]
    nodes: set[int]
    bytes: dict[int, int]


def secure_sum(rounds: Rounds, plan: bonfire.Plan, nodes: list[Node]) -> Summed | None:
    """Trains the nodes and sums what they learnt; None where too few are left for it. Raises NoNodes where there never were enough."""
    settings = rounds.settings.secure
    assert settings is not None, "the run asks for it"
    if len(nodes) < LEAST_NODES:
        raise NoNodes(
            f"round {plan.round} trains clients of {len(nodes)} nodes, and a secure sum needs {LEAST_NODES} (clients.per_round)"
        )
    uniform = tomllib.loads(rounds.server.config).get("server", {}).get("weights") == "uniform"
    asked = {
        node.id: {client: node.examples[client] for client in plan.clients if client in node.examples}
        for node in nodes
    }

    def weight(node: int, clients: list[int]) -> int:
        return len(clients) if uniform else sum(asked[node][client] for client in clients)

    protocol = SecureSum(settings, {node: weight(node, list(own)) for node, own in asked.items()})
    sent = dict.fromkeys(asked, 0)

    def counted(read: Callable[[RecordDict], Read]) -> Callable[[int, RecordDict], Read]:
        def reader(node: int, content: RecordDict) -> Read:
            sent[node] += size(content)
            return read(content)

        return reader

    def read(node: Node, content: RecordDict) -> Masked:
        sent[node.id] += size(content)
        masked = read_masked(content, asked[node.id], plan.round)
        rounds.check(masked.shaped(1, np.zeros(masked.vector.size - 2, np.float32), 0.0, 0))
        return masked

    try:
        keys = rounds.collect(MessageType.TRAIN, protocol.setup(), counted(read_keys))
        ciphertexts = rounds.collect(MessageType.TRAIN, protocol.share_keys(keys), counted(read_ciphertexts))
        stages = protocol.masked_vectors(ciphertexts)
        for content in stages.values():
            content["weights"] = ConfigRecord({"uniform": uniform})
        there = [node for node in nodes if node.id in stages]
        masked = rounds.order(MessageType.TRAIN, there, plan, read, stages)
        unmask = protocol.unmask({node: answer.vector for node, answer in masked.items()})
        shares = rounds.collect(MessageType.TRAIN, unmask, counted(read_shares))
        weights = {node: weight(node, answer.clients) for node, answer in masked.items()}
        movement, share = protocol.mean(shares, weights)
    except Halted as why:
        log(WARNING, "round %d: no secure sum: %s", plan.round, why)
        return None
    examples = {client: asked[node][client] for node, answer in masked.items() for client in answer.clients}
    loss = share / settings.clipping_range * LARGEST_LOSS
    tokens = sum(answer.tokens for answer in masked.values())
    first = next(iter(masked.values()))
    mean = first.shaped(sum(examples.values()), movement.astype(np.float32), loss, tokens)
    return Summed(mean, examples, set(masked), sent)
