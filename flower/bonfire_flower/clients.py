"""Which clients of the federation a node holds, and with what data: read from its node configuration; and which
it may hold, read from the run's."""

import os
from collections.abc import Mapping
from typing import Any

from .settings import split_outside_quotes

Shards = list[int] | dict[int, str]


def held_clients(node_config: Mapping[str, Any], clients: int) -> list[int]:
    """The numbers of a node's clients, ascending, in a federation of so many clients."""
    if "clients" in node_config:
        return client_list(node_config["clients"], clients)
    if "partition-id" in node_config and "num-partitions" in node_config:
        return block(int(node_config["partition-id"]), int(node_config["num-partitions"]), clients)
    raise ValueError(
        "this node does not know its clients: start the SuperNode with --node-config 'clients=\"0-9\"', "
        "or with partition-id and num-partitions"
    )


def client_list(value: Any, clients: int) -> list[int]:
    """Reads `"0-9"` or `"0,3,5-7"`; one number may stand without quotes."""
    found: set[int] = set()
    for part in str(value).split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(
                f'clients = "{value}": {part.strip()!r} is no client number and no range such as 5-7'
            )
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers or numbers[-1] >= clients:
            raise ValueError(f'clients = "{value}": this federation has clients 0 to {clients - 1}')
        if not found.isdisjoint(numbers):
            raise ValueError(f'clients = "{value}": {part.strip()!r} names a client a second time')
        found.update(numbers)
    return sorted(found)


def block(partition: int, partitions: int, clients: int) -> list[int]:
    """The clients of one of several blocks that follow each other, whose sizes differ by at most one."""
    if not 0 <= partition < partitions:
        raise ValueError(
            f"partition-id = {partition}: it must be from 0 to {partitions - 1} (num-partitions - 1)"
        )
    if partitions > clients:
        raise ValueError(
            f"num-partitions = {partitions}: there are {clients} clients, some nodes would hold none"
        )
    return list(range(partition * clients // partitions, (partition + 1) * clients // partitions))


def shards(node_config: Mapping[str, Any], clients: list[int]) -> Shards:
    """What `bonfire.Site` takes: clients of the configuration's own partition, or a folder for each."""
    if "data" not in node_config:
        return clients
    data = str(node_config["data"])
    if "=" not in data:
        if len(clients) > 1:
            raise ValueError(
                f'data = "{data}": clients {clients} are here, each needs its folder: data="0=DIR;1=DIR"'
            )
        return {clients[0]: os.path.expanduser(data)}
    pairs = [_folder(part) for part in split_outside_quotes(data)]
    named = sorted(client for client, _ in pairs)
    if named != clients:
        raise ValueError(f'data = "{data}": it names folders of clients {named}, this node holds {clients}')
    return dict(pairs)


def bound(text: str, clients: int) -> dict[int, set[int]] | None:
    """Clients by node, of `"NODE=0-9; NODE=10-19"`; None where the text is empty: any node may hold any."""
    if not text:
        return None
    found: dict[int, set[int]] = {}
    for part in split_outside_quotes(text):
        node, equals, numbers = part.partition("=")
        if not equals or not node.strip().isdecimal():
            raise ValueError(
                f"nodes: {part.strip()!r} is not of the form NODE=CLIENTS, such as \"1234=0-9; 5678=10-19\" with "
                "the numbers that `flwr supernode list` shows"
            )
        own = set(client_list(numbers.strip().strip("\"'"), clients))
        if int(node) in found:
            raise ValueError(f"nodes: {int(node)} is there twice")
        if twice := [client for client in own if any(client in others for others in found.values())]:
            raise ValueError(f"nodes: client {twice[0]} is given to two nodes")
        found[int(node)] = own
    return found


def _folder(part: str) -> tuple[int, str]:
    client, _, folder = part.partition("=")
    if not client.strip().isdecimal() or not folder.strip():
        raise ValueError(f'data: {part.strip()!r} is not of the form CLIENT=DIR, such as "0=DIR;1=DIR"')
    # No shell has read it.
    return int(client), os.path.expanduser(folder.strip())
