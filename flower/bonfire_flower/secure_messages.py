"""What nodes answer in the stages of secure aggregation, packed and read; a mistake raises BadReply."""

from collections.abc import Mapping
from dataclasses import dataclass

import bonfire
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

from .protocol import BadReply, distinct, lacks, record, whole, whole_list

# The losses that can be told of; they cross in the sum as shares of the clipping range.
LARGEST_LOSS = 256.0


@dataclass(frozen=True)
class Masked:
    """A node's masked sum, uint32 `[1 + n + 1]`, and what it says beside it: whose, in which shapes (`flags` and `rank` of an upload's
    header), and how many tokens they trained."""

    clients: list[int]
    flags: int
    rank: int
    tokens: int
    vector: np.ndarray

    def shaped(self, examples: int, values: np.ndarray, loss: float, tokens: int) -> bonfire.Upload:
        """An upload of these shapes, of the first of its clients by name."""
        header = {"client": self.clients[0], "examples": examples, "flags": self.flags, "rank": self.rank}
        return bonfire.Upload(header | {"loss": loss, "steps": 1, "tokens": tokens}, values)


def read_keys(content: RecordDict) -> tuple[bytes, bytes]:
    configs = record(content, RECORD_KEY_CONFIGS, ConfigRecord)
    keys = tuple(configs.get(key) for key in (Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2))
    if not all(isinstance(key, bytes) for key in keys):
        raise BadReply("it has no two public keys")
    return keys


def read_ciphertexts(content: RecordDict) -> dict[int, bytes]:
    """The shares that it sends, encrypted, by receiver."""
    return _by_node(content, Key.DESTINATION_LIST, Key.CIPHERTEXT_LIST)


def read_shares(content: RecordDict) -> dict[int, bytes]:
    """The shares that it holds, by owner."""
    return _by_node(content, Key.NODE_ID_LIST, Key.SHARE_LIST)


def pack_masked(reply: ConfigRecord, vector: np.ndarray) -> RecordDict:
    """`reply` is that of `pack_reply`."""
    return RecordDict({"reply": reply, "masked": ArrayRecord({"sum": Array(vector)})})


def pack_reply(uploads: list[bonfire.Upload], holds: int) -> ConfigRecord:
    first = uploads[0].header
    told = {"holds": holds, "clients": [upload.client for upload in uploads]}
    told |= {
        "flags": first["flags"],
        "rank": first["rank"],
        "tokens": sum(upload.tokens for upload in uploads),
    }
    return ConfigRecord(told)


def read_masked(content: RecordDict, examples: Mapping[int, int], holds: int) -> Masked:
    """Of a node that was to train these clients, with their examples, from round `holds`."""
    if lacks(content):
        raise BadReply("it lacks what it was sent whole")
    reply = record(content, "reply", ConfigRecord)
    if whole(reply, "holds") != holds:
        raise BadReply(f"it trained from another start than that of round {holds}")
    clients = whole_list(reply, "clients")
    distinct(clients)
    if not clients or any(client not in examples for client in clients):
        raise BadReply(f"its sum is of clients {clients}, of which not all were asked, or there is none")
    arrays = record(content, "masked", ArrayRecord)
    try:
        vector = arrays["sum"].numpy()
    except Exception as error:  # np.load says in many ways that bytes are not an array
        raise BadReply(f"its sum cannot be read: {error}") from error
    if vector.dtype != np.uint32 or vector.ndim != 1 or vector.size < 3:
        raise BadReply(f"its sum is {vector.dtype}{list(vector.shape)}, not uint32[n]")
    return Masked(clients, whole(reply, "flags"), whole(reply, "rank"), whole(reply, "tokens"), vector)


def _by_node(content: RecordDict, nodes: str, values: str) -> dict[int, bytes]:
    configs = record(content, RECORD_KEY_CONFIGS, ConfigRecord)
    found, parts = whole_list(configs, nodes), configs.get(values)
    if (
        not isinstance(parts, list)
        or len(parts) != len(found)
        or not all(isinstance(part, bytes) for part in parts)
    ):
        raise BadReply(f"{values} is not a list of bytes, one for each of {nodes}")
    return dict(zip(found, parts, strict=True))
