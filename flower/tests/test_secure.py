"""The secure sum: Flower's mod on nodes that are contexts of this process, the app's stages on the server."""

import bonfire
import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from bonfire_flower import secure_messages, secure_site
from bonfire_flower.protocol import BadReply
from bonfire_flower.secure import Halted, SecureSum
from bonfire_flower.secure_settings import SecureSettings, read_secure

SIZE = 4000
SETTINGS = SecureSettings(1.0, 0.67, 8.0, 1 << 22, 1 << 32)


class Nodes:
    """Nodes with one client each, whose number is that of the node. What they send is kept in `sent`, by stage and node."""

    def __init__(self, movements: dict[int, np.ndarray], examples: dict[int, int], losses=None) -> None:
        self.movements, self.examples = movements, examples
        self.losses = losses or dict.fromkeys(movements, 1.5)
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in movements}
        self.sent: dict[tuple[str, int], RecordDict] = {}

    def answer(self, contents: dict[int, RecordDict], read, silent=()) -> dict:
        found = {}
        for node, content in contents.items():
            if node in silent:
                continue
            content["weights"] = ConfigRecord({"uniform": False})
            # As it crosses: the mod takes records of the message apart.
            message = Message(
                recorddict_from_proto(recorddict_to_proto(content)), dst_node_id=node, message_type="train"
            )
            stage = content[RECORD_KEY_CONFIGS][Key.STAGE]
            reply = secure_site.secure_mod(message, self.contexts[node], self.train)
            self.sent[stage, node] = recorddict_from_proto(recorddict_to_proto(reply.content))
            found[node] = read(self.sent[stage, node])
        return found

    def train(self, message: Message, context: Context) -> Message:
        node = context.node_id
        header = {"client": node, "examples": self.examples[node], "flags": 3, "rank": 4}
        header |= {"loss": self.losses[node], "steps": 2, "tokens": 7}
        uploads = [bonfire.Upload(header, self.movements[node].astype(np.float32))]
        uniform = message.content["weights"]["uniform"]
        return Message(secure_site.site_sum(uploads, 1, uniform, context), reply_to=message)

    def read_masked(self, content: RecordDict) -> secure_messages.Masked:
        return secure_messages.read_masked(content, self.examples, 1)


def run(nodes: Nodes, settings=SETTINGS, gone=None):
    """The mean by the protocol, and who is in it. `gone`: nodes that do not answer a stage."""
    gone = gone or {}
    protocol = SecureSum(settings, dict(nodes.examples))
    keys = nodes.answer(protocol.setup(), secure_messages.read_keys, gone.get(Stage.SETUP, ()))
    texts = nodes.answer(
        protocol.share_keys(keys), secure_messages.read_ciphertexts, gone.get(Stage.SHARE_KEYS, ())
    )
    masked = nodes.answer(
        protocol.masked_vectors(texts), nodes.read_masked, gone.get(Stage.COLLECT_MASKED_VECTORS, ())
    )
    stages = protocol.unmask({node: answer.vector for node, answer in masked.items()})
    shares = nodes.answer(stages, secure_messages.read_shares, gone.get(Stage.UNMASK, ()))
    mean, loss = protocol.mean(shares, {node: nodes.examples[node] for node in masked})
    return mean, loss / settings.clipping_range * secure_messages.LARGEST_LOSS, set(masked)


def some(count: int, seed: int = 3, largest: float = 0.5) -> Nodes:
    rng = np.random.default_rng(seed)
    movements = {11 + i: rng.uniform(-largest, largest, SIZE) for i in range(count)}
    examples = {node: int(rng.integers(20, 200)) for node in movements}
    return Nodes(movements, examples, {node: float(rng.uniform(0.5, 4)) for node in movements})


def weighted(nodes: Nodes, of: set[int]) -> np.ndarray:
    total = sum(nodes.examples[node] for node in of)
    return sum(nodes.examples[node] / total * nodes.movements[node].astype(np.float32) for node in of)


def bound(nodes: Nodes, of: set[int], settings: SecureSettings) -> float:
    """How far a number of the mean may be from that of the plain one, by arithmetic alone. Each of K nodes rounds its weighted number by
    less than a step, and its weight `n_k/n_max` by half of `1/steps`, which of numbers below the range is half a step again; what all
    come to is divided by the sum of the weights."""
    weights = sum(nodes.examples[node] for node in of) / max(nodes.examples.values())
    return 1.5 * len(of) * settings.step / weights


