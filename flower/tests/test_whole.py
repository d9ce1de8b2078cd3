"""The whole app in one process, every message in a process that has just begun: the same numbers as without
it, whatever a method sends."""

import json
from pathlib import Path

import bonfire
import numpy as np
import pytest
from flwr.app import Array, Context, Message, RecordDict

from bonfire_flower import client_app, protocol, roster, rounds, sites
from bonfire_flower.exchange import Exchange
from bonfire_flower.folder import RunFolder
from bonfire_flower.roster import Roster
from bonfire_flower.rounds import Rounds
from bonfire_flower.settings import Settings

SMALL = {
    "clients.count": 3,
    "data.labels": 4,
    "train.rounds": 2,
    "train.epochs": 1,
    "train.batch_size": 32,
    "engine.in_flight": 1,
    "engine.device": "cpu",
}
SITES = [{"clients": "0,2"}, {"clients": "1"}]


class Grid:
    """Nodes that run the ClientApp when they are sent something."""

    def __init__(self, *node_configs: dict[str, str]) -> None:
        told = [{"device": "cpu"} | config for config in node_configs]
        self.contexts = {i: Context(1, i, config, RecordDict(), {}) for i, config in enumerate(told, 11)}
        self.replies: dict[str, Message] = {}
        self.pushed = 0

    def get_node_ids(self):
        return list(self.contexts)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self.pushed += 1
            ids.append(f"m{self.pushed}")
            sites._loaded.clear()
            self.replies[ids[-1]] = client_app.app(message, self.contexts[message.metadata.dst_node_id])
        return ids

    def pull_messages(self, ids):
        return [self.replies.pop(message_id) for message_id in ids if message_id in self.replies]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(roster, "PAUSE", 0.001)
    monkeypatch.setattr(rounds, "PAUSE", 0.001)


def plain(name: str) -> dict[str, object]:
    return {"strategy.name": name, "clients.budget": "full"}


METHODS = {
    "chosen slots": {},
    "fewer slots": {"strategy.name": "hetlora", "clients.budget": [2, 8, 4]},
    "a part kept": plain("fedsa-lora"),
    "stacked": plain("flora"),
    "residues": plain("fedex-lora"),
    "control variates": plain("fedit") | {"train.scaffold": True},
    "moments": plain("fedlada"),
    "cores": plain("fed-sb"),
    "a sample of clients": {"clients.per_round": 2},
    "dropouts": {"clients.dropout": 0.5},
    "all weights": plain("full"),
    "shorter downloads": {"wire.download": "int8"},
}
AT_SITES = ["chosen slots", "shorter downloads", "fewer slots", "a part kept", "stacked"]
CASES = [(method, "none") for method in METHODS] + [(method, "sites") for method in AT_SITES]


@pytest.mark.parametrize(("method", "evaluate"), CASES)
def test_the_numbers_are_those_of_server_and_sites(tmp_path, method, evaluate):
    overrides = SMALL | METHODS[method]
    run = federation(tmp_path, Grid(*SITES), None, overrides, evaluate)
    run.run()
    other = by_hand(overrides)
    assert run.server.ledger == other.ledger
    for name, part in other.adapter.arrays.items():
        assert np.array_equal(run.server.adapter.arrays[name], part), name
    assert json.loads((run.folder.path / "labels.json").read_text(encoding="utf-8")) == run.server.labels
    assert ("site_accuracy" in run.folder.rows[-1]) == (evaluate == "sites")


def federation(tmp_path, grid, config=None, overrides=None, evaluate="server") -> Rounds:
    server = bonfire.Server(config, overrides=overrides, evaluate=evaluate == "server")
    exchange = Exchange(grid)
    settings = Settings("", overrides or {}, str(tmp_path / "run"), False, 1, 60.0, 60.0, evaluate)
    folder = RunFolder(settings.out, False)
    folder.begin(server)
    return Rounds(server, exchange, Roster(server, exchange, settings), folder, settings)


def by_hand(overrides) -> bonfire.Server:
    server = bonfire.Server(None, overrides=overrides, evaluate=False)
    site = bonfire.Site(None, None, overrides=overrides)
    while not server.finished:
        server.aggregate(site.train(server.download(site.holds, site.clients), server.plan()))
    return server


class Meddler(Grid):
    """The second node's upload is not what the round asks for, but says of itself what it is."""

    def __init__(self, values, *node_configs) -> None:
        super().__init__(*node_configs)
        self.values = values

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        for message_id, message in zip(ids, messages, strict=True):
            if message.metadata.dst_node_id == 12 and message.metadata.message_type == "train":
                self.meddle(self.replies[message_id].content)
        return ids

    def meddle(self, content: RecordDict) -> None:
        values = self.values(content["uploads"]["values"].numpy())
        content["uploads"]["values"] = Array(values)
        content["numbers"][protocol.VALUES] = [values.size]


BAD_VALUES = {
    "one too many": lambda values: np.append(values, np.float32(1)),
    "one too few": lambda values: values[1:],
    "not a number": lambda values: np.where(np.arange(values.size) == 3, np.float32("nan"), values),
    "infinite": lambda values: values / np.float32(0),
}


@pytest.mark.filterwarnings("ignore:.*encountered in divide")
@pytest.mark.parametrize("case", BAD_VALUES)
def test_an_upload_that_the_server_refuses(tmp_path, case):
    run = federation(tmp_path, Meddler(BAD_VALUES[case], *SITES), None, SMALL, "none")
    row, _ = run.round()
    assert (row["nodes"], row["answered"], row["dropped"]) == (2, 1, [1])
    assert [client["client"] for client in run.server.client_rows] == [0, 2]


def test_sites_with_rows_of_their_own(tmp_path):
    for name, train, test in (("server", 0, 10), ("one", 20, 4), ("two", 30, 0)):
        write_rows(tmp_path / name, train, test)
    config = {
        "model": {"path": "builtin"},
        "data": {"path": str(tmp_path / "server"), "partition": {"kind": "iid"}},
        "clients": {"count": 2, "budget": "full"},
        "adapter": {"rank": 4, "alpha": 8},
        "train": {"rounds": 1, "epochs": 1, "batch_size": 8, "lr_a": 1e-3},
        "strategy": {"name": "fedit"},
    }
    own = {"privacy": "none"}
    nodes = [own | {"clients": str(i), "data": str(tmp_path / name)} for i, name in enumerate(("one", "two"))]
    run = federation(tmp_path, Grid(*nodes), config, evaluate="sites")
    run.run()
    assert [row["examples"] for row in run.server.client_rows] == [20, 30]
    assert run.folder.rows[0]["site_examples"] == 4


def write_rows(folder: Path, train: int, test: int) -> None:
    folder.mkdir()
    (folder / "labels.json").write_text(json.dumps(["odd", "even"]))
    for name, count in (("train", train), ("test", test)):
        rows = [{"text": f"number {i}", "label": ["even", "odd"][i % 2]} for i in range(count)]
        if rows:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
