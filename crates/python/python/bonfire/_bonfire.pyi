import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Path: TypeAlias = str | os.PathLike[str]
# A TOML file, its sections as a mapping, or nothing: the built-in quickstart.
_Config: TypeAlias = _Path | Mapping[str, Any] | None
# A text; a pair of texts, or a sentence's words.
_Text: TypeAlias = str | Sequence[str]
_Floats: TypeAlias = NDArray[np.float32]

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

__version__: str

class BonfireError(Exception):
    """Something went wrong in Bonfire. Its text is what the command line would print."""

class ConfigError(BonfireError, ValueError):
    """A mistake in a configuration, an argument or a message."""

class StaleError(BonfireError):
    """A download that completes what the site does not hold."""

@final
class Plan:
    """The server's orders for one round, and who is to take part."""

    def __new__(cls, text: str, arrays: Mapping[str, _Floats] | None = None) -> Plan:
        """Reads a plan that came over a wire as `text` and `arrays`."""

    @property
    def round(self) -> int:
        """The round, from 1."""

    @property
    def phase(self) -> str:
        """What trains: `"A"`, `"B"`, `"AB"`, `"core"`, `"AB+core"` or `"full"`."""

    @property
    def clients(self) -> list[int]:
        """The round's cohort, ascending."""

    @property
    def text(self) -> str:
        """The orders as JSON."""

    @property
    def arrays(self) -> dict[str, _Floats]:
        """What some methods send besides, each `[rows, cols]`: control variates, moments. Mostly empty."""

@final
class Download:
    """What a site lacks to begin a round: the newer parts of the global model.

    | name | what |
    |---|---|
    | `a`, `b`, `core` | a factor, target by target, slot by slot: `[slots, width]` each |
    | `head`, `weights` | their tensors one after the other |
    | `merged-to`, `merged-from` | width of every target's log of merged updates, and of it what the site has |
    | `merged-a`, `merged-b` | the columns and rows between, target by target |
    | `restart` | one number: A and B are the start that everybody draws from the seed after this round |

    Each is float32 `[n]`; where `wire.download` shortens the first five, they are uint8 `[bytes]`, every slot or row coded by
    itself.
    """

    def __new__(cls, round: int, since: int, arrays: Mapping[str, _Floats | NDArray[np.uint8]]) -> Download:
        """Reads a download that came over a wire."""

    @property
    def round(self) -> int:
        """The round that it is for, from 1."""

    @property
    def since(self) -> int:
        """The round whose start it is put on top of; 0: of nothing."""

    @property
    def arrays(self) -> dict[str, _Floats | NDArray[np.uint8]]:
        """The parts by name, each one vector `[n]`; where `[wire]` shortens them, their bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes of the message, as the ledger would count it for one client."""

@final
class Upload:
    """What one client learnt in one round: the movement of its own slots, end minus start."""

    def __new__(
        cls, header: Mapping[str, int | float], values: _Floats, slots: NDArray[np.uint8] | None = None
    ) -> Upload:
        """Reads an upload that came over a wire. Whether it fits the round is checked by `Server.aggregate`."""

    @property
    def client(self) -> int:
        """The client, from 0."""

    @property
    def examples(self) -> int:
        """Examples in its shard: its weight in the average."""

    @property
    def loss(self) -> float:
        """Mean loss over its local steps, the probe not counted. Reported beside the message."""

    @property
    def steps(self) -> int:
        """Its local steps, the probe not counted. Reported beside the message."""

    @property
    def tokens(self) -> int:
        """Real tokens it trained on, the probe included. Reported beside the message."""

    @property
    def header(self) -> dict[str, int | float]:
        """All of it that is no array: client, examples, flags, rank, loss, steps, tokens."""

    @property
    def slots(self) -> NDArray[np.uint8] | None:
        """Which slots these are, where the client chose them: one bit for each slot of each target."""

    @property
    def values(self) -> _Floats:
        """The numbers `[n]`: factor by factor, target by target, slot by slot; then the head and what else is sent."""

    @property
    def nbytes(self) -> int:
        """Bytes of the message as the ledger counts it: 20, the slots and the values."""