@pytest.mark.parametrize(("count", "clip", "steps"), [(3, 8.0, 1 << 22), (4, 1.0, 1 << 26), (8, 1.0, 1 << 16)])
def test_the_sum_is_the_mean_to_the_quantisation(count, clip, steps):
    nodes, settings = some(count), SecureSettings(1.0, 0.67, clip, steps, 1 << 32)
    mean, loss, there = run(nodes, settings)
    assert there == set(nodes.examples)
    far = np.abs(mean - weighted(nodes, there)).max()
    # f32 of the reference's own numbers comes on top.
    assert far <= bound(nodes, there, settings) + 1e-7
    # And it does lie on the steps: a sum that was never quantised would be nearer than that.
    assert far >= bound(nodes, there, settings) / 50
    losses = sum(nodes.examples[n] * nodes.losses[n] for n in there) / sum(nodes.examples.values())
    share = secure_messages.LARGEST_LOSS / clip
    assert abs(loss - losses) <= share * bound(nodes, there, settings)


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ({Stage.COLLECT_MASKED_VECTORS: {12}}, {11, 13, 14, 15, 16}),
        ({Stage.COLLECT_MASKED_VECTORS: {12, 15}}, {11, 13, 14, 16}),
        ({Stage.SETUP: {11}}, {12, 13, 14, 15, 16}),
        ({Stage.SHARE_KEYS: {11}, Stage.COLLECT_MASKED_VECTORS: {16}}, {12, 13, 14, 15}),
        # Who fails after its vector is in counts.
        ({Stage.UNMASK: {13, 14}}, {11, 12, 13, 14, 15, 16}),
    ],
)
def test_nodes_that_vanish_are_unmasked_by_the_others(gone, left):
    nodes = some(6)
    mean, _, there = run(nodes, gone=gone)
    assert there == left
    assert np.abs(mean - weighted(nodes, left)).max() <= bound(nodes, left, SETTINGS) + 1e-7


@pytest.mark.parametrize("stage", [Stage.SETUP, Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK])
def test_too_few_are_no_sum(stage):
    # Of six shares four are needed.
    with pytest.raises(Halted):
        run(some(6), gone={stage: {11, 12, 13}})


def test_each_node_shares_with_some_of_many():
    nodes, settings = some(9), SecureSettings(5, 3, 8.0, 1 << 22, 1 << 32)
    protocol = SecureSum(settings, nodes.examples)
    assert (protocol.shares, protocol.threshold) == (5, 3)
    for node, near in protocol.neighbours.items():
        assert len(near) == 5 and node in near
        assert all(node in protocol.neighbours[other] for other in near)
    mean, _, there = run(nodes, settings, {Stage.COLLECT_MASKED_VECTORS: {14}})
    assert np.abs(mean - weighted(nodes, there)).max() <= bound(nodes, there, settings) + 1e-7


def test_what_reaches_the_server_of_a_node_says_nothing():
    nodes = some(4, largest=1e-3)
    run(nodes)
    content = nodes.sent[Stage.COLLECT_MASKED_VECTORS, 11]
    assert sorted(content) == ["masked", "reply"] and list(content["masked"]) == ["sum"]
    assert sorted(content["reply"]) == ["clients", "flags", "holds", "rank", "tokens"]
    vector = content["masked"]["sum"].numpy()
    assert vector.size == SIZE + 2
    # What it holds under its masks are numbers near the middle of the range: of the 256 values of a top byte they take one or two.
    plain = ((nodes.movements[11] + SETTINGS.clipping_range) / SETTINGS.step).astype(np.uint32)
    assert len(np.unique(plain >> 24)) == 1 and len(np.unique(vector >> 24)) == 256
    assert not np.any(vector[1:-1] == plain)
    # Uniform: χ² of 255 degrees of freedom is below 341 but once in ten thousand.
    counts = np.bincount(vector >> 24, minlength=256)
    assert ((counts - vector.size / 256) ** 2 / (vector.size / 256)).sum() < 341
    # Nor does it follow the movement, or another node's vector.
    other = nodes.sent[Stage.COLLECT_MASKED_VECTORS, 12]["masked"]["sum"].numpy()
    for known in (nodes.movements[11], other[1:-1]):
        assert abs(np.corrcoef(vector[1:-1].astype(float), known)[0, 1]) < 5 / np.sqrt(SIZE)
    # The same movement is another vector in the next round.
    again = some(4, largest=1e-3)
    run(again)
    assert not np.array_equal(again.sent[Stage.COLLECT_MASKED_VECTORS, 11]["masked"]["sum"].numpy(), vector)
    for stage in (Stage.SETUP, Stage.SHARE_KEYS, Stage.UNMASK):
        assert list(nodes.sent[stage, 11]) == [RECORD_KEY_CONFIGS]


def test_a_movement_beyond_the_range_is_not_clipped():
    nodes = some(3)
    nodes.movements[12][7] = -8.5
    with pytest.raises(ValueError, match="goes up to 8.5, beyond clipping-range = 8, .*set it higher"):
        run(nodes)
    nodes.movements[12][7] = float("nan")
    with pytest.raises(ValueError, match="clipping-range"):
        run(nodes)


def test_a_weight_that_nobody_named_is_no_sum():
    nodes = some(3)
    protocol = SecureSum(SETTINGS, nodes.examples)
    keys = nodes.answer(protocol.setup(), secure_messages.read_keys)
    texts = nodes.answer(protocol.share_keys(keys), secure_messages.read_ciphertexts)
    nodes.examples[12] += 1
    masked = nodes.answer(protocol.masked_vectors(texts), nodes.read_masked)
    nodes.examples[12] -= 1
    shares = nodes.answer(protocol.unmask({n: m.vector for n, m in masked.items()}), secure_messages.read_shares)
    with pytest.raises(Halted, match="the sum has the weight"):
        protocol.mean(shares, nodes.examples)


