"""A node's side of secure aggregation: Flower's mod for SecAgg+, around the app's own training order."""

from collections.abc import Callable, Mapping
from logging import WARNING
from typing import Any

import bonfire
import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.logger import log
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    RECORD_KEY_STATE,
    Key,
    Stage,
)
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

from . import protocol
from .secure_messages import LARGEST_LOSS, pack_masked, pack_reply
from .secure_settings import LEAST_NODES

# In a node's configuration: it sends no upload that is not masked.
INSISTS = "secure-aggregation"


class _LacksStart(Exception):
    """The order builds on what the site does not hold; `reply` says so."""

    def __init__(self, reply: Message) -> None:
        super().__init__()
        self.reply = reply


def secure_mod(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Passes on what is no stage of the protocol, where the node allows that. Raises ValueError where a server asks for what would
    give a single node away."""
    if not is_secure(message.content):
        check_insistence(context.node_config)
        return call_next(message, context)
    configs = message.content[RECORD_KEY_CONFIGS]
    name = configs.get(Key.STAGE)
    check_request(name, configs)

    def trained(message: Message, context: Context) -> Message:
        reply = call_next(message, context)
        if protocol.lacks(reply.content):
            raise _LacksStart(reply)  # past the mod, so that the stage is asked for again
        return reply

    try:
        reply = secaggplus_mod(message, context, trained)
    except _LacksStart as lacking:
        return lacking.reply
    if name != Stage.COLLECT_MASKED_VECTORS:
        return reply
    # The mod packs 8 bytes a number, of which the modulus leaves 4; and of what it was given it leaves more than the server needs.
    arrays = [bytes_to_ndarray(part) for part in reply.content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]]
    vector = np.concatenate(arrays).astype(np.uint32)
    return Message(pack_masked(reply.content["reply"], vector), reply_to=message)


def check_insistence(node_config: Mapping[str, Any]) -> None:
    """Raises ValueError where this node sends nothing that is not masked; for runs that have secure aggregation off."""
    insists = node_config.get(INSISTS, False)
    if not isinstance(insists, bool):
        raise TypeError(f"{INSISTS} = {insists!r}: it must be true or false")
    if insists:
        raise ValueError(f"this node trains under {INSISTS}=true alone, and the run has it off")


def is_secure(content: RecordDict) -> bool:
    return RECORD_KEY_CONFIGS in content


def check_request(stage: Any, configs: Mapping[str, Any]) -> None:
    if stage == Stage.SETUP:
        nodes, shares, threshold = (
            configs.get(key) for key in (Key.SAMPLE_NUMBER, Key.SHARE_NUMBER, Key.THRESHOLD)
        )
        if not all(isinstance(number, int) for number in (nodes, shares, threshold)):
            raise ValueError("the server does not say how many nodes and shares there are")
        if nodes < LEAST_NODES or not max(2, shares / 2 + 0.5) <= threshold <= shares:
            raise ValueError(
                f"the server asks for a sum of {nodes} nodes with {threshold} of {shares} shares; this node takes part in one of "
                f"{LEAST_NODES} nodes or more, and with more than half of the shares"
            )
    if stage == Stage.UNMASK:
        both = set(configs.get(Key.ACTIVE_NODE_ID_LIST, [])) & set(configs.get(Key.DEAD_NODE_ID_LIST, []))
        if both:
            raise ValueError(
                f"the server asks for both secrets of nodes {sorted(both)}, which would unmask their vectors"
            )


def site_sum(uploads: list[bonfire.Upload], holds: int, uniform: bool, context: Context) -> RecordDict:
    """The mean of the site's clients as Flower's mod takes it, for it to weigh, quantise and mask: a FitRes of the movement f64 `[n]` and the
    loss f64 `[1]`. Raises ValueError where the movement would be clipped, or none of the clients has anything to send."""
    if not uploads:
        raise ValueError("none of its clients has anything to send in this round")
    clip = float(context.state[RECORD_KEY_STATE]["clipping_range"])
    weights = [1 if uniform else upload.examples for upload in uploads]
    # In f64: in f32 the clipping range that the mod adds would round numbers to a quarter of a step.
    pairs = list(zip(uploads, weights, strict=True))
    movement = sum(weight * upload.values.astype(np.float64) for upload, weight in pairs) / sum(weights)
    largest = float(np.abs(movement).max())
    if not largest <= clip:
        raise ValueError(
            f"its movement goes up to {largest:.4g}, beyond clipping-range = {clip:g}, and is not sent clipped: set it higher"
        )
    loss = sum(weight * upload.loss for upload, weight in pairs) / sum(weights)
    if not abs(loss) <= LARGEST_LOSS:
        log(WARNING, "its loss is %g and is told as %g, the largest that the sum holds", loss, LARGEST_LOSS)
    share = np.array([np.clip(loss, -LARGEST_LOSS, LARGEST_LOSS) / LARGEST_LOSS * clip])
    parameters = ndarrays_to_parameters([movement, share])
    content = fitres_to_recorddict(
        FitRes(Status(Code.OK, ""), parameters, sum(weights), {}), keep_input=False
    )
    content["reply"] = pack_reply(uploads, holds)
    return content