@final
class Site:
    """A backbone on a device with one client's data or many clients', which train in one batched pass."""

    def __new__(
        cls,
        config: _Config = None,
        shards: Iterable[int] | Mapping[int, _Path] | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        device: str | None = None,
    ) -> Site:
        """Opens the device and reads model and data.

        `shards` are clients of the configuration's own partition (`None`: all of them), or a folder for each client with
        its own `train` and, if it is to be evaluated, `test`, and the federation's `labels.json`. `overrides` are keys such
        as `{"train.rounds": 3}`, `device` is `"cpu"`, `"cuda:0"` and so on, as `--device` of the command line.
        """

    @property
    def clients(self) -> list[int]:
        """The clients that are here, ascending."""

    @property
    def examples(self) -> dict[int, int]:
        """Training examples by client."""

    @property
    def holds(self) -> int:
        """The round whose start it last received; 0: nothing yet."""

    @property
    def fingerprint(self) -> str:
        """Of what a server and its sites must agree on: settings, labels, tokenizer, backbone."""

    def train(self, adapter: Download, plan: Plan, round: int | None = None) -> list[Upload]:
        """Trains those of its clients that the plan names, from `adapter` on top of what the site holds.

        Clients that drop out by `clients.dropout`, or are skipped by `train.not_finite`, have no upload. `round` is
        checked against the plan where it is given. Raises `StaleError` where the site does not hold `adapter.since`.
        """

    def evaluate(self, adapter: Download | None = None) -> list[dict[str, Any]]:
        """Judges the global model on the test rows of each client here, or the client's own model where clients keep a
        part for themselves (`personal`). `adapter` brings the site up to date first. A row a client: `client`, `examples`,
        `answers`, `loss`, `accuracy` (0 to 1), `exact_match`, `personal`; where numbers are foretold `pearson` and
        `spearman` in the place of the two shares."""

    def state(self) -> bytes:
        """Its copy of the global model, and what its clients keep for themselves."""

    def restore(self, state: bytes) -> None:
        """Takes up what `state` gave, on a site of the same configuration, data and clients."""

    def save_clients(self, folder: _Path) -> list[int]:
        """Writes the clients' own adapters in PEFT layout, `folder/0007`, where clients keep a part of the model for
        themselves. Gives those clients."""

