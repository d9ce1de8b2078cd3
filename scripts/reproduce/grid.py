"""The grid of the reproduction: which cells there are, in which order, and what each is run with.

A cell is one run of `bonfire train`. Cells do not depend on each other but, in the long lines, for the learning rate, which is
the best of `RATES` on a seed that no table uses (`SEARCH_SEED`), found in short runs that are cells too. The short lines, which
two slow cores can end in a night, come first; they run every method at two rates.
"""

from dataclasses import dataclass, field

RATES = (5e-4, 1e-3, 2e-3)
# The paper's, for every method.
PAPER_RATE = 5e-4
SEEDS = (0, 1)
SEARCH_SEED, SEARCH_ROUNDS = 2, 8
ROUNDS = 25
# Of the short lines.
SHORT_RATES = (1e-3, 2e-3)
SHORT_ROUNDS, SHORT_EPOCHS = 10, 2


@dataclass(frozen=True)
class Method:
    """A method as a table names it, and its keys."""

    name: str
    keys: tuple[str, ...]
    # Clients may upload fewer slots than the global rank; elsewhere the rank itself is the table's.
    chooses: bool = False


METHODS = {
    m.name: m
    for m in (
        Method("lora-a2", ("strategy.name=lora-a2",), chooses=True),
        Method("fedit", ("strategy.name=fedit",)),
        Method("fedit-5x", ("strategy.name=fedit", "train.lr_b=5x")),
        Method("ffa-lora", ("strategy.name=ffa-lora",)),
        Method("flexlora", ("strategy.name=flexlora",)),
        Method("hetlora", ("strategy.name=hetlora",)),
        Method("lora-a2-gradient", ("strategy.name=lora-a2", "strategy.score=gradient"), chooses=True),
        Method("lora-a2-per-byte", ("strategy.name=lora-a2", "strategy.per=byte"), chooses=True),
        Method("lora-a2-random", ("strategy.name=lora-a2", "strategy.score=random"), chooses=True),
    )
}


@dataclass(frozen=True)
class Line:
    """One line of the grid: all methods before the next line."""

    name: str
    data: str
    alpha: float
    rank: int
    head: str
    methods: tuple[str, ...]
    short: bool = False


ALL = tuple(METHODS)
FIRST = ("lora-a2", "fedit", "fedit-5x", "ffa-lora")
LINES = (
    Line("s1", "banking77-small", 0.01, 1, "trained", ALL, short=True),
    Line("s8", "banking77-small", 0.01, 8, "trained", ALL, short=True),
    Line("a", "banking77", 0.01, 1, "trained", ALL),
    Line("b", "banking77", 0.01, 8, "trained", ALL),
    Line("c1", "banking77", 0.1, 1, "trained", ALL),
    Line("c8", "banking77", 0.1, 8, "trained", ALL),
    Line("d1", "20news", 0.01, 1, "trained", FIRST),
    Line("d8", "20news", 0.01, 8, "trained", FIRST),
    Line("a-frozen", "banking77", 0.01, 1, "frozen", FIRST),
)


@dataclass(frozen=True)
class Cell:
    """One run."""

    line: Line
    method: Method
    seed: int
    rate: float
    rounds: int
    search: bool = field(default=False)

    @property
    def name(self) -> str:
        kind = "search-" if self.search else ""
        return f"{kind}{self.line.name}-{self.method.name}-lr{self.rate:g}-seed{self.seed}"

    def settings(self) -> list[str]:
        """The `--set` texts, data and model left out."""
        line = self.line
        # α/r as the paper: r is the table's rank for every method but LoRA-A², whose adapter has the global one.
        rank = [16, line.rank] if self.method.chooses else [line.rank, "full"]
        return [
            *self.method.keys,
            f"data.partition={{kind='dirichlet',alpha={line.alpha}}}",
            f"data.max_length={128 if line.data == '20news' else 64}",
            f"adapter.rank={rank[0]}",
            f"clients.budget={rank[1]}",
            f"adapter.head={line.head}",
            f"train.lr_a={self.rate}",
            f"train.rounds={self.rounds}",
            *([f"train.epochs={SHORT_EPOCHS}", f"evaluate.every={SHORT_ROUNDS // 5}"] if line.short else []),
            f"train.seed={self.seed}",
        ]


def searches(line: Line, method: Method) -> list[Cell]:
    """The short runs that find a method's rate on a line."""
    return [Cell(line, method, SEARCH_SEED, rate, SEARCH_ROUNDS, search=True) for rate in RATES]


def best_rate(line: Line, method: Method, finished: dict[str, dict]) -> float | None:
    """The rate with the best last accuracy of the search, once all of it is there; the lower one of equals."""
    found = [(finished.get(cell.name), cell.rate) for cell in searches(line, method)]
    if any(cell is None for cell, _ in found):
        return None
    return max(found, key=lambda pair: (pair[0]["final_accuracy"], -pair[1]))[1]


def order(finished: dict[str, dict]) -> list[Cell]:
    """All cells known so far, in the order in which they are run: those whose rate is still sought are not among them."""
    cells = []
    for line in LINES:
        methods = [METHODS[name] for name in line.methods]
        if line.short:
            cells += [Cell(line, m, seed, rate, SHORT_ROUNDS) for seed in SEEDS for rate in SHORT_RATES for m in methods]
            continue
        # One seed of every method at the paper's rate before anything else of the line.
        cells += [Cell(line, m, SEEDS[0], PAPER_RATE, ROUNDS) for m in methods]
        cells += [cell for m in methods for cell in searches(line, m)]
        for seed in SEEDS:
            for m in methods:
                rates = {PAPER_RATE, best_rate(line, m, finished)} - {None}
                cells += [Cell(line, m, seed, rate, ROUNDS) for rate in sorted(rates)]
    return list(dict.fromkeys(cells))
