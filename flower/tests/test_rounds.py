"""Rounds with nodes that fail, lie, come late and come back, over a grid and a server made for it."""

import json
from dataclasses import dataclass, field

import bonfire
import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from bonfire_flower import protocol, roster, rounds
from bonfire_flower.exchange import Exchange, plain
from bonfire_flower.folder import RunFolder
from bonfire_flower.roster import NoNodes, Roster
from bonfire_flower.rounds import Rounds
from bonfire_flower.settings import Settings

CLIENTS = 4
SIZE = 3  # values of an upload


@dataclass
class Node:
    """A node of the test's grid. `way` changes its answers: see `answer`."""

    clients: list[int]
    way: str = ""
    fingerprint: str = "abc"
    holds: int = 0
    wholes: int = 0  # downloads of everything that it got
    empty: int = 0  # downloads of nothing
    asked: int = 0

    def answer(self, kind: str, content: RecordDict) -> RecordDict | Error | None:
        if kind == "query":
            return protocol.pack_introduction(
                protocol.Introduction(dict.fromkeys(self.clients, 10), self.fingerprint, self.holds)
            )
        order = content["order"]
        self.asked += 1
        if self.way == "silent":
            return None
        if self.way == "fails":
            return Error(2, "out of memory")
        if self.way == "raises":
            raise ValueError("its reply is no message")
        if order["since"] not in (0, self.holds):
            return protocol.pack_lacks(self.holds)
        if order["since"] == 0:
            assert order["config"] == "the configuration"
            self.wholes += 1
        self.empty += order["since"] == order["round"]
        self.holds = order["round"]
        if kind == "evaluate":
            rows = [{"client": c, "examples": c + 1, "loss": 1.0, "accuracy": c / 10} for c in self.clients]
            return protocol.pack_scores(rows, self.holds)
        return self.uploads(json.loads(order["plan"])["clients"])

    def uploads(self, asked: list[int]) -> RecordDict:
        size = SIZE + 1 if self.way == "too long" else SIZE
        uploads = [
            bonfire.Upload(header(client), np.full(size, client, np.float32))
            for client in self.clients
            if client in asked
        ]
        return protocol.pack_uploads(uploads, self.holds + 1 if self.way == "lies" else self.holds)


def header(client: int) -> dict[str, int | float]:
    return {"client": client, "examples": 10, "flags": 0, "rank": 1, "loss": 1.0, "steps": 1, "tokens": 5}


@dataclass
class Grid:
    nodes: dict[int, Node]
    replies: dict[str, Message | Exception] = field(default_factory=dict)
    pushed: int = 0

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self.pushed += 1
            ids.append(f"m{self.pushed}")
            try:
                node = self.nodes[message.metadata.dst_node_id]
                content = node.answer(message.metadata.message_type, message.content)
                if content is not None:
                    self.replies[ids[-1]] = Message(content, reply_to=message)
            except ValueError as error:
                self.replies[ids[-1]] = error
        return ids

    def pull_messages(self, ids):
        (message_id,) = ids
        reply = self.replies.pop(message_id, None)
        if isinstance(reply, Exception):
            raise reply
        return [] if reply is None else [reply]


