"""The messages between ServerApp and ClientApp, packed and read.

    query     server: configuration                         site: clients, examples, fingerprint, holds
    train     server: plan, what the site lacks of a model  site: uploads, or "lacks" and what it holds
              under secure aggregation in four stages: secure.py
    evaluate  server: what the site lacks of the model      site: scores by client, or "lacks"

An Array costs two requests of a few hundred bytes each, however small it is. So all clients of a node share
two: their values end to end, and the bits of the slots that they chose; how long each one's part is stands
among the numbers. What comes from a site is checked here as far as it can be without knowing the model, the
rest by `Server.check`; a mistake raises BadReply.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bonfire
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

VERSION = 1
# Columns beside the header's own: how long a client's parts are in the two shared arrays.
VALUES, SLOTS = "len-values", "len-slots"
# The bit of an upload's flags that says that its numbers are shorter than float32.
CODED = 128


class BadReply(Exception):
    """A reply that cannot be used; the text says why."""


@dataclass(frozen=True)
class Order:
    """What a site is asked to do. `config` is empty where the site has it; an evaluation has no plan."""

    config: str
    clients: int
    download: bonfire.Download
    plan: bonfire.Plan | None


@dataclass(frozen=True)
class Introduction:
    """What a site says of itself: training examples by client, the round whose start it holds (0: none)."""

    examples: dict[int, int]
    fingerprint: str
    holds: int


# The server's messages.


def pack_greeting(config: str, clients: int, secure: bool = False) -> RecordDict:
    greeting = {"version": VERSION, "config": config, "clients": clients, "secure": secure}
    return RecordDict({"greeting": ConfigRecord(greeting)})


def read_greeting(content: RecordDict) -> tuple[str, int, bool]:
    """The configuration's text, the number of clients of the federation, and whether the server sees sums alone."""
    greeting = content["greeting"]
    if greeting["version"] != VERSION:
        raise ValueError(
            f"the server speaks version {greeting['version']} of the app's protocol, this node {VERSION}"
        )
    return greeting["config"], greeting["clients"], greeting.get("secure", False)


def pack_order(order: Order) -> RecordDict:
    numbers = {"clients": order.clients, "round": order.download.round, "since": order.download.since}
    texts = {"config": order.config} if order.config else {}
    records: dict[str, Any] = {"download": _arrays(order.download.arrays)}
    if order.plan is not None:
        texts["plan"] = order.plan.text
        if order.plan.arrays:
            records["plan"] = _arrays(order.plan.arrays)
    return RecordDict({"order": ConfigRecord(numbers | texts), **records})


def read_order(content: RecordDict) -> Order:
    order = content["order"]
    arrays = {name: array.numpy() for name, array in content["download"].items()}
    plan = None
    if "plan" in order:
        extra = content["plan"].items() if "plan" in content else ()
        plan = bonfire.Plan(order["plan"], {name: array.numpy() for name, array in extra})
    download = bonfire.Download(order["round"], order["since"], arrays)
    return Order(order.get("config", ""), order["clients"], download, plan)


# A site's messages.


def pack_introduction(introduction: Introduction) -> RecordDict:
    return RecordDict(
        {
            "site": ConfigRecord(
                {
                    "clients": list(introduction.examples),
                    "examples": list(introduction.examples.values()),
                    "fingerprint": introduction.fingerprint,
                    "holds": introduction.holds,
                }
            )
        }
    )


def read_introduction(content: RecordDict, clients: int) -> Introduction:
    site = record(content, "site", ConfigRecord)
    numbers = _column(site, "clients", int)
    examples = _column(site, "examples", int, len(numbers))
    if not numbers:
        raise BadReply("it holds no client")
    distinct(numbers)
    if min(numbers) < 0 or max(numbers) >= clients:
        raise BadReply(f"it claims clients {numbers}, the federation has clients 0 to {clients - 1}")
    if min(examples) < 1:
        raise BadReply("a client of it has no training examples")
    fingerprint = site.get("fingerprint")
    if not isinstance(fingerprint, str):
        raise BadReply("its fingerprint is not a text")
    return Introduction(dict(zip(numbers, examples, strict=True)), fingerprint, whole(site, "holds"))


def pack_lacks(holds: int) -> RecordDict:
    """The site does not hold what the download builds on; `holds` is what it has."""
    return RecordDict({"reply": ConfigRecord({"lacks": True, "holds": holds})})


def lacks(content: RecordDict) -> bool:
    return record(content, "reply", ConfigRecord).get("lacks") is True


def pack_uploads(uploads: list[bonfire.Upload], holds: int) -> RecordDict:
    records: dict[str, Any] = {"reply": ConfigRecord({"holds": holds})}
    if uploads:
        slots = [np.zeros(0, np.uint8) if upload.slots is None else upload.slots for upload in uploads]
        columns = {key: [upload.header[key] for upload in uploads] for key in uploads[0].header}
        columns[VALUES] = [upload.values.size for upload in uploads]
        columns[SLOTS] = [part.size for part in slots]
        arrays = {"values": np.concatenate([upload.values for upload in uploads])}
        if any(columns[SLOTS]):
            arrays["slots"] = np.concatenate(slots)
        records |= {"numbers": MetricRecord(columns), "uploads": _arrays(arrays)}
    return RecordDict(records)


