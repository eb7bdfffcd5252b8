"""The learning rate, and whether the body is trained: plain functions of the iteration, so nothing
of them is saved.
"""

import argparse
import bisect
import math

_WARMUP_START = 0.01  # of the rate, as in the bag of tricks (arXiv:1903.07071)


def learning_rate(iteration: int, args: argparse.Namespace) -> float:
    """The rate of the step after `iteration` finished ones: --learning_rate times the schedule
    times the warm-up.

    By --lr_schedule it falls

        exponential  from decay_start_iteration on, to a thousandth at train_iterations (section 4.1
                     of the paper, but from 3e-4 on as in its code)
        cosine       over the same iterations, by half a cosine, to 0
        multistep    to lr_decay_factor of itself at each of lr_milestones
        constant     never

    The warm-up rises linearly, from a hundredth at the first step to all of it after
    warmup_iterations.
    """
    rate = args.learning_rate * _SCHEDULES[args.lr_schedule](iteration, args)
    if iteration < args.warmup_iterations:
        rate *= _WARMUP_START + (1 - _WARMUP_START) * iteration / args.warmup_iterations
    return rate


def _progress(iteration: int, args: argparse.Namespace) -> float:
    """How much of the decay is over, 0..1."""
    start, end = args.decay_start_iteration, args.train_iterations
    if start < 0 or iteration <= start:
        return 0.0
    return (iteration - start) / (end - start)


def _multistep(iteration: int, args: argparse.Namespace) -> float:
    milestones = [int(milestone) for milestone in args.lr_milestones.split(",")]
    return args.lr_decay_factor ** bisect.bisect_right(milestones, iteration)


_SCHEDULES = {
    "exponential": lambda iteration, args: 0.001 ** _progress(iteration, args),
    "cosine": lambda iteration, args: (1 + math.cos(math.pi * _progress(iteration, args))) / 2,
    "multistep": _multistep,
    "constant": lambda iteration, args: 1.0,
}


def body_is_frozen(iteration: int, args: argparse.Namespace) -> bool:
    """Whether the step after `iteration` finished ones trains only what is not of the body: the
    head, the pooling, a classifier. The body's running statistics move all the same."""
    return iteration < args.freeze_body_iterations
