"""A node's site: loaded once in a process that lives on, and in the state that the node's context keeps.

Flower may run every message in a fresh process, and in its simulation one process works for many nodes. So
what a site holds between messages lives in `context.state`; a loaded site is only used again if it is in that
very state.
"""

import tomllib
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import bonfire
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context

from .clients import held_clients, shards
from .trust import check_terms

# Loaded sites of one process. Only the simulation has more than one node there, and they share a backbone.
LOADED = 64


@dataclass
class _Loaded:
    """A site and the mark of the state it is in; no mark: it holds nothing."""

    site: bonfire.Site
    mark: str


_loaded: OrderedDict[tuple[str, ...], _Loaded] = OrderedDict()


@contextmanager
def open_site(config: str, clients: int, context: Context) -> Iterator[bonfire.Site | None]:
    """The node's site as the context keeps it, under the configuration given or else the one kept; None where
    neither is. A state of another configuration or run counts for nothing."""
    kept = context.state.get("bonfire")
    if kept is None or kept["run"] != str(context.run_id) or config not in ("", kept["config"]):
        if not config:
            yield None
            return
        kept = ConfigRecord({"run": str(context.run_id), "config": config, "mark": ""})
        context.state["bonfire"] = kept
    key = (kept["config"], *(f"{name}={value}" for name, value in sorted(context.node_config.items())))
    loaded = _in_state(_loaded.pop(key, None), kept, clients, context)
    yield loaded.site
    # Not reached when the caller failed: a site that broke off is loaded anew.
    loaded.mark = kept["mark"]
    _loaded[key] = loaded
    while len(_loaded) > LOADED:
        _loaded.popitem(last=False)


def keep_site(site: bonfire.Site, context: Context) -> None:
    """Writes the site's state into the context, after whatever may have changed it."""
    context.state["site"] = ArrayRecord({"state": Array(np.frombuffer(site.state(), np.uint8))})
    context.state["bonfire"]["mark"] = uuid.uuid4().hex


def _in_state(loaded: _Loaded | None, kept: ConfigRecord, clients: int, context: Context) -> _Loaded:
    """The loaded site, or a new one where none is or it holds what this context knows nothing of."""
    if loaded is None or (loaded.mark and not kept["mark"]):
        loaded = _Loaded(_load(kept["config"], clients, context), "")
    if loaded.mark != kept["mark"]:
        loaded.site.restore(context.state["site"]["state"].numpy().tobytes())
    return loaded


def _load(config: str, clients: int, context: Context) -> bonfire.Site:
    node, table = context.node_config, tomllib.loads(config)
    check_terms(table, node)
    held = held_clients(node, clients)
    overrides = {"model.path": str(node["model"])} if "model" in node else None
    # The configuration's device is the server's.
    device = str(node.get("device", "auto"))
    return bonfire.Site(table, shards(node, held), overrides=overrides, device=device)
