"""Which images make batch number t: a pure function of (seed, t), so resuming needs nothing but t."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

import common
from data.dataset import labels_of

# Streams of random numbers that must not repeat each other; data/augment.py draws from the third.
_EPOCH, _IMAGES = 0, 1


def group_by_pid(pids: Sequence[str]) -> list[np.ndarray]:
    """The rows of each person's images: an int64 array for each pid, in the pids' sorted order."""
    return _group(labels_of(pids))


def _group(labels: np.ndarray) -> list[np.ndarray]:
    """The rows of each distinct label, in the labels' order; int [N] -> int64 arrays."""
    order = np.argsort(labels, kind="stable")
    is_first = np.diff(labels[order]) > 0
    return np.split(order, np.flatnonzero(is_first) + 1)


def check_enough_pids(groups: Sequence[np.ndarray], P: int) -> None:
    """Raises: common.UserError when a batch needs more pids than there are."""
    if len(groups) < P:
        raise common.UserError(
            f"--batch_p {P} is more than the {len(groups)} pids of the training set. Give at most that, or more pids."
        )


def batches(
    groups: Sequence[np.ndarray],
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
    turn, in random order, until there are K; a pid with fewer images starts over.

    Args:
        groups: the rows of each pid's images, as from group_by_pid.
        P, K: pids in a batch and images of each.
        seed: any int >= 0.
        cameras: the camera of each row; None to draw without regard to them, as the original does.

    Yields:
        int64 [P·K], rows; the K of one pid follow each other.
    """
    camera_labels = None if cameras is None else labels_of(cameras)
    batches_per_epoch = len(groups) // P
    drawn_epoch = None
    for iteration in range(start, end):
        epoch, position = divmod(iteration, batches_per_epoch)
        if epoch != drawn_epoch:
            drawn_epoch = epoch
            order = np.random.default_rng([_EPOCH, seed, epoch]).permutation(len(groups))
        rng = np.random.default_rng([_IMAGES, seed, iteration])
        drawn = []
        for pid in order[position * P : (position + 1) * P]:
            rows = groups[pid]
            if camera_labels is None:
                drawn.append(_draw(rng, rows, K))
            else:
                drawn.append(_draw_in_turn(rng, rows, camera_labels[rows], K))
        yield np.concatenate(drawn)


def _draw(rng: np.random.Generator, rows: np.ndarray, K: int) -> np.ndarray:
    """K of the rows of a pid."""
    if len(rows) >= K:
        return rng.choice(rows, K, replace=False)
    repeats = -(-K // len(rows))
    return rng.permutation(np.tile(rows, repeats))[:K]


def _draw_in_turn(
    rng: np.random.Generator, rows: np.ndarray, cameras: np.ndarray, K: int
) -> np.ndarray:
    """K of the rows of a pid, from each of its cameras in turn. cameras: a label of each row."""
    by_camera = _group(cameras)
    shuffled = [rng.permutation(rows[by_camera[c]])[:K] for c in rng.permutation(len(by_camera))]
    in_turn = [row for turn in itertools.zip_longest(*shuffled) for row in turn if row is not None]
    return np.resize(in_turn, K)  # repeats them where there are fewer than K
