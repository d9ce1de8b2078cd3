"""What the app is told: its run configuration, checked once."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .secure_settings import SecureSettings, read_secure

EVALUATIONS = ("server", "sites", "none")


@dataclass(frozen=True)
class Settings:
    """The run configuration. Times in seconds."""

    config: str
    overrides: dict[str, Any]
    out: str
    resume: bool
    min_nodes: int
    round_timeout: float
    wait: float
    evaluate: str
    nodes: str = ""
    secure: SecureSettings | None = None


def read_settings(run_config: Mapping[str, Any]) -> Settings:
    """Raises ValueError or TypeError, naming the key and what would be right."""
    evaluate = _text(run_config, "evaluate")
    if evaluate not in EVALUATIONS:
        raise ValueError(f"evaluate = {evaluate!r}: possible here are {', '.join(EVALUATIONS)}")
    out = _text(run_config, "out")
    if not out:
        raise ValueError("out is empty: it names the run's folder on the ServerApp's machine")
    min_nodes = run_config.get("min-nodes")
    if isinstance(min_nodes, bool) or not isinstance(min_nodes, int) or min_nodes < 1:
        raise ValueError(f"min-nodes = {min_nodes!r}: it must be a whole number, 1 or more")
    resume = run_config.get("resume")
    if not isinstance(resume, bool):
        raise TypeError(f"resume = {resume!r}: it must be true or false")
    return Settings(
        config=_text(run_config, "config"),
        overrides=assignments(_text(run_config, "overrides")),
        out=out,
        resume=resume,
        min_nodes=min_nodes,
        round_timeout=_seconds(run_config, "round-timeout"),
        wait=_seconds(run_config, "wait"),
        evaluate=evaluate,
        nodes=_text(run_config, "nodes"),
        secure=read_secure(run_config, min_nodes),
    )


def _text(run_config: Mapping[str, Any], key: str) -> str:
    value = run_config.get(key)
    if not isinstance(value, str):
        raise TypeError(f"{key} = {value!r}: it must be a text")
    return value.strip()


def _seconds(run_config: Mapping[str, Any], key: str) -> float:
    value = run_config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{key} = {value!r}: it must be a number of seconds above 0")
    return float(value)


def assignments(text: str) -> dict[str, Any]:
    """Reads `key=value; key=value`. A value is TOML, or else plain text, as in `bonfire train --set`."""
    found: dict[str, Any] = {}
    for part in split_outside_quotes(text):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key:
            raise ValueError(
                f"overrides: {part.strip()!r} is no assignment; write section.key=value, and ; between two"
            )
        if key in found:
            raise ValueError(f"overrides: {key} is there twice")
        found[key] = _toml_or_text(value)
    return found


def split_outside_quotes(text: str) -> list[str]:
    """The parts between semicolons that stand outside quotes; empty ones are left out."""
    parts, quote = [""], ""
    for letter in text:
        if letter == ";" and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        parts[-1] += letter
    return [part for part in parts if part.strip()]


def _toml_or_text(value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value