def read_uploads(content: RecordDict, examples: Mapping[int, int], holds: int) -> list[bonfire.Upload]:
    """The uploads of a node that was to train these clients, with their examples, from round `holds`."""
    if lacks(content):
        raise BadReply("it lacks what it was sent whole")
    if whole(record(content, "reply", ConfigRecord), "holds") != holds:
        raise BadReply(f"it trained from another start than that of round {holds}")
    if "numbers" not in content:
        return []
    numbers = record(content, "numbers", MetricRecord)
    clients = _own_clients(numbers, examples)
    header = {
        key: _column(numbers, key, int | float, len(clients)) for key in numbers if key not in (VALUES, SLOTS)
    }
    if _column(header, "examples", int, len(clients)) != [examples[client] for client in clients]:
        raise BadReply("its clients' examples are not those it introduced itself with")
    arrays = record(content, "uploads", ArrayRecord)
    # A site's messages are all written in one way: as float32, or as bytes where [wire] shortens them.
    coded = {flags & CODED for flags in _column(header, "flags", int, len(clients))}
    if len(coded) > 1:
        raise BadReply("some of its uploads are short and some are not")
    kind = np.uint8 if CODED in coded else np.float32
    values = _parts(arrays, "values", kind, _column(numbers, VALUES, int, len(clients)))
    slots = _parts(arrays, "slots", np.uint8, _column(numbers, SLOTS, int, len(clients)))
    return [
        _upload({key: column[i] for key, column in header.items()}, values[i], slots[i])
        for i in range(len(clients))
    ]


def pack_scores(rows: list[dict[str, Any]], holds: int) -> RecordDict:
    columns = {
        "client": [row["client"] for row in rows],
        "examples": [row["examples"] for row in rows],
        "loss": [float(row["loss"]) for row in rows],
    }
    if all("accuracy" in row for row in rows):  # not where numbers are foretold
        columns["accuracy"] = [float(row["accuracy"]) for row in rows]
    return RecordDict({"reply": ConfigRecord({"holds": holds}), "scores": MetricRecord(columns)})


def read_scores(content: RecordDict, examples: Mapping[int, int]) -> list[dict[str, Any]]:
    """A row a client with test rows: client, examples, loss, and accuracy but where numbers are foretold."""
    scores = record(content, "scores", MetricRecord)
    clients = _own_clients(scores, examples)
    columns = {"client": clients, "examples": _column(scores, "examples", int, len(clients))}
    measured = ("loss", "accuracy") if "accuracy" in scores else ("loss",)
    columns |= {key: _column(scores, key, float, len(clients)) for key in measured}
    if any(count < 1 for count in columns["examples"]):
        raise BadReply("it scored a client on no examples")
    if not all(math.isfinite(loss) for loss in columns["loss"]) or not all(
        0 <= a <= 1 for a in columns.get("accuracy", [])
    ):
        raise BadReply("a loss is not finite, or an accuracy not between 0 and 1")
    return [{key: column[i] for key, column in columns.items()} for i in range(len(clients))]


def size(content: RecordDict) -> int:
    """Bytes of a message's records, as Flower counts them: arrays, numbers, texts and their names."""
    return sum(_countable(record).count_bytes() for record in content.values())


def _countable(record: Any) -> Any:
    """Without lists of nothing, at which Flower's count breaks off."""
    if not isinstance(record, ConfigRecord):
        return record
    return ConfigRecord({key: value for key, value in record.items() if value != []})


# Reading what may be wrong.


def _arrays(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def record(content: RecordDict, name: str, kind: type) -> Any:
    record = content.get(name)
    if not isinstance(record, kind):
        raise BadReply(f"it has no {kind.__name__} named {name}")
    return record


def whole(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadReply(f"{key} = {value!r} is not a whole number from 0")
    return value


def _column(record: Mapping[str, Any], key: str, kind: Any, rows: int | None = None) -> list[Any]:
    values = record.get(key)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, kind) for v in values):
        raise BadReply(f"{key} is not a list of numbers of its kind")
    if rows is not None and len(values) != rows:
        raise BadReply(f"{key} has {len(values)} rows, not {rows}")
    return values


def whole_list(record: Mapping[str, Any], key: str) -> list[int]:
    values = record.get(key)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise BadReply(f"{key} is not a list of whole numbers")
    return values


def distinct(clients: list[int]) -> None:
    if len(set(clients)) != len(clients):
        raise BadReply(f"it names a client twice: {clients}")


def _own_clients(record: Mapping[str, Any], examples: Mapping[int, int]) -> list[int]:
    clients = _column(record, "client", int)
    distinct(clients)
    if strangers := [client for client in clients if client not in examples]:
        raise BadReply(f"it answers for clients {strangers}, which it was not asked for")
    return clients


def _parts(arrays: ArrayRecord, name: str, dtype: type, lengths: list[int]) -> list[np.ndarray]:
    """An array cut into the clients' parts."""
    if min(lengths) < 0:
        raise BadReply(f"a length of {name} is negative")
    try:
        whole = arrays[name].numpy() if name in arrays else np.zeros(0, dtype)
    except Exception as error:  # np.load says in many ways that bytes are not an array
        raise BadReply(f"{name} cannot be read: {error}") from error
    if whole.dtype != dtype or whole.ndim != 1 or whole.size != sum(lengths):
        raise BadReply(f"{name} is {whole.dtype}{list(whole.shape)}, not {np.dtype(dtype)}[{sum(lengths)}]")
    return np.split(whole, np.cumsum(lengths)[:-1])


def _upload(header: dict[str, int | float], values: np.ndarray, slots: np.ndarray) -> bonfire.Upload:
    try:
        return bonfire.Upload(header, values, slots if slots.size else None)
    except bonfire.BonfireError as error:
        raise BadReply(f"the upload of client {header['client']} cannot be read: {error}") from error
