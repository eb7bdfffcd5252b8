"""The lines of train.log that are read again: they are written and parsed here alone.

    iter:   120, loss min|avg|max: 0.012|0.534| 1.271, batch-p@3: 61.25%, ETA: 0:01:20 (0.17s/it)
    validation:   120, mAP: 41.20%, top-1: 55.30%, ..., best mAP: 43.10% at 100 (2.1s)
    Interrupted after iteration 120. To go on: ...
    Finished all 25000 iterations.
    Stopped early after iteration 320: mAP has not risen for 10 validations; ...
    Training using the following parameters:
    batch_p: 32

Before each of them stands "<time> [INFO] train: ", as before every line of the file. Only a line that
begins so counts: a flag may have any text as its value.
"""

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiment.validations import Validation

_START = r"\S+ \S+ \[INFO\] train: "
_NUMBER = r" *(\d{1,18})"  # a number of 5,000 digits is none, and no int
_ITERATION = re.compile(rf"{_START}(?:iter|validation):{_NUMBER},".encode())
_VALIDATION = re.compile(rf"{_START}validation:".encode())
_NUMBERS = re.compile(
    rf"{_START}iter:{_NUMBER}, loss min\|avg\|max: *[^|]*\| *([^|]*?)\|.*?batch-p@\d+: *([\d.]+%)"
)
_INTERRUPTED = re.compile(rf"{_START}Interrupted after iteration \d+\.")
_FINISHED = re.compile(
    rf"{_START}(?:Finished all{_NUMBER} iterations\.|Nothing to do: all{_NUMBER} iterations )"
)
_STOPPED_EARLY = re.compile(rf"{_START}(?:Nothing to do: s|S)topped early after iteration \d+")

_PARAMETERS = "Training using the following parameters:"
_HEADING = re.compile(_START + re.escape(_PARAMETERS) + "$")
_PARAMETER = re.compile(_START + r"(\w+): (.*)")
_WARNING = re.compile(r"\S+ \S+ \[WARNING\] train: (.*)")
_REACHED = re.compile(rf"{_START}(?:iter:{_NUMBER},|Saved .*checkpoint-(\d{{1,18}})\.$)")


class Logged(NamedTuple):
    """The numbers of one iteration, as text of the file."""

    iteration: int
    loss: str  # the mean of the batch
    precision: str  # in percent


# ------------------------------------------------------------------------- writing


def iteration_line(
    iteration: int,
    losses: np.ndarray,
    batch_k: int,
    precision: float,
    seconds: float,
    seconds_left: float,
) -> str:
    """The line of a finished iteration.

    Args:
        losses: of the batch, float [B].
        precision: of the batch, in 0..1, at batch_k - 1.
        seconds: that it took. seconds_left: that the rest of the training will take.
    """
    left = timedelta(seconds=int(seconds_left))
    return (
        f"iter:{iteration:6d}, "
        f"loss min|avg|max: {losses.min():.3f}|{losses.mean():.3f}|{losses.max():6.3f}, "
        f"batch-p@{batch_k - 1}: {precision:.2%}, ETA: {left} ({seconds:.2f}s/it)"
    )


def validation_line(
    iteration: int, figures: Mapping[str, float], metric: str, best: Validation, seconds: float
) -> str:
    """The line of a validation.

    Args:
        figures: in 0..1, by name. metric: the one that `best` is of.
        best: of all validations so far. seconds: that it took.
    """
    shown = ", ".join(f"{name}: {value:.2%}" for name, value in figures.items())
    return (
        f"validation:{iteration:6d}, {shown}, best {metric}: {best.value:.2%} at {best.iteration} "
        f"({seconds:.1f}s)"
    )


def parameter_lines(flags: Mapping[str, Any]) -> list[str]:
    """The lines of the flags of a run: a heading, and one for each, by name."""
    values = {name: " ".join(str(flags[name]).splitlines()) for name in sorted(flags)}
    return [_PARAMETERS, *(f"{name}: {value}" for name, value in values.items())]


