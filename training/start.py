"""What a training says at its start: the data, the flags, and a learning rate that jumps."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from experiment import flags
from experiment.flags import Settings
from training.schedule import Schedule, learning_rate


def describe_data(labels: np.ndarray, epoch: str) -> str:
    """The training set in numbers.

    Args:
        labels: pids as numbers 0, 1, ..., int [N].
        epoch: what an epoch is, as a sampler describes it.
    """
    images = np.bincount(labels)
    fewest, most = images.min(), images.max()
    return (
        f"{len(labels)} images of {len(images)} pids, {fewest}/{np.median(images):g}/{most} images "
        f"a pid (min/median/max); {epoch};"
    )


def describe_flags(settings: Settings) -> str:
    """The flags that differ from their defaults, as they are typed, but for experiment_root."""
    values = {field.name: getattr(settings, field.name) for field in flags.rows()}
    differing = {
        name: value
        for name, value in values.items()
        if name != "experiment_root" and value != flags.default(name)
    }
    return " ".join(flags.command_line(differing))


def rate_jump(settings: Settings, ran_with: Mapping[str, str], iteration: int) -> str | None:
    """The warning that the schedule's end has moved and the learning rate jumps with it, or None.

    Args:
        ran_with: the flags of the run that came to this iteration, as train_log.parameters gives
            them; one that is not there is as it is now.
        iteration: the number of finished ones.
    """
    try:
        before = _with_end(settings, ran_with)
    except ValueError:  # somebody has edited the log
        return None
    old, new = Schedule.of(before), Schedule.of(settings)
    old_rate, new_rate = learning_rate(iteration, old), learning_rate(iteration, new)
    if math.isclose(old_rate, new_rate, rel_tol=1e-9, abs_tol=1e-15):
        return None
    return (
        f"The learning rate of iteration {iteration + 1} jumps to {new_rate:.3g}; it was to be "
        f"{old_rate:.3g}: the {settings.lr_schedule} decay now ends at iteration {new.end}, not at "
        f"{old.end}. To keep the old curve, end this run at once (Ctrl-C twice) and resume with "
        f"--decay_to {old.end}."
    )


def _with_end(settings: Settings, ran_with: Mapping[str, str]) -> Settings:
    """The settings, with the end of the schedule as another run had it. Raises: ValueError."""
    iterations = int(ran_with.get("train_iterations", settings.train_iterations))
    decay_to = ran_with.get("decay_to", "None")
    return dataclasses.replace(
        settings,
        train_iterations=iterations,
        decay_to=None if decay_to == "None" else int(decay_to),
    )
