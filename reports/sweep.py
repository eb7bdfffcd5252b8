"""What a sweep found: a table of its trials, and a picture."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiment.validations import Validation
from runtime import files

_NONE = "-"
_STATES = {"finished": "o", "ended early": "x", "failed": "", "running": ""}


class Row(NamedTuple):
    """A trial.

    Attributes:
        state: finished, ended early, failed or running.
        best: its best validation; None where there is none.
        flags: those that the sweep varies.
    """

    number: int
    state: str
    best: Validation | None
    flags: Mapping[str, Any]


def table(rows: Sequence[Row], metric: str) -> list[list[str]]:
    """Cells: a header and a row for each trial, the best ones first."""
    names = list(rows[0].flags) if rows else []
    cells = [["trial", "state", metric, "at", *names]]
    for row in sorted(rows, key=_rank):
        figures = [_NONE, _NONE]
        if row.best:
            figures = [f"{row.best.value:.1%}", str(row.best.iteration)]
        cells.append([str(row.number), row.state, *figures, *(_text(row.flags[n]) for n in names)])
    return cells


def _rank(row: Row) -> tuple[bool, float, int]:
    return row.state != "finished", -row.best.value if row.best else 1.0, row.number


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(
    path: str | os.PathLike, rows: Sequence[Row], ranges: Collection[str], metric: str
) -> None:
    """Draw the figures by trial and by each flag as a PNG file.

    Args:
        ranges: flags that are numbers from a range; the others are choices. One whose values are
            positive and spread over a factor of 20 or more has a logarithmic axis.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = [row for row in rows if row.best and _STATES[row.state]]
    names = list(rows[0].flags)
    figure = Figure(figsize=(3.2 * (1 + len(names)), 3.2), layout="constrained")
    panels = figure.subplots(1, 1 + len(names), sharey=True, squeeze=False)[0]
    _scatter(panels[0], shown, [row.number for row in shown])
    panels[0].set_xlabel("trial")
    panels[0].set_ylabel(f"best {metric} of the validations")
    panels[0].legend(fontsize="small")
    for panel, name in zip(panels[1:], names, strict=True):
        values = [row.flags[name] for row in shown]
        if name in ranges:
            _scatter(panel, shown, values)
            if min(values) > 0 and max(values) / min(values) >= 20:
                panel.set_xscale("log")
            elif all(isinstance(value, int) for value in values):
                panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            words = sorted(set(map(str, values)))
            _scatter(panel, shown, [words.index(str(value)) for value in values])
            panel.set_xticks(range(len(words)), words)
            panel.set_xlim(-0.5, len(words) - 0.5)
        panel.set_xlabel(name)
    with files.complete_file(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _scatter(panel, rows: Sequence[Row], places: Sequence[float]) -> None:
    for state, marker in _STATES.items():
        of_state = [
            (x, row.best.value)
            for x, row in zip(places, rows, strict=True)
            if row.state == state and row.best
        ]
        if of_state:
            panel.scatter(*zip(*of_state, strict=True), marker=marker, label=state)
