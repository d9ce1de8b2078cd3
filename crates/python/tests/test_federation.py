"""Server and sites, with nothing but numbers, text and arrays between them."""

import json

import bonfire
import numpy as np
import pytest


def over_the_wire(message):
    """What a transport makes of it."""
    copy = {name: np.array(part) for name, part in getattr(message, "arrays", {}).items()}
    match message:
        case bonfire.Plan():
            return bonfire.Plan(message.text, copy)
        case bonfire.Download():
            return bonfire.Download(message.round, message.since, copy)
        case bonfire.Upload():
            header = json.loads(json.dumps(message.header))
            return bonfire.Upload(header, message.values.copy(), message.slots)


def one_round(server, sites):
    plan, uploads = over_the_wire(server.plan()), []
    for site in sites:
        download = over_the_wire(server.download(site.holds, site.clients))
        uploads += [over_the_wire(upload) for upload in site.train(download, plan, plan.round)]
    asked = [client for site in sites for client in site.clients if client in plan.clients]
    return server.aggregate(uploads[::-1], asked)


def apart(one, other):
    """The largest difference between two adapters, by the largest number of the second."""
    assert one.keys() == other.keys()
    largest = max(float(np.abs(array).max()) for array in other.values())
    return max(float(np.abs(one[name] - other[name]).max()) for name in one) / largest


@pytest.mark.parametrize("strategy", ["lora-a2", "fedit", "flora", "hetlora", "fedsa-lora"])
def test_sites_are_one_run(small, tmp_path, strategy):
    ranks = (
        {"clients.budget": [2, 4, 8, 3]} if strategy in ("lora-a2", "flora", "hetlora") else {"clients.budget": "full"}
    )
    overrides = small | ranks | {"strategy.name": strategy}
    server = bonfire.Server(overrides=overrides)
    sites = [bonfire.Site(shards=own, overrides=overrides, device="cpu") for own in ([0, 1], [2], [3])]
    assert {site.fingerprint for site in sites} == {server.fingerprint}
    while not server.finished:
        one_round(server, sites)
    run = bonfire.train(overrides=overrides, device="cpu", out=tmp_path / "run")
    counts = ("upload_bytes", "upload_params", "download_bytes", "upload_index_bytes")
    # A federation of sites does not evaluate the untrained model.
    for row, expected in zip(server.history, run.rounds[1:], strict=True):
        assert [row[count] for count in counts] == [expected[count] for count in counts]
    server.save(tmp_path / "adapter")
    whole = (
        bonfire.Server(overrides=overrides | {"adapter.init": f"{run.folder}/adapter"})
        if strategy == "lora-a2"
        else None
    )
    if whole is not None:
        # The other batch of clients sums in another order.
        assert apart(server.tensors(), whole.tensors()) < 2e-3
    assert server.summary["upload_bytes"] == run.summary["upload_bytes"] == server.ledger["upload_bytes"]
    if strategy == "fedsa-lora":
        assert sites[0].save_clients(tmp_path / "clients") == [0, 1]
        assert (tmp_path / "clients" / "0001" / "adapter_model.safetensors").is_file()
        assert all(row["personal"] for row in sites[0].evaluate())
    else:
        assert abs(row["test_accuracy"] - expected["test_accuracy"]) < 0.02
        assert not any(row["personal"] for row in sites[0].evaluate(server.adapter))


def test_a_site_is_lost_and_another_takes_its_place(small):
    server = bonfire.Server(overrides=small)
    one = bonfire.Site(shards=[0, 1], overrides=small, device="cpu")
    two = bonfire.Site(shards=[2, 3], overrides=small, device="cpu")
    first = one_round(server, [one, two])
    plan = server.plan()
    uploads = one.train(server.download(one.holds, one.clients), plan)
    row = server.aggregate(uploads, asked=[0, 1, 2, 3])
    assert row["dropped"] == [2, 3] and row["lost_download_bytes"] > 0
    assert row["upload_bytes"] == sum(upload.nbytes for upload in uploads) < first["upload_bytes"]
    server.forget([2, 3])
    fresh = bonfire.Site(shards=[2, 3], overrides=small, device="cpu")
    with pytest.raises(bonfire.StaleError, match="holds nothing"):
        fresh.train(server.download(two.holds, fresh.clients), server.plan())
    assert set(server.download(fresh.holds, fresh.clients).arrays) == {"a", "b", "head"}
    assert set(server.download(one.holds, one.clients).arrays) == {"a", "head"}
    third = one_round(server, [one, fresh])
    assert "dropped" not in third and server.finished


