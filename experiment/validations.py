"""What the validations of a training found: the best one, and whether figures still rise.

All of it follows from metrics.jsonl. So a training that is resumed knows what one that was left
alone knows.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from experiment import metrics_log

_PREFIX = "validation/"
CHANCE = "chance"
MOST_CHANCE = 0.1


class Validation(NamedTuple):
    """A figure of one validation.

    Attributes:
        chance: with --val_beyond_chance, how likely chance alone lets the mAP rise as much above
            that of the start, in 0..1; None for the start, and without that flag.
    """

    iteration: int
    value: float
    chance: float | None = None

    @property
    def counts(self) -> bool:
        """Whether it can be the best."""
        return self.chance is None or self.chance <= MOST_CHANCE


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
            found.append(Validation(line["iteration"], value, line.get(_PREFIX + CHANCE)))
    return found


def best(found: Sequence[Validation]) -> Validation | None:
    """The highest of those that count, and of equal ones the first; None where there is none."""
    counting = [validation for validation in found if validation.counts]
    return max(counting, key=lambda validation: validation.value, default=None)


def since_highest(found: Sequence[Validation]) -> int:
    """How many validations came after the highest one, whether it counts or not."""
    values = [validation.value for validation in found]
    return len(values) - 1 - values.index(max(values)) if values else 0
