"""From distances to the ranks of the true matches.

A query's true matches are the gallery images with its pid that are not ignored. Ranks count from 1
and pass over what is ignored. They come from counting the wrong images that are closer than each
match, one block of queries at a time: the whole matrix of distances never exists, and the gallery
is never sorted.

Ties go against the embedding: a wrong image at the distance of a true match counts as closer. So a
network that puts all images in one point scores worst, and not by the luck of their order.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from evaluation import distances


class Comparison(NamedTuple):
    """Q queries and the G gallery images that they are compared with."""

    bounds: distances.Bounds
    query_pids: Sequence[str]  # [Q]
    gallery_pids: Sequence[str]  # [G]
    # From a slice of n queries to bool [n, G], True = ignored. Threads call it at the same time.
    ignore: Callable[[slice], np.ndarray]


class Block(NamedTuple):
    """A block of n queries and their distances to the gallery."""

    matches: list[np.ndarray]  # n times: upper bounds of the distances to the true matches
    columns: list[np.ndarray]  # n times: which gallery images these are
    wrong: np.ndarray  # [n, G], lower bounds to the wrong images; inf for what is not one


def match_ranks(comparison: Comparison, batch_size: int = 256) -> list[np.ndarray]:
    """The ranks of every query's true matches.

    Args:
        batch_size: queries in a block, at most. A block has fewer when the gallery is large.

    Returns:
        For every query its int64 ranks, ascending, in 1..G; empty where there is no true match.
    """
    blocks = map_queries(ranks_of_block, comparison, batch_size)
    return [ranks for block in blocks for ranks in block]


def ranks_of_block(block: Block) -> list[np.ndarray]:
    """The same for the queries of a block."""
    rows = zip(block.matches, block.wrong, strict=True)
    return [ranks_among(np.sort(matches), wrong) for matches, wrong in rows]


def map_queries(
    process_block: Callable[[Block], object],
    comparison: Comparison,
    batch_size: int,
) -> list:
    """Call a function with the distances of each block of queries.

    Args:
        process_block: threads call it at the same time.
        batch_size: as for match_ranks.

    Returns:
        What process_block returned, in the order of the queries.
    """
    indices = defaultdict(list)
    for index, pid in enumerate(comparison.gallery_pids):
        indices[pid].append(index)
    members = {pid: np.array(indices[pid], np.intp) for pid in set(comparison.query_pids)}

    def compare_block(rows: slice) -> object:
        ignored = comparison.ignore(rows)
        wrong, upper_bounds = comparison.bounds(rows)
        wrong[ignored] = np.inf
        matches, columns = [], []
        for row, pid in enumerate(comparison.query_pids[rows]):
            kept = members[pid][~ignored[row, members[pid]]]
            matches.append(upper_bounds(row, kept))
            columns.append(kept)
            wrong[row, kept] = np.inf
        return process_block(Block(matches, columns, wrong))

    query_count = len(comparison.query_pids)
    gallery_count = len(comparison.gallery_pids)
    return distances.map_blocks(compare_block, query_count, gallery_count, batch_size)


def ranks_among(matches: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Ranks [n] of matches at ascending distances [n] among wrong images at distances [G].

    inf among the wrong images counts for nothing.
    """
    if not len(matches):
        return np.empty(0, np.int64)
    # Looking up every wrong image among the few matches needs fewer comparisons. But NumPy's
    # vectorized sort, of those that are not beyond the last match, takes a third of that time.
    # (compress is up to three times as fast as a boolean index.)
    rivals = np.sort(np.compress(wrong <= matches[-1], wrong))
    closer = np.searchsorted(rivals, matches, side="right")
    return np.arange(1, len(matches) + 1) + closer
