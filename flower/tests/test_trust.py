"""What a node lets a run's configuration have."""

import pytest

from bonfire_flower import trust
from bonfire_flower.trust import check_privacy, check_terms

LAPLACE = {"kind": "laplace", "epsilon": 2.0, "clip": 1.0}
GAUSSIAN = {"kind": "gaussian", "noise": 1.0, "clip": 0.5, "publish": "all"}


def test_the_built_in_model_and_data_need_no_word():
    check_terms({}, {})
    check_terms({"model": {"path": "builtin"}, "data": {"path": "builtin"}}, {"clients": "0"})


def test_a_slip_in_a_key_is_no_key():
    with pytest.raises(ValueError, match="has privcy, which nothing reads: did you mean privacy"):
        check_terms({}, {"clients": "0", "privcy": 'kind="laplace"'})
    with pytest.raises(ValueError, match="did you mean secure-aggregation"):
        check_terms({}, {"secure_aggregation": True})
    # Another app's on the same SuperNode.
    check_terms({}, {"dataset-name": "mnist"})


@pytest.mark.parametrize("key", ["model", "data"])
def test_a_folder_of_this_machine_is_the_nodes_to_name(key, monkeypatch):
    run = {key: {"path": "/home/somebody"}}
    with pytest.raises(ValueError, match=f"names {key}.path = .*{key}=.DIR.*trust-server=true"):
        check_terms(run, {})
    check_terms(run, {key: "mine", "privacy": "none"})
    check_terms(run, {"trust-server": True})
    with pytest.raises(TypeError, match="trust-server = 'yes'"):
        check_terms(run, {"trust-server": "yes"})
    # All nodes of a simulation are one machine's.
    monkeypatch.setattr(trust, "simulated", lambda: True)
    check_terms(run, {})


def test_own_rows_come_with_a_word_on_privacy():
    with pytest.raises(ValueError, match="does not say under which privacy"):
        check_terms({}, {"data": "mine"})
    check_terms({}, {"data": "mine", "privacy": "none"})
    with pytest.raises(ValueError, match=r"the run has no \[privacy\]"):
        check_terms({}, {"data": "mine", "privacy": 'kind="laplace", epsilon=2, clip=1', "trust-server": True})


@pytest.mark.parametrize(
    ("run", "own"),
    [
        (LAPLACE, 'kind="laplace", epsilon=2, clip=1'),
        (LAPLACE, "kind='laplace', epsilon=3.5"),
        (GAUSSIAN, 'kind="gaussian", noise=0.5, clip=1.0'),
        (GAUSSIAN, "none"),
        (LAPLACE | {"reproducible": True}, 'kind="laplace", reproducible=true'),
    ],
)
def test_as_much_or_more_is_taken(run, own):
    check_privacy(run, own)


@pytest.mark.parametrize(
    ("run", "own", "words"),
    [
        (None, 'kind="laplace", epsilon=2, clip=1', "no \\[privacy\\]"),
        (LAPLACE, 'kind="laplace", epsilon=1', "epsilon = 2.0"),
        (LAPLACE, 'kind="laplace", clip=0.5', "clip = 1.0"),
        (LAPLACE, 'kind="gaussian", clip=1', 'the kind "laplace"'),
        (GAUSSIAN, 'kind="gaussian", noise=1.5', "noise = 1.0"),
        (GAUSSIAN, 'kind="gaussian", epsilon=3', "no epsilon, so that"),
        (LAPLACE | {"reproducible": True}, 'kind="laplace"', "reproducible"),
        (LAPLACE, "kind", "must be .none. or keys"),
        (LAPLACE, 'kind="gauss"', "kind must be"),
        (LAPLACE, 'kind="laplace", eps=1', "there is no eps"),
    ],
)
def test_less_is_refused(run, own, words):
    with pytest.raises(ValueError, match=words):
        check_privacy(run, own)
