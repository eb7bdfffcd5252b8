"""The report of trainings: a page with their curves, whether they are healthy, and their flags.

runs.py --report writes it: training.html, which needs no other file and no network, and the charts
as PNG.
"""

import html
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiment import curves, flags, provenance, train_log
from experiment.curves import Curve
from reports import page
from reports.health import at_end, findings

POINTS = 300  # of a curve, at most

# Legible on a light and on a dark page, also to those who cannot tell red from green.
_COLORS = ("#2f78c4", "#d9730d", "#1f9e77", "#c2409a", "#8a6fd1", "#7a7f87")
_STYLES = ("-", "--", ":")


class Training(NamedTuple):
    """What is shown of an experiment."""

    name: str
    args: Mapping[str, Any]  # what args.json holds
    state: str  # as provenance.state gives it
    curves: Mapping[str, Curve]
    warnings: Sequence[str]

    @property
    def metric(self) -> str:
        """The figure that its validations are compared by."""
        return str(self.args.get("val_metric") or "mAP")


class Chart(NamedTuple):
    """A chart: one curve of each training."""

    name: str  # of its file
    curve: str
    label: str
    caption: str
    percent: bool = False
    logarithmic: bool = False


def read(
    roots: Sequence[str | os.PathLike], flags_of: Sequence[Mapping[str, Any]]
) -> list[Training]:
    """What there is of experiments. flags_of: what the args.json of each holds."""
    names = [Path(os.path.abspath(root)).name for root in roots]
    if len(set(names)) < len(names):
        names = [str(root) for root in roots]
    return [_read(*each) for each in zip(roots, names, flags_of, strict=True)]


def _read(root: str | os.PathLike, name: str, args: Mapping[str, Any]) -> Training:
    planned = args.get("train_iterations")
    return Training(
        name=name,
        args=args,
        state=provenance.state(root, planned if isinstance(planned, int) else None),
        curves=curves.read(root),
        warnings=train_log.warnings(root),
    )


def write(
    directory: str | os.PathLike, trainings: Sequence[Training], table: Sequence[Sequence[str]]
) -> Path:
    """Write training.html and its charts, training_loss.png and so on, into a directory.

    Args:
        directory: created if it does not exist.
        trainings: one, or several to be compared.
        table: rows of text that compare several, the first one the names of the columns.

    Returns:
        the path of the page.

    Raises:
        UserError: the directory has a file of one of these names that is not of an earlier report.
    """
    directory = Path(directory)
    charts = _charts_of(trainings)
    page.check_replaced(directory, "training.html", [f"{_file_of(chart)}.png" for chart in charts])
    directory.mkdir(exist_ok=True)
    several = len(trainings) > 1
    title = f"{len(trainings)} trainings" if several else f"Training of {trainings[0].name}"
    body = page.fill(
        "training.html",
        heading=html.escape(title),
        about=_about(trainings),
        figures="" if several else _figures(trainings[0]),
        health=_health(trainings),
        charts="\n".join(_chart(directory, trainings, chart) for chart in charts),
        table=_comparison(table) if several else _changed_flags(trainings[0]),
    )
    path = directory / "training.html"
    page.write(path, title, body)
    return path


# ------------------------------------------------------------------------- words and figures


def _about(trainings: Sequence[Training]) -> str:
    if len(trainings) > 1:
        return "Curves of all of them lie over one another; the table below tells their flags."
    (training,) = trainings
    loss = training.curves.get("loss")
    done = int(loss.iterations[-1]) if loss else 0
    planned = training.args.get("train_iterations", "?")
    planned = f"{planned:,}" if isinstance(planned, int) else html.escape(str(planned))
    return f"{training.state.capitalize()}: iteration {done:,} of {planned}."


def _figures(training: Training) -> str:
    items = []
    best = curves.best_validation(training.curves, training.metric)
    for name in dict.fromkeys((training.metric, "mAP", "top-1")):
        curve = training.curves.get(f"validation/{name}")
        if curve is None or best is None:
            continue
        items.append((f"best validation {name}", f"{curve.values[best]:.1%}"))
        items.append((f"last validation {name}", f"{curve.values[-1]:.1%}"))
    precision = training.curves.get("precision")
    if precision:
        items.append(("precision in the batch", f"{at_end(precision):.1%}"))
    loss = training.curves.get("loss")
    if loss:
        items.append(("loss", f"{at_end(loss):.3f}"))
    speed = training.curves.get("images_per_sec")
    if speed:
        items.append(("images/s", f"{np.median(speed.values):,.0f}"))
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in items)
    notes = []
    if best is not None:
        at = int(training.curves[f"validation/{training.metric}"].iterations[best])
        notes.append(f"The best validation is that of iteration {at:,}, by {training.metric}.")
    if loss or precision:
        notes.append("Loss and precision are means over the last tenth of the iterations.")
    note = f'<p class="muted">{html.escape(" ".join(notes))}</p>' if notes else ""
    return f'<dl class="figures">\n{shown}\n</dl>\n{note}'


