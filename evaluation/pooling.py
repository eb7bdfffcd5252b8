"""Many embeddings become one: those of an image's views, and those of one person's queries."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from common import UserError

# ------------------------------------------------------------------------- views of an image


def mean(embs: np.ndarray) -> np.ndarray:
    """The mean over views (flips, crops): float32 [A, N, D] -> [N, D]."""
    return embs.mean(axis=0)


def normalized_mean(embs: np.ndarray) -> np.ndarray:
    """The mean, scaled to length 1 (left at 0 where it is 0)."""
    emb = mean(embs)
    length = np.linalg.norm(emb, axis=-1, keepdims=True)
    return emb / np.where(length == 0, 1, length)


AGGREGATORS = {function.__name__: function for function in (mean, normalized_mean)}


def check_aggregator(aggregator: str | None, flip_augment: bool, crop_augment: str | None) -> None:
    """Raises: UserError unless an aggregator is given exactly if an image has several views."""
    several = flip_augment or crop_augment == "five"
    if several and aggregator is None:
        raise UserError(
            "argument --aggregator: needed with --flip_augment or --crop_augment five. Give "
            f"{' or '.join(AGGREGATORS)}"
        )
    if aggregator is not None and not several:
        raise UserError(
            f"argument --aggregator: {aggregator} has nothing to aggregate without --flip_augment or --crop_augment "
            "five. Leave it out, or add one of them"
        )


# ------------------------------------------------------------------------- queries of one person

QUERY_POOLS: dict[str, Callable] = {"mean": np.mean, "max": np.max}


def pool_queries(
    embs: np.ndarray, keys: Sequence[Hashable], how: str
) -> tuple[list[int], np.ndarray]:
    """One embedding for all that have the same key.

    Args:
        embs: float32 [Q, D].
        keys: Q of them.
        how: one of QUERY_POOLS, applied to each number.

    Returns:
        The row of the first of each key, ascending, and their float32 [keys, D].
    """
    rows = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    reduce = QUERY_POOLS[how]
    pooled = [reduce(embs[same].astype(np.float64), axis=0) for same in rows.values()]
    return [same[0] for same in rows.values()], np.array(pooled, np.float32)