class Server:
    """Only what the rounds ask of bonfire.Server. `forgotten` and `asked` say what it was told."""

    clients, fingerprint, config, rounds = CLIENTS, "abc", "the configuration", 3

    def __init__(self):
        self.round, self.forgotten, self.asked, self.uploads = 0, [], [], []

    @property
    def finished(self):
        return self.round == self.rounds

    def plan(self):
        return bonfire.Plan(
            json.dumps({"round": self.round + 1, "phase": "B", "clients": list(range(CLIENTS))})
        )

    def download(self, since, clients):
        return bonfire.Download(self.round + 1, since, {"b": np.zeros(2, np.float32)})

    def forget(self, clients):
        self.forgotten += clients

    def check(self, upload):
        if upload.values.size != SIZE:
            raise bonfire.BonfireError("an upload has too many values")

    def aggregate(self, uploads, asked):
        self.round += 1
        self.asked.append(sorted(asked))
        self.uploads.append(sorted(upload.client for upload in uploads))
        return {"round": self.round, "phase": "B", "train_loss": 1.0, "upload_bytes": 1}

    client_rows = property(
        lambda self: [{"round": self.round, "client": client} for client in self.uploads[-1]]
    )
    summary = property(lambda self: {"rounds": self.round})

    def state(self):
        return b"state"

    def save(self, folder):
        folder.mkdir(exist_ok=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(roster, "PAUSE", 0.001)
    monkeypatch.setattr(rounds, "PAUSE", 0.001)
    monkeypatch.setattr(roster, "REST", 0.0)
    # Plans are told by their text, of which the test needs but a part.
    monkeypatch.setattr(bonfire, "Plan", Plan)


class Plan:
    def __init__(self, text, arrays=None):
        self.text, self.arrays = text, {}
        self.round, self.clients = json.loads(text)["round"], json.loads(text)["clients"]


def federation(tmp_path, nodes, server=None, /, **changes) -> Rounds:
    settings = {"config": "", "overrides": {}, "out": str(tmp_path / "run"), "resume": False, "min_nodes": 1}
    settings |= {"round_timeout": 0.2, "wait": 0.2, "evaluate": "none"}
    server = server or Server()
    settings = Settings(**(settings | changes))
    exchange = Exchange(Grid(nodes))
    return Rounds(
        server, exchange, Roster(server, exchange, settings), RunFolder(settings.out, False), settings
    )


def test_all_rounds(tmp_path):
    nodes = {11: Node([2, 3]), 12: Node([0, 1])}
    run = federation(tmp_path, nodes)
    run.run()
    assert run.server.uploads == [[0, 1, 2, 3]] * 3
    assert run.server.asked == [[0, 1, 2, 3]] * 3
    assert [node.wholes for node in nodes.values()] == [1, 1]
    assert run.server.forgotten == []
    assert run.folder.checkpoint.read_bytes() == b"state"
    rows = [json.loads(line) for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["round"], row["nodes"], row["answered"]) for row in rows] == [
        (1, 2, 2),
        (2, 2, 2),
        (3, 2, 2),
    ]
    wire = [json.loads(line) for line in (run.folder.path / "wire.jsonl").read_text().splitlines()]
    assert {(row["round"], row["node"]) for row in wire} == {
        (round, node) for round in (1, 2, 3) for node in nodes
    }


@pytest.mark.parametrize("way", ["silent", "fails", "raises", "lies", "too long"])
def test_a_round_goes_on_without_a_node_that_fails(tmp_path, way):
    run = federation(tmp_path, {11: Node([0, 1], way), 12: Node([2, 3])})
    row, _ = run.round()
    assert run.server.uploads == [[2, 3]]
    assert run.server.asked == [[0, 1, 2, 3]]  # sent something, so counted
    assert (row["nodes"], row["answered"]) == (2, 1)


@pytest.mark.parametrize("way", ["silent", "fails"])
def test_a_node_that_failed_comes_back_with_what_it_holds(tmp_path, way):
    nodes = {11: Node([0, 1], way), 12: Node([2, 3])}
    run = federation(tmp_path, nodes)
    run.round()
    nodes[11].way = ""
    run.round()
    assert run.server.uploads[1] == [0, 1, 2, 3]
    assert nodes[11].wholes == 1
    # The ledger has counted a download that it did not get.
    assert run.server.forgotten == [0, 1]


def test_a_node_that_lost_all_is_sent_all_in_the_same_round(tmp_path):
    nodes = {11: Node([0, 1]), 12: Node([2, 3])}
    run = federation(tmp_path, nodes)
    run.round()
    nodes[11].holds = 0
    run.round()
    assert run.server.uploads[1] == [0, 1, 2, 3]
    assert (nodes[11].wholes, nodes[12].wholes) == (2, 1)
    assert run.server.forgotten == [0, 1]