@final
class Server:
    """A strategy, its state and the ledger. It trains nothing and needs no training rows."""

    def __new__(
        cls,
        config: _Config = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        device: str | None = None,
        evaluate: bool = True,
    ) -> Server:
        """Reads the model, the labels and, to evaluate every `evaluate.every` rounds, the test rows. `device` is that of
        the evaluation, the CPU where none is named."""

    @staticmethod
    def from_state(
        state: bytes,
        config: _Config = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        device: str | None = None,
        evaluate: bool = True,
    ) -> Server:
        """Goes on from what `state` gave, with the same configuration."""

    @property
    def round(self) -> int:
        """Complete rounds."""

    @property
    def rounds(self) -> int:
        """Rounds of the whole run."""

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""

    @property
    def clients(self) -> int:
        """Clients of the federation."""

    @property
    def labels(self) -> list[str]:
        """The labels' names, in the order that numbers them; empty where nothing has labels."""

    @property
    def strategy(self) -> str:
        """The strategy's name."""

    @property
    def fingerprint(self) -> str:
        """Of what a server and its sites must agree on: see `Site.fingerprint`."""

    @property
    def config(self) -> str:
        """The resolved configuration as TOML."""

    @property
    def adapter(self) -> Download:
        """All that a site needs that holds nothing."""

    @property
    def ledger(self) -> dict[str, int]:
        """What crossed so far, summed over the rounds: scalars and bytes."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row a round, as in `metrics.jsonl`; the first is the untrained model, round 0, where it was evaluated."""

    @property
    def client_rows(self) -> list[dict[str, Any]]:
        """A row for each client of the last round, as in `clients.jsonl`."""

    @property
    def summary(self) -> dict[str, Any]:
        """The run in one object, as `summary.json`."""

    def plan(self) -> Plan:
        """The orders for the next round; the same until `aggregate` ends it."""

    def download(self, since: int = 0, clients: Sequence[int] | None = None) -> Download:
        """What a site lacks that holds `since`. `clients` are all those of the site: by methods in which clients hold
        fewer slots it is sent theirs. `None`: every slot."""

    def forget(self, clients: Sequence[int]) -> None:
        """A site was lost with all that it held: its clients' next download is whole, and the ledger counts it so."""

    def check(self, upload: Upload) -> None:
        """Raises what `aggregate` would raise of this upload alone: to tell whose it is before the round ends."""

    def aggregate(self, uploads: Sequence[Upload], asked: Sequence[int] | None = None) -> dict[str, Any]:
        """Ends the round and gives its row, as in `metrics.jsonl`; its `train_seconds` are 0, since only sites know them.

        `asked` are the clients that were sent the round's start, the whole cohort unless said otherwise; those without an
        upload count as dropped, and their download as lost. The order of the uploads does not matter. An upload that does
        not fit the round raises `BonfireError` that names the client; the state is then as it was.
        """

    @property
    def against_secure_aggregation(self) -> str | None:
        """Why the sum of uploads does not do for this run, by the key in its way; `None`: it does, so that secure
        aggregation, which shows a server nothing else, can take it."""

    def aggregate_mean(
        self,
        mean: Upload,
        examples: Mapping[int, int],
        *,
        sites: int,
        sent_bytes: int,
        asked: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Ends a round of which no upload was seen, only their mean (secure aggregation), and gives its row.

        `mean` holds, in the shapes of an upload, the mean of the clients' movements, weighted as `server.weights` says, and
        of their losses; its tokens are their sum, and whose upload it says it is counts for nothing. `examples` are the
        training examples of each client in it. `sites` have sent `sent_bytes` in all, which is what the ledger counts. There
        is no row for any client. Raises `BonfireError` where `against_secure_aggregation` says why.
        """

    def evaluate(self) -> dict[str, Any] | None:
        """The global model on the configuration's test rows: `examples`, `answers`, `loss`, `accuracy` (0 to 1),
        `exact_match`; where numbers are foretold `pearson` and `spearman` in the place of the two shares. `None`
        where there are none, or where clients' own models are what counts."""

    def state(self) -> bytes:
        """All that is needed to go on: model, strategy's state, ledger, rows. With a checksum."""

    def save(self, folder: _Path) -> None:
        """Writes the global adapter in PEFT layout."""

    def tensors(self) -> dict[str, _Floats]:
        """The global adapter by PEFT's names, in its shapes: `lora_A` `[r, in]`, `lora_B` `[out, r]`."""

@final
class Run:
    """A run that has ended."""

    @property
    def folder(self) -> str:
        """The run folder."""

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """A row a round, as in `metrics.jsonl`."""

    @property
    def clients(self) -> list[dict[str, Any]]:
        """A row a client and round, as in `clients.jsonl`."""

    @property
    def summary(self) -> dict[str, Any]:
        """The run in one object, as `summary.json`."""

    def predict(self, texts: Iterable[_Text], *, best: bool = False, device: str | None = None) -> list[dict[str, Any]]:
        """What the run's model says of `texts`: as `bonfire.predict` of its folder."""

def train(
    config: _Config = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    out: _Path | None = None,
    on_round: Callable[[dict[str, Any]], object] | None = None,
) -> Run:
    """Runs a federation in this process, as `bonfire train`; without `config` the built-in quickstart.

    `out` is the run folder, `runs/<name>-<time>` unless named. `on_round` is called with each round's row. Ctrl-C, or an
    exception of `on_round`, gives up the round that runs; the folder holds those before it.
    """

def compare(
    config: _Path | None = None,
    *,
    strategies: str | Sequence[str] | None = None,
    seeds: Sequence[int] = ...,
    ranks: Sequence[int] = ...,
    alphas: Sequence[float] = ...,
    out: _Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Strategies side by side on the same data and seeds, as `bonfire compare`: a row a run. The folder `out`,
    `compare/<name>` unless named, holds the table and the runs; what is there already is not run again. Pictures are drawn by
    `bonfire compare` with the same options and folder."""

def predict(
    run: _Path | Run, texts: Iterable[_Text], *, best: bool = False, device: str | None = None
) -> list[dict[str, Any]]:
    """What the model of a run says of `texts`, as `bonfire predict --json`: a dict each, in their order.

    `run` is a run folder or what `train` returned; `best` asks the best round's model, which a run keeps with
    `evaluate.best`. A text is a `str`, a pair `(first, second)`, a sentence whose words are tagged a `str` with white space
    between the words or a list of them. Classes come as `label`, `probability` and `probabilities`, several labels as
    `labels` and `probabilities`, numbers as `value`, sentences as `words`, `tags` and `spans`.
    """
