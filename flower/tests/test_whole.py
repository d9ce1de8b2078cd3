"""The whole app in one process, every message in a process that has just begun: the same numbers as without it, whatever a
method sends."""

import bonfire
import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from bonfire_flower import client_app, roster, rounds, sites
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
SITES = [[0, 2], [1]]


class Grid:
    """Nodes that run the ClientApp when they are sent something."""

    def __init__(self, clients: list[list[int]]) -> None:
        told = [{"clients": ",".join(map(str, of_node)), "device": "cpu"} for of_node in clients]
        self.contexts = {i: Context(1, i, node, RecordDict(), {}) for i, node in enumerate(told, 11)}
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
}
AT_SITES = ["chosen slots", "fewer slots", "a part kept", "stacked"]
CASES = [(method, "none") for method in METHODS] + [(method, "sites") for method in AT_SITES]


@pytest.mark.parametrize(("method", "evaluate"), CASES)
def test_the_numbers_are_those_of_server_and_sites(tmp_path, method, evaluate):
    overrides = SMALL | METHODS[method]
    server = bonfire.Server(None, overrides=overrides, evaluate=False)
    exchange = Exchange(Grid(SITES))
    settings = Settings("", overrides, str(tmp_path / "run"), False, 1, 60.0, 60.0, evaluate)
    folder = RunFolder(settings.out, False)
    folder.begin(server)
    Rounds(server, exchange, Roster(server, exchange, settings), folder, settings).run()
    other = by_hand(overrides)
    assert server.ledger == other.ledger
    for name, part in other.adapter.arrays.items():
        assert np.array_equal(server.adapter.arrays[name], part), name
    assert ("site_accuracy" in folder.rows[-1]) == (evaluate == "sites")


def by_hand(overrides) -> bonfire.Server:
    server = bonfire.Server(None, overrides=overrides, evaluate=False)
    site = bonfire.Site(None, None, overrides=overrides)
    while not server.finished:
        server.aggregate(site.train(server.download(site.holds, site.clients), server.plan()))
    return server
