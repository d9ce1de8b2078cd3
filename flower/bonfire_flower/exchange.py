"""Messages to nodes and their replies over Flower's grid, and how many bytes they were."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from logging import WARNING

from flwr.app import Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from .protocol import BadReply, size


@dataclass(frozen=True)
class Answer:
    """A node's reply: its content, or, where it has none, why."""

    node: int
    content: RecordDict | None
    failure: str = ""

    def get(self) -> RecordDict:
        """The content. Raises BadReply where there is none."""
        if self.content is None:
            raise BadReply(self.failure)
        return self.content


class Exchange:
    """`sent` and `received` are bytes by node since they were last taken."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.sent: dict[int, int] = {}
        self.received: dict[int, int] = {}

    def nodes(self) -> set[int]:
        """Nodes that the SuperLink thinks are there. One that died is missed up to a minute later."""
        return set(self.grid.get_node_ids())

    def send(
        self, kind: str, contents: Mapping[int, RecordDict], seconds: float, group: str
    ) -> dict[str, int]:
        """Sends each node its content; a reply counts for so many seconds. Returns nodes by message."""
        messages = [
            Message(content, node, message_type=kind, ttl=seconds, group_id=group)
            for node, content in contents.items()
        ]
        ids = list(self.grid.push_messages(messages)) if messages else []
        waiting = {}
        for message_id, (node, content) in zip(ids, contents.items(), strict=False):
            if message_id:
                waiting[message_id] = node
                self.sent[node] = self.sent.get(node, 0) + size(content)
        if len(waiting) < len(contents):
            log(WARNING, "the SuperLink took %d of %d messages", len(waiting), len(contents))
        return waiting

    def receive(self, waiting: dict[str, int]) -> list[Answer]:
        """The replies that are there, taken out of `waiting`."""
        answers = []
        for message_id in list(waiting):
            answer = self._pull(message_id, waiting[message_id])
            if answer is not None:
                del waiting[message_id]
                answers.append(answer)
        return answers

    def take_bytes(self) -> tuple[dict[int, int], dict[int, int]]:
        """Bytes sent and received by node since the last call."""
        taken = self.sent, self.received
        self.sent, self.received = {}, {}
        return taken

    def _pull(self, message_id: str, node: int) -> Answer | None:
        # One message a call: a reply that cannot be read raises, and must not take others with it.
        try:
            replies = list(self.grid.pull_messages([message_id]))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            if type(error).__module__.startswith("httpx"):  # the SuperLink, not the reply
                raise
            return Answer(node, None, f"its reply cannot be read: {error}")
        if not replies:
            return None
        reply = replies[0]
        if reply.has_error():
            return Answer(node, None, plain(reply.error.reason) or f"error {reply.error.code}")
        self.received[node] = self.received.get(node, 0) + size(reply.content)
        return Answer(node, reply.content)


def plain(reason: str) -> str:
    """What went wrong, without the wrapping in which Flower hands on a ClientApp's exception: `<class 'module.Error'>:<'text'>`."""
    wrapped = re.fullmatch(r"<class '[^']*'>:<(.*)>", reason.strip(), re.DOTALL)
    if wrapped is None:
        return reason
    try:
        text = ast.literal_eval(wrapped[1])
    except (SyntaxError, ValueError):
        text = wrapped[1]
    return " ".join(str(text).split())