def test_another_node_takes_the_place_of_one_that_is_gone(tmp_path):
    nodes = {11: Node([0, 1]), 12: Node([2, 3])}
    run = federation(tmp_path, nodes)
    run.round()
    del nodes[11]
    nodes[13] = Node([0, 1])
    run.round()
    assert run.server.uploads[1] == [0, 1, 2, 3]
    assert nodes[13].wholes == 1
    assert run.server.forgotten == [0, 1]


def test_clients_belong_to_the_node_that_came_first(tmp_path):
    nodes = {11: Node([0, 1]), 12: Node([1, 2])}
    run = federation(tmp_path, nodes)
    run.round()
    assert run.server.uploads == [[0, 1]]
    assert nodes[12].asked == 0
    del nodes[11]
    run.round()
    assert run.server.uploads[1] == [1, 2]


def test_clients_may_be_bound_to_nodes(tmp_path):
    nodes = {11: Node([0, 1, 2]), 12: Node([2, 3]), 13: Node([0])}
    run = federation(tmp_path, nodes, nodes="11=0-1; 12=2,3")
    run.round()
    # 11 claims a client of 12, and 13 is not named at all.
    assert run.server.uploads == [[2, 3]]
    assert (nodes[11].asked, nodes[13].asked) == (0, 0)
    for text, words in (("11", "form NODE=CLIENTS"), ("11=0; 12=0", "client 0"), ("11=0; 11=1", "twice")):
        with pytest.raises(ValueError, match=words):
            federation(tmp_path, {}, nodes=text)


def test_uploads_that_cannot_be_combined_do_not_end_the_run(tmp_path):
    class Fragile(Server):
        failures = 2

        def aggregate(self, uploads, asked):
            if self.failures:
                self.failures -= 1
                raise bonfire.BonfireError("the new model is not finite")
            return super().aggregate(uploads, asked)

    run = federation(tmp_path, {11: Node([0, 1, 2, 3])}, Fragile())
    run.run()
    assert run.server.uploads == [[0, 1, 2, 3]] * 3


def test_older_checkpoints_stay(tmp_path):
    run = federation(tmp_path, {11: Node([0, 1, 2, 3])})
    run.folder.keep = 3
    run.server.state = lambda: f"state {run.server.round}".encode()
    run.server.rounds = 5
    run.run()
    assert run.folder.checkpoint.read_bytes() == b"state 5"
    older = sorted((run.folder.path / "checkpoints").iterdir())
    assert [(path.name, path.read_bytes()) for path in older] == [
        ("round-000003", b"state 3"),
        ("round-000004", b"state 4"),
    ]
    assert run.folder.checkpoint.stat().st_mode & 0o777 == 0o600


def test_a_half_written_row_is_left_out_and_rows_of_no_checkpoint_go(tmp_path):
    wire = tmp_path / "run" / "wire.jsonl"
    wire.parent.mkdir()
    wire.write_text('{"round": 1}\n')
    run = federation(tmp_path, {11: Node([0, 1, 2, 3])})
    run.run()
    assert [row["round"] for row in run.folder.kept("wire.jsonl", 3)] == [1, 2, 3]
    whole = wire.read_text()
    wire.write_text(whole + '{"round": 4, "no')
    assert run.folder.kept("wire.jsonl", 2) == [json.loads(line) for line in whole.splitlines()[:2]]


