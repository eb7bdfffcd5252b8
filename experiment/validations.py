"""What the validations of a training found: the best one, and whether figures still rise.

All of it follows from metrics.jsonl. So a training that is resumed knows what one that was left
alone knows.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from experiment import metrics_log

_PREFIX = "validation/"


class Validation(NamedTuple):
    """A figure of one validation."""

    iteration: int
    value: float


def tags(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures by their tags, in metrics.jsonl and in TensorBoard."""
    return {_PREFIX + name: value for name, value in figures.items()}


def is_one(names: Iterable[str]) -> bool:
    """Whether what has these tags is a validation, or its part in TensorBoard."""
    return any(name.startswith(_PREFIX) for name in names)


def read(
    experiment_root: str | os.PathLike, metric: str, until: int | None = None
) -> list[Validation]:
    """All validations, in order.

    Args:
        metric: one of flags.VALIDATION_FIGURES.
        until: the last iteration that counts; None: all.
    """
    found = []
    for line in metrics_log.read(experiment_root):
        value = line.get(_PREFIX + metric)
        if value is not None and (until is None or line["iteration"] <= until):
            found.append(Validation(line["iteration"], value))
    return found


def best(found: Sequence[Validation]) -> Validation | None:
    """The highest, and of equal ones the first; None where there is none."""
    return max(found, key=lambda validation: validation.value, default=None)


def since_best(found: Sequence[Validation]) -> int:
    """How many validations came after the best one."""
    highest = best(found)
    return len(found) - 1 - found.index(highest) if highest else 0