def test_shares_that_are_none_are_no_sum():
    nodes = some(3)
    protocol = SecureSum(SETTINGS, nodes.examples)
    keys = nodes.answer(protocol.setup(), secure_messages.read_keys)
    texts = nodes.answer(protocol.share_keys(keys), secure_messages.read_ciphertexts)
    masked = nodes.answer(protocol.masked_vectors(texts), nodes.read_masked)
    shares = nodes.answer(protocol.unmask({n: m.vector for n, m in masked.items()}), secure_messages.read_shares)
    shares = {node: {owner: share[:4] + bytes(len(share) - 4) for owner, share in own.items()} for node, own in shares.items()}
    with pytest.raises(Halted, match="do not fit together"):
        protocol.mean(shares, nodes.examples)


@pytest.mark.parametrize(
    ("stage", "told", "words"),
    [
        (Stage.SETUP, {Key.SAMPLE_NUMBER: 2, Key.SHARE_NUMBER: 2, Key.THRESHOLD: 2}, "a sum of 2 nodes"),
        (Stage.SETUP, {Key.SAMPLE_NUMBER: 9, Key.SHARE_NUMBER: 4, Key.THRESHOLD: 2}, "more than half"),
        (Stage.SETUP, {Key.SAMPLE_NUMBER: 9, Key.SHARE_NUMBER: 9, Key.THRESHOLD: 1}, "more than half"),
        (Stage.SETUP, {}, "how many nodes"),
        (Stage.UNMASK, {Key.ACTIVE_NODE_ID_LIST: [1, 2], Key.DEAD_NODE_ID_LIST: [2]}, r"both secrets of nodes \[2\]"),
    ],
)
def test_a_node_refuses_what_would_give_one_away(stage, told, words):
    with pytest.raises(ValueError, match=words):
        secure_site.check_request(stage, told)


def test_a_node_may_insist():
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    own = Context(1, 1, {"secure-aggregation": True}, RecordDict(), {})
    with pytest.raises(ValueError, match="secure-aggregation=true alone"):
        secure_site.secure_mod(message, own, lambda *_: message)
    own.node_config["secure-aggregation"] = "yes"
    with pytest.raises(TypeError, match="secure-aggregation = 'yes'"):
        secure_site.secure_mod(message, own, lambda *_: message)
    own.node_config["secure-aggregation"] = False
    assert secure_site.secure_mod(message, own, lambda *_: message) is message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["reply"].update(holds=2), "another start"),
        (lambda c: c["reply"].update(clients=[11, 11]), "twice"),
        (lambda c: c["reply"].update(clients=[99]), "not all were asked"),
        (lambda c: c["reply"].pop("flags"), "flags"),
        (lambda c: c.pop("masked"), "no ArrayRecord"),
        (lambda c: c["masked"].pop("sum"), "cannot be read"),
    ],
)
def test_bad_replies(change, words):
    nodes = some(3)
    run(nodes)
    content = nodes.sent[Stage.COLLECT_MASKED_VECTORS, 11]
    change(content)
    with pytest.raises(BadReply, match=words):
        nodes.read_masked(content)


ON = {"secure-aggregation": True, "num-shares": 1.0, "reconstruction-threshold": 0.67, "clipping-range": 8.0}
ON |= {"quantization-range": 1 << 22, "modulus-range": 1 << 32}


@pytest.mark.parametrize(("nodes", "expected"), [(3, (3, 2)), (4, (4, 3)), (5, (5, 3)), (8, (8, 5)), (20, (20, 13))])
def test_shares_and_threshold_by_default(nodes, expected):
    assert read_secure(ON, 3).resolve(nodes) == expected


def test_shares_of_many_are_an_odd_number():
    assert SecureSettings(0.4, 0.6, 8.0, 1 << 22, 1 << 32).resolve(20) == (9, 5)
    assert SecureSettings(51, 30, 8.0, 1 << 22, 1 << 32).resolve(1000) == (51, 30)
    # More than half, whatever rounding makes of the share.
    assert SecureSettings(1.0, 0.51, 8.0, 1 << 22, 1 << 32).resolve(4) == (4, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("secure-aggregation", "yes"),
        ("num-shares", 2),
        ("num-shares", 1.5),
        ("reconstruction-threshold", 0.5),
        ("reconstruction-threshold", 4),
        ("reconstruction-threshold", 0),
        ("clipping-range", 0),
        ("clipping-range", True),
        ("quantization-range", 1000),
        ("modulus-range", 1 << 33),
        ("modulus-range", 1 << 23),
    ],
)
def test_mistakes_name_their_key(key, value):
    with pytest.raises((ValueError, TypeError), match=key):
        read_secure(ON | {key: value}, 3)


def test_two_nodes_are_too_few():
    assert read_secure(ON | {"secure-aggregation": False}, 1) is None
    with pytest.raises(ValueError, match="min-nodes = 2"):
        read_secure(ON, 2)