def test_a_minimal_folder_tells_nothing_of_nodes(tmp_path):
    run = federation(tmp_path, {11: Node([0, 1, 2, 3])})
    run.folder.minimal = True
    run.run()
    assert (run.folder.path / "wire.jsonl").read_text() == ""
    rows = [json.loads(line) for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert not any({"nodes", "answered"} & row.keys() for row in rows)


def test_another_model_is_refused(tmp_path):
    nodes = {11: Node([0, 1], fingerprint="xyz"), 12: Node([2, 3])}
    run = federation(tmp_path, nodes)
    _, wire = run.round()
    assert run.server.asked == [[2, 3]]
    assert nodes[11].asked == 0
    assert [(row["node"], row["clients"], row["answered"]) for row in wire] == [
        (11, [], False),
        (12, [2, 3], True),
    ]
    assert all(row["sent_bytes"] > 0 and row["received_bytes"] > 0 for row in wire)


def test_a_node_of_another_time_is_refused(tmp_path):
    nodes = {11: Node([0, 1], holds=7), 12: Node([2, 3])}
    run = federation(tmp_path, nodes)
    run.round()
    assert run.server.asked == [[2, 3]]


def test_scores_of_sites_are_pooled_by_examples(tmp_path):
    nodes = {11: Node([0, 1]), 12: Node([2, 3])}
    run = federation(tmp_path, nodes, evaluate="sites")
    row, _ = run.round()
    assert row["site_examples"] == 1 + 2 + 3 + 4
    assert row["site_accuracy"] == pytest.approx((2 * 0.1 + 3 * 0.2 + 4 * 0.3) / 10)
    run.round()
    assert [node.wholes for node in nodes.values()] == [1, 1]
    assert [node.empty for node in nodes.values()] == [1, 1]


def test_nobody_comes(tmp_path):
    with pytest.raises(NoNodes, match="0 nodes of 1"):
        federation(tmp_path, {}).run()


def test_nodes_that_were_refused_are_told_of_at_the_end(tmp_path):
    stranger = Node([0, 1])
    stranger.fingerprint = "another"
    told = "0 nodes of 1.*node 11: refused: its fingerprint is another.*the same names in the same order"
    with pytest.raises(NoNodes, match=told):
        federation(tmp_path, {11: stranger}).run()


def test_what_a_node_says_stands_without_flowers_wrapping():
    wrapped = "<class 'bonfire.ConfigError'>:<'/x: no such folder\\n  help: name one'>"
    assert plain(wrapped) == "/x: no such folder help: name one"
    assert plain("the node is gone") == "the node is gone"
    assert plain("<class 'ValueError'>:<\"it's off\">") == "it's off"
    assert plain("<class 'ValueError'>:<not quoted>") == "not quoted"


def test_too_few_come(tmp_path):
    with pytest.raises(NoNodes, match="1 nodes of 2"):
        federation(tmp_path, {11: Node([0, 1])}, min_nodes=2).run()


def test_nobody_answers(tmp_path):
    node = Node([0, 1], "fails")
    run = federation(tmp_path, {11: node})
    with pytest.raises(NoNodes, match=f"{rounds.ATTEMPTS} times"):
        run.run()
    assert node.asked == rounds.ATTEMPTS
    assert not run.folder.checkpoint.exists()


def test_a_server_that_goes_on_takes_nothing_for_held(tmp_path):
    server = Server()
    server.round = 1
    nodes = {11: Node([0, 1]), 12: Node([2, 3], holds=2)}
    federation(tmp_path, nodes, server).round()
    assert server.forgotten == [0, 1]
    assert (nodes[11].wholes, nodes[12].wholes) == (1, 0)


def test_a_run_is_not_written_over(tmp_path):
    federation(tmp_path, {11: Node([0, 1, 2, 3])}).run()
    with pytest.raises(ValueError, match="holds a run already"):
        RunFolder(str(tmp_path / "run"), False)
    with pytest.raises(ValueError, match="no checkpoint"):
        RunFolder(str(tmp_path / "other"), True)


def test_lines():
    row = {"round": 3, "phase": "B", "train_loss": 1.0032, "test_accuracy": 0.273, "nodes": 4, "answered": 4}
    row |= {"upload_bytes": 1_500_000, "seconds": 12.14}
    assert (
        rounds.line(row, 5) == "round 3/5  B  loss 1.0032  accuracy 27.3%  nodes 4/4  upload 1.5 MB  12.1 s"
    )
    assert [rounds.megabytes(count) for count in (0, 999, 1000, 52_000, 3_400_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "52 kB",
        "3.4 GB",
    ]
