"""Whole rounds under secure aggregation, with Bonfire's server and sites: what one process computes, to the quantisation."""

import bonfire
import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from test_whole import SMALL, Grid, by_hand, federation, plain

from bonfire_flower import protocol, roster, rounds
from bonfire_flower.roster import NoNodes
from bonfire_flower.secure_settings import SecureSettings

FOUR = SMALL | {"clients.count": 5, "train.rounds": 1}
SITES = [{"clients": "0,2"}, {"clients": "1"}, {"clients": "3"}, {"clients": "4"}]
FINE = SecureSettings(1.0, 0.67, 1.0, 1 << 26, 1 << 32)


class Wire(Grid):
    """What crosses is written and read. `lost` are nodes that do not answer a stage, `bare` those that have lost their site before it;
    `sent` what nodes sent in the stage that brings vectors."""

    def __init__(self, *node_configs, lost=(), bare=()) -> None:
        super().__init__(*node_configs)
        self.lost, self.bare, self.sent = set(lost), set(bare), {}

    def push_messages(self, messages):
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.content = recorddict_from_proto(recorddict_to_proto(message.content))
            stage = message.content.get(RECORD_KEY_CONFIGS, {}).get(Key.STAGE)
            if (stage, node) in self.lost:
                self.pushed += 1
                ids.append(f"m{self.pushed}")
                continue
            if (stage, node) in self.bare:
                self.bare.remove((stage, node))
                for name in ("bonfire", "site"):
                    self.contexts[node].state.pop(name, None)
            try:
                ids += super().push_messages([message])
            except ValueError as error:  # as Flower does
                ids.append(f"m{self.pushed}")
                self.replies[ids[-1]] = Message(Error(2, str(error)), reply_to=message)
                continue
            if stage == Stage.COLLECT_MASKED_VECTORS:
                self.sent[node] = self.replies[ids[-1]].content
        return ids


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(roster, "PAUSE", 0.001)
    monkeypatch.setattr(rounds, "PAUSE", 0.001)


def secured(tmp_path, grid, overrides, settings=FINE, **changes):
    run = federation(tmp_path, grid, None, overrides, "none")
    changed = {"secure": settings, "min_nodes": 3, "round_timeout": 60.0} | changes
    for key, value in changed.items():
        object.__setattr__(run.settings, key, value)
    return run


def apart(server: bonfire.Server, other: bonfire.Server) -> float:
    ours, theirs = numbers(server), numbers(other)
    assert ours.keys() == theirs.keys()
    return max(np.abs(ours[name] - theirs[name]).max() for name in ours)


def numbers(server: bonfire.Server) -> dict[str, np.ndarray]:
    try:
        return server.tensors()
    except bonfire.BonfireError:  # all weights train, and there is no adapter
        return server.adapter.arrays


