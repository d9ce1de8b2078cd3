"""What a node keeps to itself of a run that somebody else configures: its model, its rows and its privacy.

A run's configuration is whoever starts it's. Taken as it is, it could name any folder of this machine as data or
model, and any privacy or none. So a node's own settings stand, and it takes no part where they are missing or
where a run asks for less privacy than they do. `trust-server=true` opts out; the simulation, where all nodes are
one machine's, has no settings of its own.

This guards against configurations. The app itself is code that the run brings: Flower's own means say whose code a
SuperNode runs.
"""

import difflib
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

# Sections and keys of a configuration.
PRIVACY = "privacy"
NOTHING = "none"
# Of a node's configuration.
KEYS = {
    "clients",
    "data",
    "device",
    "model",
    "num-partitions",
    "partition-id",
    "privacy",
    "save",
    "secure-aggregation",
    "trust-server",
}


def check_terms(config: Mapping[str, Any], node_config: Mapping[str, Any]) -> None:
    """Raises ValueError where the run's configuration takes what this node has not given."""
    refuse_slips(node_config)
    if (own := node_config.get("privacy")) is not None:
        check_privacy(config.get(PRIVACY), str(own))
    if trusts_server(node_config):
        return
    for key, what in (("data", "rows"), ("model", "backbone")):
        path = config.get(key, {}).get("path", "builtin")
        if path != "builtin" and key not in node_config:
            raise ValueError(
                f'the run names {key}.path = "{path}" on this machine, and this node does not say that it may be '
                f"read: name its own {what} by {key}=\"DIR\" in --node-config, or set trust-server=true"
            )
    if "data" in node_config and own is None:
        raise ValueError(
            "this node brings its own rows and does not say under which privacy their clients train: set "
            'privacy="none" or privacy="kind=…, clip=…" in --node-config, or trust-server=true'
        )


def refuse_slips(node_config: Mapping[str, Any]) -> None:
    """Raises ValueError for a key that is nearly one of the app's: what was meant to protect this node would not. Others may be for other
    apps of the same SuperNode."""
    for key in sorted(node_config.keys() - KEYS):
        if near := difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75):
            raise ValueError(f"--node-config has {key}, which nothing reads: did you mean {near[0]}?")


def trusts_server(node_config: Mapping[str, Any]) -> bool:
    trust = node_config.get("trust-server", False)
    if not isinstance(trust, bool):
        raise TypeError(f"trust-server = {trust!r}: it must be true or false")
    return trust or simulated()


def simulated() -> bool:
    """Whether this is a process of Flower's simulation engine: an actor of Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def check_privacy(run: Mapping[str, Any] | None, own: str) -> None:
    """Raises ValueError where `[privacy]` of the run protects less than `own` asks for."""
    if own == NOTHING:
        return
    asked = read_privacy(own)
    if run is None:
        raise ValueError(f'this node trains under privacy="{own}" or more, and the run has no [privacy]')
    for key, value in asked.items():
        if why := _less(key, run.get(key), value):
            raise ValueError(f'this node trains under privacy="{own}" or more, and the run has {why}')
    if run.get("reproducible", False) and not asked.get("reproducible", False):
        raise ValueError(
            "the run's privacy is reproducible: its noise is everybody's to take off again; "
            "this node takes part only if its privacy says reproducible=true too"
        )


def read_privacy(own: str) -> dict[str, Any]:
    """`kind="laplace", epsilon=2, clip=1`, the keys of `[privacy]`."""
    try:
        asked = tomllib.loads(f"privacy = {{ {own} }}")[PRIVACY]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f'privacy = "{own}": it must be "none" or keys of [privacy], such as kind=\'laplace\', epsilon=2, clip=1'
        ) from error
    if asked.get("kind") not in ("laplace", "gaussian"):
        raise ValueError(f"privacy = \"{own}\": its kind must be 'laplace' or 'gaussian'")
    known = {"kind", "clip", "epsilon", "noise", "delta", "reproducible"}
    if strange := sorted(asked.keys() - known):
        raise ValueError(f'privacy = "{own}": there is no {strange[0]}; keys here are {", ".join(sorted(known))}')
    return asked


def _less(key: str, run: Any, own: Any) -> str:
    """How the run protects less by this key; empty: it does not."""
    if key == "reproducible" or run == own:
        return ""
    if key == "kind":
        return f'the kind "{run}"'
    if not isinstance(run, int | float) or isinstance(run, bool):
        return f"no {key}, so that the two cannot be compared"
    # More noise protects more; all else protects more the smaller it is.
    if run < own if key == "noise" else run > own:
        return f"{key} = {run}"
    return ""
