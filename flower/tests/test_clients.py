"""Which clients a node holds, and with what data."""

import os

import pytest

from bonfire_flower.clients import block, client_list, held_clients, shards


def test_lists_and_ranges():
    assert client_list("0-9", 10) == list(range(10))
    assert client_list("0, 3,5-7", 10) == [0, 3, 5, 6, 7]
    assert client_list(4, 10) == [4]


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "5-3", "0-10", "1,1", "0-3,3", "1;2", "²"])
def test_lists_that_mean_nothing(text):
    with pytest.raises(ValueError, match="clients = "):
        client_list(text, 10)


@pytest.mark.parametrize(("clients", "partitions"), [(10, 4), (10, 10), (7, 3), (1, 1), (100, 7)])
def test_blocks_deal_out_all_clients_in_order(clients, partitions):
    blocks = [block(i, partitions, clients) for i in range(partitions)]
    assert [client for held in blocks for client in held] == list(range(clients))
    sizes = {len(held) for held in blocks}
    assert max(sizes) - min(sizes) <= 1


def test_more_partitions_than_clients():
    with pytest.raises(ValueError, match="num-partitions = 11"):
        block(0, 11, 10)
    with pytest.raises(ValueError, match="partition-id = 4"):
        block(4, 4, 10)


def test_own_list_comes_before_the_partition():
    node = {"clients": "1,2", "partition-id": 0, "num-partitions": 2}
    assert held_clients(node, 10) == [1, 2]
    del node["clients"]
    assert held_clients(node, 10) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="does not know its clients"):
        held_clients({}, 10)


def test_folders():
    assert shards({}, [3, 4]) == [3, 4]
    assert shards({"data": "site"}, [3]) == {3: "site"}
    assert shards({"data": "3=a; 4=b c"}, [3, 4]) == {3: "a", 4: "b c"}
    home = os.path.expanduser("~/rows")
    assert shards({"data": "~/rows"}, [3]) == shards({"data": "3=~/rows"}, [3]) == {3: home}


@pytest.mark.parametrize("data", ["site", "3=a", "3=a;3=b", "3=a;4=", "x=a;4=b", "3=a;4=b;5=c"])
def test_folders_that_do_not_fit(data):
    with pytest.raises(ValueError, match="data"):
        shards({"data": data}, [3, 4])