def interrupted_line(iteration: int, command: str) -> str:
    """The last line of a run that was interrupted. command: what goes on with it."""
    return f"Interrupted after iteration {iteration}. To go on: {command}"


def finished_line(iterations: int) -> str:
    """The last line of a training that has all its iterations."""
    return f"Finished all {iterations} iterations."


def nothing_to_do_line(iterations: int) -> str:
    """The last line of a run that found the training finished."""
    return (
        f"Nothing to do: all {iterations} iterations are finished. To train on, resume with a "
        "higher --train_iterations."
    )


def stopped_early_line(
    iteration: int, metric: str, patience: int, best: Validation, nothing_to_do: bool
) -> str:
    """The last line of a run that ended because the metric no longer rose.

    Args:
        patience: validations without a rise.
        nothing_to_do: the run found the training so, and did nothing.
    """
    start = "Nothing to do: s" if nothing_to_do else "S"
    return (
        f"{start}topped early after iteration {iteration}: {metric} has not risen for {patience} "
        f"validations; the best is {best.value:.2%}, of checkpoint-{best.iteration}. To train on, "
        "resume with a higher --early_stop, or 0."
    )


# ------------------------------------------------------------------------- reading


def iteration_of(line: bytes) -> int | None:
    """The iteration that a line is about; None for lines about no single one."""
    match = _ITERATION.match(line)
    return int(match[1]) if match else None


def is_of_validation(line: bytes) -> bool:
    """Whether it is the line of a validation."""
    return bool(_VALIDATION.match(line))


def has_iterations(experiment_root: str | os.PathLike) -> bool:
    """Whether any iteration was logged."""
    return any(iteration_of(line.encode()) is not None for line in _lines(experiment_root))


def parameters(experiment_root: str | os.PathLike, iteration: int) -> dict[str, str]:
    """The flags of the run that came to an iteration, as text.

    A later run that was killed before it saved or logged any iteration up to it does not count.

    Returns:
        flags by name; {} where the log does not tell.
    """
    flags: dict[str, str] = {}
    found: dict[str, str] = {}
    for line in _lines(experiment_root):
        if reached := _REACHED.match(line):
            if int(reached[1] or reached[2]) <= iteration:
                found = flags
        elif _HEADING.match(line):
            flags = {}
        elif parameter := _PARAMETER.match(line):
            flags[parameter[1]] = parameter[2]
    return found


def last(experiment_root: str | os.PathLike) -> Logged | None:
    """The last logged iteration; None where there is none, or no train.log."""
    found = None
    for found in logged(experiment_root):  # noqa: B007
        pass
    return found


def logged(experiment_root: str | os.PathLike) -> Iterator[Logged]:
    """All logged iterations, in order."""
    for line in _lines(experiment_root):
        if match := _NUMBERS.match(line):
            yield Logged(int(match[1]), match[2], match[3])


def warnings(experiment_root: str | os.PathLike) -> list[str]:
    """The warnings of all runs, in order."""
    found = [_WARNING.match(line) for line in _lines(experiment_root)]
    return [match[1] for match in found if match]


def state(experiment_root: str | os.PathLike, iterations: int | None = None) -> str:
    """How far the training of an experiment without records is, as `provenance.state` tells it."""
    found = "stopped"
    for line in _lines(experiment_root):
        if match := _FINISHED.match(line):
            all_done = iterations is None or int(match[1] or match[2]) >= iterations
            found = "finished" if all_done else "stopped"
        elif _STOPPED_EARLY.match(line):
            found = "finished early"
        elif _INTERRUPTED.match(line):
            found = "interrupted"
        elif _NUMBERS.match(line):
            found = "stopped"
    return found


def _lines(experiment_root: str | os.PathLike):
    path = Path(experiment_root) / "train.log"
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as lines:
            yield from lines
