"""Identities that are held out of a training set: a pure function of pids, cameras and seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common import UserError
from data.dataset import labels_of

# The fourth stream of random numbers, after those of data/pk_sampler.py and data/augment.py.
_HOLDOUT = 3


class HoldOut(NamedTuple):
    """Which rows of a data set of N images are held out."""

    held: np.ndarray  # bool [N]
    queries: np.ndarray  # of the held-out ones, those to look for: rows, int64, rising
    gallery: np.ndarray  # those to look among, the held-out ones and the distractors: bool [N]


def hold_out(
    pids: Sequence[str],
    cameras: Sequence[str] | None,
    amount: int | float,
    seed: int,
    junk: np.ndarray | None = None,
    distractors: int = 0,
) -> HoldOut:
    """Draw identities to hold out, the queries among their images, and distractors among the others.

    Only pids whose images can be found again are drawn: those of at least two images or, where
    cameras are known, of images of at least two cameras. Without cameras every image is a query;
    with them one image of each pid and camera, drawn at random.

    Args:
        pids: str [N]. cameras: str [N], or None.
        amount: how many pids, an int of at least 2, or which share of all, between 0 and 1.
        seed: any int >= 0.
        junk: bool [N], images that are no queries and can be found by none.
        distractors: how many images of the other pids to look among, too; all if there are fewer.

    Raises:
        UserError: there are not enough pids that can be held out.
    """
    labels = labels_of(pids)
    rows = np.arange(len(labels)) if junk is None else np.flatnonzero(~junk)
    places = np.arange(len(labels)) if cameras is None else labels_of(cameras)
    keys = np.stack([labels, places], axis=1)
    pid_count = labels.max() + 1
    distinct = np.unique(keys[rows], axis=0)[:, 0]  # images or cameras of each pid
    candidates = np.flatnonzero(np.bincount(distinct, minlength=pid_count) >= 2)
    count = amount if isinstance(amount, int) else max(2, round(amount * pid_count))
    if count > len(candidates):
        least = "two images" if cameras is None else "images of two cameras"
        raise UserError(
            f"--val_pids {amount} holds out {count} pids, but only {len(candidates)} of the {pid_count} of the "
            f"training set have {least}, so that one can be found by another. Give less, or --val_query and "
            "--val_gallery."
        )
    rng = np.random.default_rng([_HOLDOUT, seed])
    chosen = rng.permutation(candidates)[:count]
    held = np.isin(labels, chosen)
    shuffled = rng.permutation(rows[held[rows]])
    _, first = np.unique(keys[shuffled], axis=0, return_index=True)
    gallery = held.copy()
    gallery[rng.permutation(rows[~held[rows]])[:distractors]] = True
    return HoldOut(held, np.sort(shuffled[first]), gallery)
