"""Tables and pictures of the finished cells: docs/reproduction/tables.md and one SVG a line of the grid.

    pip install matplotlib       # for the pictures; without it the table alone is made
"""

from pathlib import Path

import grid

BESIDE = "fedit"


def picked(cells: dict[str, dict], line: grid.Line, method: str, seed: int, rate: float | None) -> dict | None:
    found = [c for c in cells.values() if (c["line"], c["method"], c["seed"], c["search"]) == (line.name, method, seed, False)]
    return next((c for c in found if c["rate"] == rate), None)


def percent(cell: dict | None) -> str:
    return f"{100 * cell['final_accuracy']:.2f}" if cell else "–"


def against(cell: dict | None, other: dict | None) -> str:
    """Points ahead of the method beside it on the same partition."""
    return f"{100 * (cell['final_accuracy'] - other['final_accuracy']):+.2f}" if cell and other and cell is not other else "–"


def mean_overlap(cell: dict | None) -> str:
    chosen = cell and cell["slot_overlap"]
    return f"{100 * sum(chosen) / len(chosen):.0f} %" if chosen else ""


def first_rate(line: grid.Line) -> float:
    """The one whose cells come first."""
    return grid.SHORT_RATES[0] if line.short else grid.PAPER_RATE


def table(line: grid.Line, cells: dict[str, dict]) -> list[str]:
    """One line of the grid, with its gaps."""
    seeds, first = grid.SEEDS, first_rate(line)
    best = {m: None if line.short else grid.best_rate(line, grid.METHODS[m], cells) for m in line.methods}
    rates = [(f"η = {rate:g}", dict.fromkeys(line.methods, rate)) for rate in (grid.SHORT_RATES if line.short else (first,))]
    rates += [] if line.short else [("best η", best)]
    head = ["method"]
    for what, _ in rates:
        head += [f"{what}, seed {s}" for s in seeds] + [f"against {BESIDE}, seed {s}" for s in seeds]
    head += [*([] if line.short else ["best η"]), "MB up, adapter", "MB up, head", "MB up, indices", "overlap of choices"]
    rows = ["| " + " | ".join(head) + " |", "|---|" + "---|" * (len(head) - 1)]
    for method in line.methods:
        row = [method]
        for _, rate in rates:
            own = [picked(cells, line, method, s, rate[method]) for s in seeds]
            beside = [picked(cells, line, BESIDE, s, rate[BESIDE]) for s in seeds]
            row += [percent(c) for c in own] + [against(c, b) for c, b in zip(own, beside, strict=True)]
        some = next((c for s in seeds if (c := picked(cells, line, method, s, first))), None)
        if not line.short:
            row.append(f"{best[method]:g}" if best[method] else "–")
        if some:
            heads, indices = 4 * some["upload_head_params"], some["upload_index_bytes"]
            parts = (4 * some["upload_params"] - heads, heads, indices)
            row += [f"{bytes_ / 1e6:.2f}" for bytes_ in parts]
        else:
            row += ["–"] * 3
        rows.append("| " + " | ".join([*row, mean_overlap(some)]) + " |")
    return rows


def picture(line: grid.Line, cells: dict[str, dict], path: Path) -> bool:
    """Accuracy against uploaded bytes, the line's first rate, every seed a thin curve."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "reproduction"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for colour, method in enumerate(line.methods):
        for seed in grid.SEEDS:
            cell = picked(cells, line, method, seed, first_rate(line))
            if cell is None:
                continue
            rounds = len(cell["accuracy"])
            sent = [cell["upload_bytes"] / 1e6 * (n + 1) / rounds for n in range(rounds)]
            label = method if seed == grid.SEEDS[0] else None
            axes.plot(sent, [100 * a for a in cell["accuracy"]], color=f"C{colour}", linewidth=1, label=label)
    if not axes.lines:
        pyplot.close(figure)
        return False
    axes.set_xlabel("MB uploaded, heads and indices included")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"{line.data}, Dirichlet {line.alpha:g}, rank {line.rank}, {line.head} head")
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def rebuild(cells: dict[str, dict], folder: Path) -> None:
    """Writes what the cells say."""
    folder.mkdir(parents=True, exist_ok=True)
    made = "Made by `python scripts/reproduce/reproduce.py tables`; – is a cell not yet run."
    text = ["# Tables of the reproduction", "", made, ""]
    for line in grid.LINES:
        text += [f"## {line.name}: {line.data}, Dirichlet {line.alpha:g}, rank {line.rank}, {line.head} head", ""]
        text += [*table(line, cells), ""]
        if picture(line, cells, folder / f"{line.name}.svg"):
            text += [f"![Accuracy against bytes]({line.name}.svg)", ""]
    programs = sorted({f"{c['program']['version']} ({c['program']['commit']})" for c in cells.values()})
    text += ["Programs: " + (", ".join(programs) or "none yet") + ".", ""]
    (folder / "tables.md").write_text("\n".join(text))
