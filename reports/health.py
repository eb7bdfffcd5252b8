"""Whether a training is healthy, in words, by its curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiment.curves import Curve, best_validation

COLLAPSE = "The embedding has collapsed"  # how the warning in train.log begins

_SLOW = 0.2  # part of the time that a training may wait for its images
_KNOWN_BY_HEART = 0.95  # precision in the batch


class Finding(NamedTuple):
    """What was found of a training."""

    good: bool
    text: str  # sentences


def findings(
    curves: Mapping[str, Curve], metric: str, warnings: Sequence[str], over: bool
) -> list[Finding]:
    """What the curves of a training say, the worst first; one good finding where nothing is wrong.

    Args:
        curves: as experiment.curves.read gives them.
        metric: the figure that validations are compared by.
        warnings: those of train.log.
        over: whether the training has ended.
    """
    found = [
        *_collapse(warnings),
        *_not_finite(curves),
        *_nothing_learned(curves),
        *_validation(curves, metric, over),
        *_slow_input(curves),
    ]
    if not any(not finding.good for finding in found):
        found.append(Finding(True, "Nothing in the curves is wrong."))
    return sorted(found, key=lambda finding: finding.good)


def _collapse(warnings: Sequence[str]) -> list[Finding]:
    found = [warning for warning in warnings if warning.startswith(COLLAPSE)]
    return [Finding(False, found[-1])] if found else []


def _not_finite(curves: Mapping[str, Curve]) -> list[Finding]:
    curve = curves.get("loss")
    if curve is None or np.isfinite(curve.values).all():
        return []
    first = int(curve.iterations[~np.isfinite(curve.values)][0])
    return [
        Finding(
            False, f"The loss is not finite from iteration {first:,} on: lower --learning_rate."
        )
    ]


def _nothing_learned(curves: Mapping[str, Curve]) -> list[Finding]:
    precision = curves.get("precision")
    if precision is None or len(precision.values) < 20:
        return []
    before, after = _at_start(precision), at_end(precision)
    if after - before > 0.02 or after > 0.9:
        return []
    return [
        Finding(
            False,
            f"The precision in the batch did not rise: {before:.1%} at the start, {after:.1%} at the end. Start from "
            "pretrained weights (--initial_checkpoint), or try another --learning_rate.",
        )
    ]


def _validation(curves: Mapping[str, Curve], metric: str, over: bool) -> list[Finding]:
    precision = at_end(curves["precision"]) if "precision" in curves else 0.0
    by_heart = precision > _KNOWN_BY_HEART
    place = best_validation(curves, metric)
    if place is None:
        text = "There was no validation, so nothing tells how good it is on identities that it has not seen"
        if by_heart:
            text += ", and the training set is known by heart"
        return [Finding(not by_heart, f"{text}. Give --val_pids 0.1.")]
    curve = curves[f"validation/{metric}"]
    best, last = float(curve.values[place]), float(curve.values[-1])
    at = int(curve.iterations[place])
    if best - last > max(0.01, 0.03 * best):
        text = f"The validation's {metric} fell from {best:.1%} at iteration {at:,} to {last:.1%}"
        if by_heart:
            text += (
                f", while the precision in the batch is {precision:.1%}: the network learns its training set "
                "by heart. More augmentation and fewer iterations help"
            )
        return [Finding(False, f"{text}. Take the best checkpoint: embed.py --checkpoint best.")]
    if over and place == len(curve.values) - 1 and _still_rises(curve):
        return [
            Finding(
                False,
                f"The validation's {metric} was still rising at the end, to {last:.1%}: train longer "
                "(--resume --train_iterations).",
            )
        ]
    return [
        Finding(
            True,
            f"The validation's best {metric} is {best:.1%}, at iteration {at:,}; the last is {last:.1%}.",
        )
    ]


def _still_rises(curve: Curve) -> bool:
    """Whether the last third added more than a point."""
    earlier = curve.values[: max(1, len(curve.values) * 2 // 3)]
    return len(curve.values) >= 3 and float(curve.values[-1] - earlier.max()) > 0.01


def _slow_input(curves: Mapping[str, Curve]) -> list[Finding]:
    waiting = curves.get("waiting")
    if waiting is None or len(waiting.values) < 20:
        return []
    later = waiting.values[len(waiting.values) // 2 :]
    share = float(np.mean(later))
    if share < _SLOW:
        return []
    return [
        Finding(
            False,
            f"It waits for its images {share:.0%} of the time. Try more --loading_threads, --cache decoded, or smaller "
            "image files.",
        )
    ]


def _at_start(curve: Curve) -> float:
    return float(np.mean(curve.values[: max(1, len(curve.values) // 10)]))


def at_end(curve: Curve) -> float:
    """The mean of the last tenth."""
    return float(np.mean(curve.values[-max(1, len(curve.values) // 10) :]))
