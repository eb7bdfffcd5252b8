"""The learning rate: a plain function of the iteration, so nothing of it is saved."""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

from experiment.flags import Settings

_WARMUP_START = 0.01  # of the rate, as in the bag of tricks (arXiv:1903.07071)


class Schedule(NamedTuple):
    """How the learning rate changes.

    `kind` is one of
        exponential  it falls from decay_start on, to a thousandth at the end (section 4.1 of the
                     paper, but from 3e-4 on as in its code), and stays there
        cosine       it falls over the same iterations, by half a cosine, to 0, and stays there
        multistep    it is multiplied by `factor` at each of the milestones
        constant     it stays
    and the warm-up rises linearly, from a hundredth of the rate at the first step to all of it
    after `warmup` iterations.
    """

    rate: float
    kind: str = "constant"
    decay_start: int = -1  # -1: no decay
    end: int = 0
    milestones: Sequence[int] = ()
    factor: float = 0.1
    warmup: int = 0

    @classmethod
    def of(cls, settings: Settings) -> "Schedule":
        """The schedule that the flags of a training describe."""
        return cls(
            rate=settings.learning_rate,
            kind=settings.lr_schedule,
            decay_start=settings.decay_start_iteration,
            end=settings.decay_to or settings.train_iterations,
            milestones=settings.milestones,
            factor=settings.lr_decay_factor,
            warmup=settings.warmup_iterations,
        )


def learning_rate(iteration: int, schedule: Schedule) -> float:
    """The rate of the step that follows `iteration` finished ones."""
    rate = schedule.rate * _decay(iteration, schedule)
    if iteration < schedule.warmup:
        rate *= _WARMUP_START + (1 - _WARMUP_START) * iteration / schedule.warmup
    return rate


def _decay(iteration: int, schedule: Schedule) -> float:
    if schedule.kind == "exponential":
        return 0.001 ** _progress(iteration, schedule)
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * _progress(iteration, schedule))) / 2
    if schedule.kind == "multistep":
        return schedule.factor ** bisect.bisect_right(schedule.milestones, iteration)
    return 1.0


def _progress(iteration: int, schedule: Schedule) -> float:
    """How much of the decay is over, in 0..1."""
    start = schedule.decay_start
    if start < 0 or iteration <= start:
        return 0.0
    if iteration >= schedule.end:
        return 1.0
    return (iteration - start) / (schedule.end - start)