METHODS = {
    "both factors": plain("fedit"),
    "in turn": plain("rolora"),
    "a part kept": plain("fedsa-lora"),
    "all weights": plain("full"),
    "uniform weights": plain("fedit") | {"server.weights": "uniform"},
    "control variates": plain("fedit") | {"server.weights": "uniform", "train.scaffold": True},
    "shorter downloads": plain("fedit") | {"wire.download": "bf16"},
    "dropouts": plain("fedit") | {"clients.dropout": 0.3},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_round_is_that_of_one_process_to_the_quantisation(tmp_path, method):
    overrides, grid = FOUR | METHODS[method], Wire(*SITES)
    run, other = secured(tmp_path, grid, overrides), by_hand(overrides)
    assert run.server.against_secure_aggregation is None
    run.run()
    row, plain_row = run.server.history[0], other.history[0]
    # Of every site at most a step and a half, over the sum of weights of which the largest is 1; and f32 of numbers up to 1.
    assert apart(run.server, other) <= 1.5 * len(SITES) * FINE.step + 6e-8
    # A row weighs losses by examples, and of a sum without weights it has no other mean.
    if "server.weights" not in overrides:
        loss = pytest.approx(plain_row["train_loss"], abs=1.5 * len(SITES) * FINE.step * 256)
        assert row["train_loss"] == loss
    for key in ("dropped", "download_bytes", "tokens"):
        assert row.get(key) == plain_row.get(key)
    # Each site has sent its sum once, however many clients it holds.
    uploads, sites = len(other.client_rows), run.folder.rows[0]["answered"]
    assert row["upload_params"] * uploads == plain_row["upload_params"] * sites
    assert run.server.client_rows == [] and (sites == len(SITES) or method == "dropouts")
    vectors = sum(content["masked"]["sum"].numpy().nbytes for content in grid.sent.values())
    assert vectors == 4 * (row["upload_params"] + 2 * sites)
    assert vectors < row["upload_bytes"] < vectors + 40_000


def test_no_upload_is_in_any_message(tmp_path):
    grid = Wire(*SITES)
    secured(tmp_path, grid, FOUR | plain("fedit")).run()
    for content in grid.sent.values():
        assert sorted(content) == ["masked", "reply"] and list(content["masked"]) == ["sum"]
        vector = content["masked"]["sum"].numpy()
        # A movement is a few steps beside the middle of the range; what is sent goes over all of the modulus.
        top = np.bincount(vector >> 24, minlength=256) / vector.size
        assert top.min() > 0.5 / 256 and top.max() < 2 / 256


def test_a_site_that_vanishes_with_its_shares_out_is_made_up_for(tmp_path):
    overrides = FOUR | plain("fedit")
    grid = Wire(*SITES, lost={(Stage.COLLECT_MASKED_VECTORS, 12)})
    run = secured(tmp_path, grid, overrides, round_timeout=20.0)
    run.run()
    row = run.folder.rows[0]
    assert (row["nodes"], row["answered"], row["dropped"]) == (4, 3, [1])
    site, server = bonfire.Site(None, None, overrides=overrides), bonfire.Server(None, overrides=overrides)
    uploads = site.train(server.download(0, site.clients), server.plan())
    server.aggregate([upload for upload in uploads if upload.client != 1])
    assert apart(run.server, server) <= 1.5 * 3 * FINE.step + 6e-8


def test_a_site_that_has_lost_all_is_sent_all_in_the_same_stage(tmp_path):
    overrides = FOUR | plain("fedit") | {"train.rounds": 2}
    grid = Wire(*SITES)
    run = secured(tmp_path, grid, overrides)
    run.round()
    grid.bare = {(Stage.COLLECT_MASKED_VECTORS, 13)}
    run.folder.rows, row = [], run.round()[0]
    assert (row["answered"], row.get("dropped"), grid.bare) == (4, None, set())


def test_too_few_sites_for_a_sum(tmp_path):
    grid = Wire(*SITES, lost={(Stage.COLLECT_MASKED_VECTORS, node) for node in (11, 12)})
    run = secured(tmp_path, grid, FOUR | plain("fedit"), round_timeout=5.0, wait=1.0)
    with pytest.raises(NoNodes, match="after 1 s there are 2 nodes of 3"):
        run.run()
    assert run.server.round == 0


def test_a_movement_beyond_the_range_leaves_its_site_out(tmp_path, caplog):
    narrow = SecureSettings(1.0, 0.67, 1e-9, 1 << 26, 1 << 32)
    with caplog.at_level("WARNING", logger="flwr"), pytest.raises(NoNodes):
        secured(tmp_path, Wire(*SITES), FOUR | plain("fedit"), narrow, wait=1.0).run()
    said = [r.getMessage() for r in caplog.records if "beyond clipping-range = 1e-09, and is not sent clipped" in r.getMessage()]
    assert len(said) >= len(SITES) and all("is left out" in text for text in said)


REFUSED = {
    "strategy.name is lora-a2": {},
    "strategy.name is flora": plain("flora"),
    "clients.budget": plain("replication") | {"clients.budget": [2, 8, 4, 8, 8]},
    "wire": plain("fedit") | {"wire.upload": "bf16"},
    "server.aggregate": plain("fedit") | {"server.aggregate": {"name": "median"}},
    "server.max_norm": plain("fedit") | {"server.max_norm": 1.0},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_sum_serves_is_refused(words):
    overrides = FOUR | REFUSED[words]
    server = bonfire.Server(None, overrides=overrides, evaluate=False)
    assert server.against_secure_aggregation.startswith(words)
    site = bonfire.Site(None, [0], overrides=overrides)
    (upload,) = site.train(server.download(0, [0]), server.plan())
    with pytest.raises(bonfire.BonfireError, match=words.split()[0]):
        server.aggregate_mean(upload, {0: upload.examples}, sites=1, sent_bytes=1)


def test_a_mean_that_is_none_is_refused():
    overrides = FOUR | plain("fedit")
    server, site = bonfire.Server(None, overrides=overrides), bonfire.Site(None, [0], overrides=overrides)
    (upload,) = site.train(server.download(0, [0]), server.plan())
    told = {"sites": 1, "sent_bytes": 1}
    with pytest.raises(bonfire.BonfireError, match="one client or more"):
        server.aggregate_mean(upload, {}, **told)
    with pytest.raises(bonfire.BonfireError, match="client 1 was not asked"):
        server.aggregate_mean(upload, {1: 5}, asked=[0], **told)
    short = bonfire.Upload(upload.header, upload.values[1:])
    with pytest.raises(bonfire.BonfireError, match="the mean is refused"):
        server.aggregate_mean(short, {0: 5}, **told)
    huge = bonfire.Upload(upload.header, np.full_like(upload.values, 1e9))
    with pytest.raises(bonfire.BonfireError, match="norm"):
        server.aggregate_mean(huge, {0: 5}, **told)
    assert server.round == 0 and protocol.VERSION == 1
