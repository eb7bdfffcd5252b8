"""Which images make batch number t: a pure function of (seed, t), so resuming needs nothing but t."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

import common

# Streams of random numbers that must not repeat each other; data/images.py draws from the third.
_EPOCH, _IMAGES = 0, 1


def group_by_pid(pids: Sequence[str]) -> list[np.ndarray]:
    """Row numbers of each person's images: one int array a pid, pids in sorted order. Serves for
    other labels, too.
    """
    _, labels, counts = np.unique(np.asarray(pids), return_inverse=True, return_counts=True)
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])


def check_enough_pids(groups: list[np.ndarray], P: int) -> None:
    """Raises: common.UserError when a batch needs more pids than there are."""
    if len(groups) < P:
        raise common.UserError(
            f"--batch_p {P} is more than the {len(groups)} pids of the training set. Give at most that, or more pids."
        )


def batches(
    groups: list[np.ndarray],
    P: int,
    K: int,
    seed: int,
    start: int,
    end: int,
    cameras: Sequence[str] | None = None,
) -> Iterator[np.ndarray]:
    """The batches number start, start + 1, ... end - 1.

    An epoch is all pids in random order, cut to a multiple of P: no pid comes twice in one, and the
    next epoch has another order. A pid with at least K images gives K different ones; of a pid with
    fewer, the list of its images is repeated until it has K or more, shuffled, and cut to K.

    With cameras, the K images of a pid come from as many of its cameras as possible: one of each in
    turn, in random order, until there are K; a pid with fewer images begins anew.

    Args:
      groups: row numbers of each pid's images, as from group_by_pid.
      P, K: pids in a batch and images of each.
      seed: any int >= 0.
      cameras: that of each row; None to draw without regard to them, as the original does.

    Yields: int64 [P·K], row numbers; the K of one pid follow each other.
    """
    draw = _draw
    if cameras is not None:
        draw, cameras = _draw_in_turn, np.asarray(cameras)
        groups = [[rows[of_camera] for of_camera in group_by_pid(cameras[rows])] for rows in groups]
    batches_per_epoch = len(groups) // P
    drawn_epoch, order = None, None
    for iteration in range(start, end):
        epoch, position = divmod(iteration, batches_per_epoch)
        if epoch != drawn_epoch:
            drawn_epoch, order = (
                epoch,
                np.random.default_rng([_EPOCH, seed, epoch]).permutation(len(groups)),
            )
        rng = np.random.default_rng([_IMAGES, seed, iteration])
        chosen = order[position * P : (position + 1) * P]
        yield np.concatenate([draw(rng, groups[pid], K) for pid in chosen])


def _draw(rng: np.random.Generator, images: np.ndarray, K: int) -> np.ndarray:
    if len(images) >= K:
        return rng.choice(images, K, replace=False)
    return rng.permutation(np.tile(images, -(-K // len(images))))[:K]


def _draw_in_turn(rng: np.random.Generator, cameras: list[np.ndarray], K: int) -> np.ndarray:
    """K of the images that are listed by camera."""
    shuffled = [rng.permutation(cameras[c])[:K] for c in rng.permutation(len(cameras))]
    in_turn = [row for turn in itertools.zip_longest(*shuffled) for row in turn if row is not None]
    return np.resize(in_turn, K)  # repeats what is less than K
