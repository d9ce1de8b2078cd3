"""A node's site between messages: in a process that lives on, in fresh ones, and where one process serves
many nodes."""

from typing import ClassVar

import bonfire
import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from bonfire_flower import client_app, protocol, sites

CONFIG = '[model]\npath = "builtin"\n'


class Site:
    """Holds the number of the round it was last brought to; counts how often one was loaded."""

    loaded = 0
    saved: ClassVar[list[str]] = []

    def __init__(self, config, shards, *, overrides, device):
        Site.loaded += 1
        self.clients, self.holds = list(shards), 0
        self.examples, self.fingerprint = dict.fromkeys(shards, 10), "abc"
        self.told = (config["model"]["path"], shards, overrides, device)

    def train(self, download, plan):
        if download.since not in (0, self.holds):
            raise bonfire.StaleError("stale")
        self.holds = download.round
        if download.round == 13:
            raise bonfire.BonfireError("the device failed")
        return []

    def save_clients(self, folder):
        Site.saved.append(folder)
        return self.clients

    def state(self):
        return bytes([self.holds])

    def restore(self, state):
        self.holds = state[0]


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    monkeypatch.setattr(bonfire, "Site", Site)
    fresh_process()
    Site.loaded, Site.saved = 0, []


def fresh_process():
    sites._loaded.clear()


def context(run=1, **node_config) -> Context:
    return Context(run, 7, node_config or {"clients": "0-1"}, RecordDict(), {})


def order(context: Context, round: int, since: int, config: str = "") -> RecordDict:
    download = bonfire.Download(round, since, {})
    return ask(context, MessageType.TRAIN, protocol.pack_order(protocol.Order(config, 10, download, None)))


def ask(context: Context, kind: str, content: RecordDict) -> RecordDict:
    return client_app.app(Message(content, dst_node_id=7, message_type=kind), context).content


def holds(content: RecordDict) -> int:
    return content["reply"]["holds"]


def test_a_site_introduces_itself():
    node = context()
    reply = ask(node, MessageType.QUERY, protocol.pack_greeting(CONFIG, 10))
    assert protocol.read_introduction(reply, 10) == protocol.Introduction({0: 10, 1: 10}, "abc", 0)
    order(node, 1, 0, CONFIG)
    assert (
        protocol.read_introduction(ask(node, MessageType.QUERY, protocol.pack_greeting(CONFIG, 10)), 10).holds
        == 1
    )


def test_a_site_that_sends_sums_alone_says_so_when_it_is_greeted():
    insists = context(clients="0-1", **{"secure-aggregation": True})
    greeting = protocol.pack_greeting(CONFIG, 10)
    with pytest.raises(ValueError, match="under secure-aggregation=true alone"):
        ask(insists, MessageType.QUERY, greeting)
    ask(insists, MessageType.QUERY, protocol.pack_greeting(CONFIG, 10, True))
    with pytest.raises(TypeError, match="true or false"):
        ask(context(clients="0-1", **{"secure-aggregation": "yes"}), MessageType.QUERY, greeting)


@pytest.mark.parametrize("fresh", [False, True])
def test_state_lasts_from_message_to_message(fresh):
    node = context()
    assert holds(order(node, 1, 0, CONFIG)) == 1
    if fresh:
        fresh_process()
    assert holds(order(node, 2, 1)) == 2
    assert Site.loaded == (2 if fresh else 1)


def test_a_node_that_lost_everything_says_so():
    lost = order(context(), 3, 2)
    assert protocol.lacks(lost)
    assert holds(lost) == 0
    assert Site.loaded == 0


def test_a_node_that_holds_something_else_says_what():
    node = context()
    order(node, 1, 0, CONFIG)
    reply = order(node, 4, 3)
    assert protocol.lacks(reply)
    assert holds(reply) == 1
    assert holds(order(node, 4, 0, CONFIG)) == 4


def test_nodes_of_one_process_do_not_share_a_site():
    first, second = context(clients="0"), context(clients="1")
    order(first, 1, 0, CONFIG)
    assert protocol.lacks(order(second, 2, 1, CONFIG))
    assert holds(order(first, 2, 1)) == 2


def test_processes_in_turn_see_the_newest_state():
    node = context()
    order(node, 1, 0, CONFIG)
    here = dict(sites._loaded)
    fresh_process()
    order(node, 2, 1)
    sites._loaded.clear()
    sites._loaded.update(here)
    assert holds(order(node, 3, 2)) == 3


def test_another_run_or_configuration_starts_from_nothing():
    node = context()
    order(node, 1, 0, CONFIG)
    other = Context(2, 7, node.node_config, node.state, {})
    assert protocol.lacks(order(other, 2, 1))
    assert (
        protocol.read_introduction(
            ask(other, MessageType.QUERY, protocol.pack_greeting(CONFIG, 10)), 10
        ).holds
        == 0
    )
    assert Site.loaded == 2


def test_a_site_that_broke_off_is_loaded_anew_as_it_was():
    node = context()
    order(node, 1, 0, CONFIG)
    with pytest.raises(bonfire.BonfireError):
        order(node, 13, 1)
    assert holds(order(node, 2, 1)) == 2
    assert Site.loaded == 2


def test_the_node_says_where_model_and_data_are():
    node = context(clients="4", data="rows", model="weights", privacy="none", device="cuda:1")
    order(node, 1, 0, CONFIG)
    site = next(iter(sites._loaded.values())).site
    assert site.told == ("builtin", {4: "rows"}, {"model.path": "weights"}, "cuda:1")
    order(context(clients="5"), 1, 0, CONFIG)
    assert list(sites._loaded.values())[1].site.told == ("builtin", [5], None, "auto")


def test_the_clients_own_adapters_are_saved_where_the_node_says():
    order(context(clients="4", save="own"), 1, 0, CONFIG)
    order(context(clients="5"), 1, 0, CONFIG)
    assert Site.saved == ["own"]


def test_few_sites_stay_loaded(monkeypatch):
    monkeypatch.setattr(sites, "LOADED", 2)
    for client in range(4):
        order(context(clients=str(client)), 1, 0, CONFIG)
    assert [loaded.site.clients for loaded in sites._loaded.values()] == [[2], [3]]