def test_both_halves_go_on_from_their_states(small):
    server = bonfire.Server(overrides=small)
    sites = [bonfire.Site(shards=own, overrides=small, device="cpu") for own in ([0, 1], [2, 3])]
    one_round(server, sites)
    again = bonfire.Server.from_state(server.state(), overrides=small)
    others = []
    for site in sites:
        other = bonfire.Site(shards=site.clients, overrides=small, device="cpu")
        other.restore(site.state())
        assert other.holds == site.holds == 1
        others.append(other)
    while not server.finished:
        assert drop_clock(one_round(server, sites)) == drop_clock(one_round(again, others))
    assert apart(again.tensors(), server.tensors()) == 0
    assert again.ledger == server.ledger and len(again.history) == 3
    with pytest.raises(bonfire.BonfireError, match="all 3 rounds are done"):
        again.aggregate([])
    with pytest.raises(bonfire.BonfireError, match="its contents do not match"):
        damaged = bytearray(server.state())
        damaged[-1] ^= 1
        bonfire.Server.from_state(bytes(damaged), overrides=small)
    with pytest.raises(bonfire.ConfigError, match="strategy"):
        bonfire.Site(shards=[0, 1], overrides=small | {"strategy.name": "fedit"}).restore(sites[0].state())


def drop_clock(row):
    return {key: value for key, value in row.items() if key != "seconds"}


def test_sites_with_data_of_their_own(folders, small):
    overrides = {"train.rounds": 2, "clients.count": 2, "clients.budget": 4, "data.labels": 3}
    server = bonfire.Server(overrides=overrides | {"data.path": str(folders / "server")})
    one = bonfire.Site(shards={0: folders / "a"}, overrides=overrides, device="cpu")
    two = bonfire.Site(shards={1: str(folders / "b")}, overrides=overrides, device="cpu")
    assert one.fingerprint == two.fingerprint == server.fingerprint
    assert one.examples == {0: 40} and two.examples == {1: 40}
    rows = [one_round(server, [one, two]) for _ in range(2)]
    assert rows[-1]["test_accuracy"] > 0.3
    assert [row["client"] for row in one.evaluate(server.adapter)] == [0] and two.evaluate(server.adapter) == []
    both = bonfire.Site(shards={0: folders / "a", 1: folders / "b"}, overrides=overrides, device="cpu")
    assert both.clients == [0, 1]
    (folders / "a" / "labels.json").rename(folders / "a" / "other.json")
    with pytest.raises(bonfire.BonfireError, match="no labels.json"):
        bonfire.Site(shards={0: folders / "a"}, overrides=overrides)


def test_messages_that_do_not_fit_are_refused(small):
    server = bonfire.Server(overrides=small)
    site = bonfire.Site(shards=[0, 1], overrides=small, device="cpu")
    plan, download = server.plan(), server.download(0, site.clients)
    with pytest.raises(bonfire.ConfigError, match="round 2 was asked for"):
        site.train(download, plan, 2)
    with pytest.raises(bonfire.ConfigError, match='part "a" holds'):
        site.train(bonfire.Download(1, 0, {"a": np.zeros(3, np.float32)}), plan)
    with pytest.raises(bonfire.ConfigError, match="float32"):
        bonfire.Download(1, 0, {"a": np.zeros(3)})
    with pytest.raises(bonfire.ConfigError, match="one axis"):
        bonfire.Download(1, 0, {"a": np.zeros((3, 1), np.float32)})
    with pytest.raises(bonfire.ConfigError, match="not that of a plan"):
        bonfire.Plan("{}")
    uploads = site.train(download, plan)
    good = uploads[0]

    def refused(words, header=None, values=None, slots=None, asked=None):
        header = good.header | (header or {})
        values = good.values if values is None else values
        bad = bonfire.Upload(header, values, good.slots if slots is None else slots)
        with pytest.raises(bonfire.BonfireError, match=words):
            server.aggregate([bad], asked)
        if asked is None:
            with pytest.raises(bonfire.BonfireError, match=words):
                server.check(bad)

    refused("client 9, and the federation has 4", {"client": 9})
    refused("was not asked", asked=[1, 2])
    refused("there is no client 9", asked=[0, 9])
    refused("not finite", values=np.full_like(good.values, np.nan))
    refused("expected", values=good.values[:-1].copy())
    refused("its budget is", slots=np.full_like(good.slots, 255))
    with pytest.raises(bonfire.BonfireError, match="two uploads of client 0"):
        server.aggregate([good, good])
    with pytest.raises(bonfire.ConfigError, match="header has no rank"):
        bonfire.Upload({"client": 0, "examples": 1, "flags": 2}, good.values)
    with pytest.raises(bonfire.ConfigError, match="client in the upload's header"):
        bonfire.Upload(good.header | {"client": -1}, good.values)
    assert server.round == 0, "what was refused changed nothing"
    server.check(good)
    assert server.aggregate(uploads, asked=[0, 1])["round"] == 1
