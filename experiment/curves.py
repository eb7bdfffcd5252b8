"""The curves of a training, from metrics.jsonl, or from train.log where that is missing."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from experiment import metrics_log, train_log, validations

# The names of curves, and the tags in metrics.jsonl that they come from.
_PLAIN = ("loss", "id_loss", "id_top1", "center_loss", "learning_rate", "images_per_sec")


class Curve(NamedTuple):
    """A number over the iterations.

    Attributes:
        iterations: int64 [n], rising.
        values: float64 [n], NaN where a number was not finite.
    """

    iterations: np.ndarray
    values: np.ndarray


def read(experiment_root: str | os.PathLike) -> dict[str, Curve]:
    """All curves that are there, by name.

    They are loss, id_loss, id_top1, center_loss, learning_rate and images_per_sec; precision, that
    of the batch in 0..1; waiting, the share of an iteration in which it waits for images; and
    validation/mAP and its like.
    """
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in metrics_log.read(experiment_root):
        for name, value in _numbers(line):
            points[name].append((line["iteration"], value))
    if not points:  # an experiment of an earlier version
        for logged in train_log.logged(experiment_root):
            points["loss"].append((logged.iteration, _number(logged.loss)))
            points["precision"].append((logged.iteration, _number(logged.precision[:-1]) / 100))
    curves = {}
    for name, found in points.items():
        iterations, values = zip(*found, strict=True)
        curves[name] = Curve(np.array(iterations, np.int64), np.array(values, np.float64))
    return curves


def _numbers(line: dict) -> Iterator[tuple[str, float]]:
    """The names and values of the points in a line of metrics.jsonl."""
    for tag, value in line.items():
        number = float("nan") if value is None else value
        if not isinstance(number, int | float):
            continue
        if tag in _PLAIN or tag.startswith("validation/"):
            yield tag, number
        elif re.fullmatch(r"batch_prec_at_\d+", tag):
            yield "precision", number
    seconds, waited = line.get("secs_per_iter"), line.get("secs_waiting_for_images")
    if isinstance(seconds, float) and isinstance(waited, float) and seconds > 0:
        yield "waiting", min(1.0, waited / seconds)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def best_validation(curves: Mapping[str, Curve], metric: str) -> int | None:
    """The place of the best validation in the curve of its metric; None where there is none."""
    curve = curves.get(f"validation/{metric}")
    if curve is None or not len(curve.values):
        return None
    of_chance = curves.get(f"validation/{validations.CHANCE}", Curve(np.array([]), np.array([])))
    not_counted = of_chance.iterations[of_chance.values > validations.MOST_CHANCE]
    return int(np.argmax(np.where(np.isin(curve.iterations, not_counted), -np.inf, curve.values)))


def mean_points(curve: Curve, most: int) -> Curve:
    """At most so many points: each the mean of points that follow one another, at their middle."""
    count = len(curve.values)
    if count <= most:
        return curve
    parts = np.array_split(np.arange(count), most)
    return Curve(
        np.array([curve.iterations[part[len(part) // 2]] for part in parts]),
        np.array([curve.values[part].mean() for part in parts]),
    )
