"""The run configuration."""

import tomllib
from pathlib import Path

import pytest

from bonfire_flower.settings import assignments, read_settings

DEFAULTS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["flwr"]["app"][
    "config"
]


def test_defaults_are_valid():
    settings = read_settings(DEFAULTS)
    assert settings.overrides == {}
    assert not settings.resume


def test_assignments_are_toml_or_text():
    text = 'train.rounds=5; strategy.name=fedit; adapter.targets=["query", "value"]; model.path=\'a;b\''
    assert assignments(text) == {
        "train.rounds": 5,
        "strategy.name": "fedit",
        "adapter.targets": ["query", "value"],
        "model.path": "a;b",
    }
    assert assignments(" ; ") == {}


@pytest.mark.parametrize("text", ["train.rounds", "=5", "a=1; a=2"])
def test_no_assignments(text):
    with pytest.raises(ValueError, match="overrides"):
        assignments(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluate", "clients"),
        ("out", ""),
        ("min-nodes", 0),
        ("min-nodes", True),
        ("wait", 0),
        ("resume", "yes"),
    ],
)
def test_mistakes_name_their_key(key, value):
    with pytest.raises((ValueError, TypeError), match=key):
        read_settings(DEFAULTS | {key: value})
