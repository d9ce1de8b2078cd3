"""The server's side of secure aggregation: SecAgg+ (Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure single-server aggregation with
(poly)logarithmic overhead", CCS 2020), by Flower's primitives and with Flower's mod on the nodes.

    setup          server: the numbers of the protocol          node: two public keys
    share keys     server: its neighbours' public keys          node: shares of its two secrets, encrypted for each neighbour
    masked vector  server: the shares meant for it, the order   node: what it learnt, quantised and masked
    unmask         server: who is in the sum and who vanished   node: its shares of one secret of each

Flower's own workflow asks a Strategy whom to train and hands it the sum; here the app's rounds send the messages. A node counts as vanished
only once its shares are out: what fails before them is in nobody's mask.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from .secure_settings import SecureSettings


class Halted(Exception):
    """The sum cannot be had; the text says why."""


@dataclass
class SecureSum:
    """One run of the protocol. `weights`: what each node weighs in the sum at most, examples or clients."""

    settings: SecureSettings
    weights: Mapping[int, int]
    keys: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    # Nodes whose shares are with their neighbours, and those whose vectors are in the sum.
    shared: set[int] = field(default_factory=set)
    summed: set[int] = field(default_factory=set)
    vector: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.settings.fits(len(self.weights))
        self.shares, self.threshold = self.settings.resolve(len(self.weights))
        ring = list(self.weights)
        random.SystemRandom().shuffle(ring)
        reach = range(-(self.shares // 2), self.shares // 2 + 1)
        self.neighbours = {
            node: {ring[(at + offset) % len(ring)] for offset in reach} for at, node in enumerate(ring)
        }
        self.max_weight = float(max(self.weights.values()))

    def setup(self) -> dict[int, RecordDict]:
        told = {
            Key.SAMPLE_NUMBER: len(self.weights),
            Key.SHARE_NUMBER: self.shares,
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: self.settings.clipping_range,
            Key.TARGET_RANGE: self.settings.quantization_range,
            Key.MOD_RANGE: self.settings.modulus_range,
            Key.MAX_WEIGHT: self.max_weight,
        }
        return {node: stage(Stage.SETUP, told) for node in self.weights}

    def share_keys(self, keys: Mapping[int, tuple[bytes, bytes]]) -> dict[int, RecordDict]:
        """`keys` by node. Raises Halted where too few are left, as the following do."""
        self.keys = dict(keys)
        self.enough(set(keys), set(keys))
        of = {node: {str(other): list(keys[other]) for other in self.near(node, set(keys))} for node in keys}
        return {node: stage(Stage.SHARE_KEYS, told) for node, told in of.items()}

    def masked_vectors(self, ciphertexts: Mapping[int, Mapping[int, bytes]]) -> dict[int, RecordDict]:
        """`ciphertexts` by sender and receiver."""
        self.shared = set(ciphertexts)
        self.enough(self.shared, self.shared)
        contents = {}
        for node in self.shared:
            from_ = {other: sent[node] for other, sent in ciphertexts.items() if node in sent}
            told = {Key.SOURCE_LIST: list(from_), Key.CIPHERTEXT_LIST: list(from_.values())}
            contents[node] = stage(Stage.COLLECT_MASKED_VECTORS, told)
        return contents

    def unmask(self, vectors: Mapping[int, np.ndarray]) -> dict[int, RecordDict]:
        """`vectors` uint32 `[1 + n + 1]` by node: its weight, its movement, its loss."""
        self.summed = set(vectors)
        self.enough(self.shared, self.summed)
        self.vector = sum(vector.astype(np.int64) for vector in vectors.values())
        vanished = self.shared - self.summed
        of = {
            node: {
                Key.ACTIVE_NODE_ID_LIST: sorted(self.near(node, self.summed)),
                Key.DEAD_NODE_ID_LIST: sorted(self.near(node, vanished)),
            }
            for node in self.summed
        }
        return {node: stage(Stage.UNMASK, told) for node, told in of.items()}

    def mean(
        self, shares: Mapping[int, Mapping[int, bytes]], weights: Mapping[int, int]
    ) -> tuple[np.ndarray, float]:
        """The nodes' mean movement f64 `[n]`, and the mean of their losses as the sum has it, which lie in the clipping range. `shares` by
        holder and owner; `weights` of the nodes that are in the sum, as they say themselves."""
        assert self.vector is not None, "unmask comes first"
        masked = parameters_mod(np.split(self.vector, [1, len(self.vector) - 1]), self.settings.modulus_range)
        for node in sorted(self.shared):
            held = [own[node] for own in shares.values() if node in own]
            if len(held) < self.threshold:
                raise Halted(f"of node {node}'s secret there are {len(held)} shares of {self.threshold}")
            masked = self.unmasked(masked, node, combine(node, held[: self.threshold]))
        q_weight, quantised = factor_extract(parameters_mod(masked, self.settings.modulus_range))
        self.check_weight(int(q_weight), weights)
        clip, steps = self.settings.clipping_range, self.settings.quantization_range
        # Every vector was moved up by the clipping range, so that none of its numbers was negative.
        shift = (len(self.summed) - 1) * clip
        movement, loss = [
            (sums - shift) * (steps / int(q_weight)) for sums in dequantize(quantised, clip, steps)
        ]
        return movement, float(loss[0])

    def unmasked(self, masked: list[np.ndarray], node: int, secret: bytes) -> list[np.ndarray]:
        """Without the mask that a node has put on for itself, or without those that others share with one that vanished."""
        shapes, modulus = get_parameters_shape(masked), self.settings.modulus_range
        if node in self.summed:
            return parameters_subtraction(masked, pseudo_rand_gen(secret, modulus, shapes))
        own = bytes_to_private_key(secret)
        for other in self.near(node, self.summed):
            shared = generate_shared_key(own, bytes_to_public_key(self.keys[other][0]))
            mask = pseudo_rand_gen(shared, modulus, shapes)
            masked = (parameters_addition if node > other else parameters_subtraction)(masked, mask)
        return masked

    def check_weight(self, q_weight: int, weights: Mapping[int, int]) -> None:
        """The weights in the sum are those of the clients that the nodes have named, or somebody's vector is not what it should be."""
        steps = self.settings.quantization_range
        told = sum(round(weights[node] / self.max_weight * steps) for node in self.summed)
        if q_weight != told or not told:
            raise Halted(f"the sum has the weight {q_weight}, the nodes in it named clients of {told}")

    def near(self, node: int, among: set[int]) -> set[int]:
        return self.neighbours[node] & among

    def enough(self, nodes: set[int], there: set[int]) -> None:
        """Raises Halted where a node's secrets could not be put together again by those of its neighbours that are there."""
        least = min((len(self.near(node, there)) for node in nodes), default=0)
        if least < self.threshold:
            raise Halted(
                f"{len(there)} of {len(self.weights)} nodes are left; {self.threshold} must be near each"
            )


def stage(name: str, told: Mapping[str, object]) -> RecordDict:
    """A message as Flower's mod reads it."""
    return RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({Key.STAGE: name, **told})})


def combine(node: int, shares: list[bytes]) -> bytes:
    try:
        return combine_shares(shares)
    except (ValueError, IndexError) as error:  # what somebody sent for a share was none
        raise Halted(f"the shares of node {node}'s secret do not fit together: {error}") from error