def _health(trainings: Sequence[Training]) -> str:
    sections = ""
    for training in trainings:
        over = training.state.startswith("finished")
        found = findings(training.curves, training.metric, training.warnings, over)
        items = ""
        for finding in found:
            kind, sign = ("true", "✓") if finding.good else ("wrong", "✗")
            items += (
                f'<li class="{kind}"><b class="sign">{sign}</b> {html.escape(finding.text)}</li>\n'
            )
        heading = f"<h3>{html.escape(training.name)}</h3>\n" if len(trainings) > 1 else ""
        sections += f'{heading}<ul class="findings">\n{items}</ul>\n'
    return f'<h2 id="health">Is it healthy?</h2>\n{sections}'


# ------------------------------------------------------------------------- charts


def _charts_of(trainings: Sequence[Training]) -> list[Chart]:
    """The charts for which there are curves."""
    metrics = {training.metric for training in trainings}
    shown = [
        Chart("loss", "loss", "Loss", "The loss, mean over the batch."),
        Chart(
            "precision",
            "precision",
            "Precision in the batch",
            "Share of the same identity among the K-1 nearest images in the batch.",
            percent=True,
        ),
        Chart(
            "id_loss", "id_loss", "Loss of identities", "Mean over the batch, without its weight."
        ),
        Chart(
            "id_top1",
            "id_top1",
            "Classifier",
            "Share of the batch's images to which the classifier gives their own identity.",
            percent=True,
        ),
        *(
            Chart(
                f"validation_{metric.replace('@', '_at_')}",
                f"validation/{metric}",
                f"Validation {metric}",
                f"{metric} on identities that are not trained on; a dot marks the best.",
                percent=True,
            )
            for metric in sorted(metrics)
        ),
        Chart(
            "learning_rate",
            "learning_rate",
            "Learning rate",
            "The learning rate, on a logarithmic scale.",
            logarithmic=True,
        ),
        Chart(
            "waiting",
            "waiting",
            "Waiting for images",
            "Share of each iteration, from the second on, in which the network waits for images.",
            percent=True,
        ),
    ]
    there = {name for training in trainings for name in training.curves}
    return [chart for chart in shown if chart.curve in there]


def _file_of(chart: Chart) -> str:
    """The name of a chart's file, without suffix."""
    return f"training_{chart.name}"


def _chart(directory: Path, trainings: Sequence[Training], chart: Chart) -> str:
    figure, plot = page.axes("Iteration", chart.label)
    looks = itertools.product(_STYLES, _COLORS)
    words = []
    for training, (style, color) in zip(trainings, itertools.cycle(looks)):
        curve = training.curves.get(chart.curve)
        if curve is None:
            continue
        is_validation = chart.curve.startswith("validation/")
        drawn = curve if is_validation else curves.mean_points(_without_first(curve, chart), POINTS)
        plot.plot(drawn.iterations, drawn.values, style, color=color, label=training.name)
        if is_validation:
            metric = chart.curve.removeprefix("validation/")
            best = flags.known(curves.best_validation(training.curves, metric))
            plot.plot(curve.iterations[best], curve.values[best], "o", color=color)
            words.append(f"{training.name} {curve.values[best]:.1%} at {curve.iterations[best]}")
        else:
            words.append(f"{training.name} ends at {_text(at_end(curve), chart)}")
    if len(trainings) > 1:
        page.legend(plot)
    if chart.logarithmic:
        plot.set_yscale("log")
    if chart.name == "waiting":
        plot.set_ylim(0, 1)
    if chart.percent:
        plot.yaxis.set_major_formatter(page.percent)
    svg = page.chart(figure, directory, _file_of(chart), f"{chart.label}: {', '.join(words)}.")
    return f"<figure>{svg}<figcaption>{html.escape(chart.caption)}</figcaption></figure>"


def _without_first(curve: Curve, chart: Chart) -> Curve:
    """The first iteration waits for the first images, which says nothing of the others."""
    if chart.name != "waiting":
        return curve
    return Curve(curve.iterations[1:], curve.values[1:])


def _text(value: float, chart: Chart) -> str:
    return f"{value:.1%}" if chart.percent else f"{value:.4g}"


# ------------------------------------------------------------------------- tables


def _comparison(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    names = "".join(f"<th><button>{html.escape(name)}</button></th>" for name in head)
    cells = ""
    for row in rows:
        first, *others = map(html.escape, row)
        cells += f"<tr><th>{first}</th>{''.join(f'<td>{text}</td>' for text in others)}</tr>\n"
    return f"""<h2 id="runs">Side by side</h2>
<div class="table wide" tabindex="0" role="region" aria-label="The trainings side by side"><table>
<thead><tr>{names}</tr></thead>
<tbody>
{cells}</tbody></table></div>"""


def _changed_flags(training: Training) -> str:
    """The flags that differ from their defaults."""
    rows = ""
    for field in flags.rows():
        default = flags.default(field.name)
        value = training.args.get(field.name, default)
        if field.name == "experiment_root" or value == default:
            continue
        cells = "".join(
            f'<td class="text">{html.escape(_shown(each))}</td>' for each in (value, default)
        )
        rows += f"<tr><th>--{field.name}</th>{cells}</tr>\n"
    return f"""<h2 id="flags">Flags that differ from their defaults</h2>
<div class="table" tabindex="0" role="region" aria-label="Flags"><table>
<thead><tr><th>Flag</th><th class="text">Value</th><th class="text">Default</th></tr></thead>
<tbody>
{rows}</tbody></table></div>"""


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
