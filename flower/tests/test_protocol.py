"""What is packed is read again; what a site may have got wrong is refused."""

import bonfire
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from bonfire_flower import protocol

EXAMPLES = {3: 40, 5: 60}
ROUND = 2


def uploads() -> list[bonfire.Upload]:
    slots = [np.array([1, 128], np.uint8), None]
    values = [np.array([0.5, -1.5, 2.0], np.float32), np.array([3.0], np.float32)]
    return [
        bonfire.Upload(header(client), v, s) for client, v, s in zip(EXAMPLES, values, slots, strict=True)
    ]


def header(client: int) -> dict[str, int | float]:
    numbers = {"client": client, "examples": EXAMPLES[client], "flags": 0, "rank": 8}
    return numbers | {"loss": 1.5, "steps": 3, "tokens": 70}


def test_uploads_come_back_as_they_were():
    read = protocol.read_uploads(protocol.pack_uploads(uploads(), ROUND), EXAMPLES, ROUND)
    for before, after in zip(uploads(), read, strict=True):
        assert after.header == before.header
        assert np.array_equal(after.values, before.values)
        assert (after.slots is None) == (before.slots is None)
        assert after.slots is None or np.array_equal(after.slots, before.slots)


def test_a_node_has_two_arrays_however_many_clients():
    assert set(protocol.pack_uploads(uploads(), ROUND)["uploads"]) == {"values", "slots"}
    assert set(protocol.pack_uploads(uploads()[1:], ROUND)["uploads"]) == {"values"}


def test_no_client_sent_anything():
    assert protocol.read_uploads(protocol.pack_uploads([], ROUND), EXAMPLES, ROUND) == []


def test_orders_come_back_as_they_were():
    download = bonfire.Download(4, 3, {"a": np.arange(3, dtype=np.float32)})
    read = protocol.read_order(protocol.pack_order(protocol.Order("", 10, download, None)))
    assert (read.config, read.clients, read.plan) == ("", 10, None)
    assert (read.download.round, read.download.since) == (4, 3)
    assert np.array_equal(read.download.arrays["a"], download.arrays["a"])


def test_introductions_come_back_as_they_were():
    introduction = protocol.Introduction(EXAMPLES, "abc", 0)
    assert protocol.read_introduction(protocol.pack_introduction(introduction), 10) == introduction


def change(**columns) -> RecordDict:
    """Good uploads with other numbers."""
    content = protocol.pack_uploads(uploads(), ROUND)
    content["numbers"] = MetricRecord(dict(content["numbers"]) | columns)
    return content


def with_array(name: str, array: Array) -> RecordDict:
    content = protocol.pack_uploads(uploads(), ROUND)
    content["uploads"] = ArrayRecord(dict(content["uploads"]) | {name: array})
    return content


def without(name: str) -> RecordDict:
    content = protocol.pack_uploads(uploads(), ROUND)
    del content[name]
    return content


BAD_UPLOADS = {
    "no reply": (without("reply"), "reply"),
    "no arrays": (without("uploads"), "uploads"),
    "another start": (protocol.pack_uploads(uploads(), ROUND - 1), "start"),
    "a stranger": (change(client=[3, 4]), "not asked for"),
    "one client twice": (change(client=[3, 3]), "twice"),
    "a client that is no number": (change(client=[3.0, 5.0]), "client"),
    "one number, no list": (change(client=3), "client"),
    "too few rows": (change(steps=[1]), "steps"),
    "other examples": (change(examples=[40, 6000]), "examples"),
    "lengths that do not add up": (change(**{"len-values": [3, 2]}), r"float32\[5\]"),
    "a negative length": (change(**{"len-values": [5, -1]}), "negative"),
    "values that are no array": (
        with_array("values", Array("float32", (4,), "numpy.ndarray", b"1234")),
        "cannot be read",
    ),
    "values packed otherwise": (
        with_array("values", Array("float32", (4,), "raw", b"1234")),
        "cannot be read",
    ),
    "values of another kind": (with_array("values", Array(np.zeros(4))), "float64"),
    "values in two dimensions": (with_array("values", Array(np.zeros((2, 2), np.float32))), r"\[2, 2\]"),
    "slots of another kind": (with_array("slots", Array(np.zeros(2, np.int64))), "int64"),
}


@pytest.mark.parametrize("case", BAD_UPLOADS)
def test_bad_uploads(case):
    content, why = BAD_UPLOADS[case]
    with pytest.raises(protocol.BadReply, match=why):
        protocol.read_uploads(content, EXAMPLES, ROUND)


def test_a_header_that_bonfire_refuses():
    content = protocol.pack_uploads(uploads(), ROUND)
    numbers = dict(content["numbers"])
    del numbers["tokens"]
    content["numbers"] = MetricRecord(numbers)
    with pytest.raises(protocol.BadReply, match="client 3"):
        protocol.read_uploads(content, EXAMPLES, ROUND)


def site(**entries) -> RecordDict:
    good = {"clients": [3, 5], "examples": [40, 60], "fingerprint": "abc", "holds": 0}
    return RecordDict({"site": ConfigRecord(good | entries)})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (RecordDict(), "site"),
        (RecordDict({"site": MetricRecord({"clients": [3]})}), "site"),
        (site(clients=[], examples=[]), "no client"),
        (site(clients=[3, 10]), "0 to 9"),
        (site(clients=[-1, 5]), "0 to 9"),
        (site(clients=[5, 5]), "twice"),
        (site(clients=["3", "5"]), "clients"),
        (site(examples=[40]), "examples"),
        (site(examples=[40, 0]), "examples"),
        (site(fingerprint=7), "fingerprint"),
        (site(holds=-1), "holds"),
        (site(holds=True), "holds"),
    ],
)
def test_bad_introductions(content, why):
    with pytest.raises(protocol.BadReply, match=why):
        protocol.read_introduction(content, 10)


def scores(**columns) -> RecordDict:
    row = {"client": 3, "examples": 10, "loss": 0.7, "accuracy": 0.8}
    content = protocol.pack_scores([row], ROUND)
    content["scores"] = MetricRecord(dict(content["scores"]) | columns)
    return content


def test_scores():
    assert protocol.read_scores(scores(), EXAMPLES) == [
        {"client": 3, "examples": 10, "loss": 0.7, "accuracy": 0.8}
    ]
    assert protocol.read_scores(protocol.pack_scores([], ROUND), EXAMPLES) == []
    number = {"client": 3, "examples": 10, "loss": 0.7}  # of a model that foretells numbers
    assert protocol.read_scores(protocol.pack_scores([number], ROUND), EXAMPLES) == [number]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"client": [9]}, "not asked for"),
        ({"examples": [0]}, "no examples"),
        ({"accuracy": [1.5]}, "between 0 and 1"),
        ({"accuracy": [float("nan")]}, "between 0 and 1"),
        ({"loss": [float("inf")]}, "finite"),
        ({"loss": [1]}, "loss"),
    ],
)
def test_bad_scores(columns, why):
    with pytest.raises(protocol.BadReply, match=why):
        protocol.read_scores(scores(**columns), EXAMPLES)
