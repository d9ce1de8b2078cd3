"""Federated LoRA fine-tuning: the engine, the methods and the ledger of Bonfire.

    import bonfire

    run = bonfire.train()          # the built-in quickstart, about half a minute on a CPU
    run.summary["final_accuracy"]
    run.predict(["my card has not come"])[0]["label"]

`train` and `compare` run whole federations in this process. `Server` and `Site` are its two halves, for federations across
machines: the server plans and aggregates, sites hold data and train. What crosses between them is `Plan`, `Download` and
`Upload`: plain numbers, text and NumPy arrays that any transport can carry. The Flower app in `flower/` is one.
"""

from bonfire._bonfire import (
    BonfireError,
    ConfigError,
    Download,
    Plan,
    Run,
    Server,
    Site,
    StaleError,
    Upload,
    __version__,
    compare,
    predict,
    train,
)

__all__ = [
    "BonfireError",
    "ConfigError",
    "Download",
    "Plan",
    "Run",
    "Server",
    "Site",
    "StaleError",
    "Upload",
    "__version__",
    "compare",
    "predict",
    "train",
]
