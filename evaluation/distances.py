"""Distances between embeddings, a block of queries at a time, and how far rounding may be off.

Where two distances are equal or nearly so, rounding decides which of them comes out smaller. So each
metric also gives bounds that no rounding error crosses. ranking.py compares the lower bounds of
wrong images with the upper bounds of true matches: every doubtful pair is a tie, and results depend
neither on the block size nor on the number of threads nor on the machine.

The bounds are those of a sum of D products or terms: Higham, Accuracy and Stability of Numerical
Algorithms, section 3.1.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from runtime import cores

# Distances in memory at a time, all threads together: 256 MB.
_MAX_DISTANCES = 2**25

# upper(row, indices): bounds from above of the distances between the query at `row` of a block and
# the gallery images at `indices` [n]: float64 [n].
UpperBounds = Callable[[int, np.ndarray], np.ndarray]

# bounds(block) -> (lower, upper), for a slice of n queries: `lower`, float64 [n, G], is below every
# distance to the gallery, `upper` is above those that it is asked for. The gap is rounding.
Bounds = Callable[[slice], tuple[np.ndarray, UpperBounds]]


def bounds(query_embs: np.ndarray, gallery_embs: np.ndarray, metric: str) -> Bounds:
    """Bounds of all distances between two sets of embeddings.

    Args:
        query_embs: [Q, D], finite.
        gallery_embs: [G, D], finite. It is read in parts, so it may be a memory map.
        metric: one of METRICS.
    """
    to_gallery = METRICS[metric](gallery_embs)

    def process_block(block: slice) -> tuple[np.ndarray, UpperBounds]:
        embs = query_embs[block].astype(np.float64)

        def upper_bounds(row: int, indices: np.ndarray) -> np.ndarray:
            return to_gallery.upper_bounds(embs[row], indices)

        return to_gallery.lower_bounds(embs), upper_bounds

    return process_block


def cdist(query_embs: np.ndarray, gallery_embs: np.ndarray, metric: str) -> np.ndarray:
    """All distances of a few queries, computed term by term: small ones have all their digits.

    Args:
        query_embs: [n, D], finite.
        gallery_embs: [G, D], finite. It is read in parts, so it may be a memory map.
        metric: one of METRICS.

    Returns:
        float64 [n, G].
    """
    to_gallery = METRICS[metric](gallery_embs)
    dists = np.empty((len(query_embs), len(gallery_embs)))
    for part in row_slices(gallery_embs, 2**15):
        for emb, row in zip(query_embs.astype(np.float64), dists, strict=True):
            row[part] = to_gallery.distances(emb, part)
    return np.sqrt(dists) if metric == "euclidean" else dists


# ------------------------------------------------------------------------- metrics


class Metric(Protocol):
    """The distances to a gallery, [G, D], of which it is made."""

    def __init__(self, gallery: np.ndarray): ...

    def lower_bounds(self, query: np.ndarray) -> np.ndarray:
        """To the whole gallery, of a block of queries: float64 [Q, D] -> [Q, G]."""

    def upper_bounds(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """To the gallery images at `indices` [n], of one query: float64 [D] -> [n]."""

    def distances(self, query: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
        """The same without the margin for rounding."""

    def of_pairs(self, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Of n queries, each to one gallery image: float64 [n, D], int [n] -> [n]."""


def _tolerance(dim: int) -> float:
    """Relative error of a sum of `dim` terms in float64, with room for the few steps around it."""
    return (dim + 8) * np.finfo(np.float64).eps


class _SquaredEuclidean:
    """Squared Euclidean distances, which have the order of the Euclidean ones.

    The lower bounds come from the binomial formula, a matrix product, whose error is relative to
    the lengths of the embeddings and not to their distance. The mean of the gallery is subtracted
    first, so that a large common offset costs no digits.
    """

    def __init__(self, gallery: np.ndarray):
        self._gallery = gallery
        self._mean = gallery.mean(axis=0, dtype=np.float64)
        self._tolerance = _tolerance(gallery.shape[1])

    def lower_bounds(self, query: np.ndarray) -> np.ndarray:
        query = query - self._mean
        query_squares = (1 - self._tolerance) * np.einsum("ij,ij->i", query, query)
        query *= -2
        bounds = np.empty((len(query), len(self._gallery)))
        for part in row_slices(self._gallery, 2**19):
            embs = self._gallery[part] - self._mean
            out = np.matmul(query, embs.T, out=bounds[:, part])
            out += query_squares[:, None]
            out += (1 - self._tolerance) * np.einsum("ij,ij->i", embs, embs)
        return bounds

    def upper_bounds(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return (1 + self._tolerance) * self.distances(query, indices)

    def distances(self, query: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
        return np.square(self._gallery[indices] - query).sum(axis=1)

    def of_pairs(self, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return self.distances(queries, indices)


class _Cityblock:
    """Sums of absolute differences."""

    def __init__(self, gallery: np.ndarray):
        self._gallery = gallery
        self._tolerance = _tolerance(gallery.shape[1])

    def lower_bounds(self, query: np.ndarray) -> np.ndarray:
        bounds = np.empty((len(query), len(self._gallery)))
        # A product with these weights sums faster than sum() does.
        weights = np.full(query.shape[1], 1 - self._tolerance)
        for part in row_slices(self._gallery, 2**15):
            embs = self._gallery[part].astype(np.float64)
            diffs = np.empty_like(embs)
            for emb, row in zip(query, bounds, strict=True):
                np.subtract(embs, emb, out=diffs)
                np.abs(diffs, out=diffs)
                np.matmul(diffs, weights, out=row[part])
        return bounds

    def upper_bounds(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return (1 + self._tolerance) * self.distances(query, indices)

    def distances(self, query: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
        return np.abs(self._gallery[indices] - query).sum(axis=1)

    def of_pairs(self, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return self.distances(queries, indices)


class _Cosine:
    """1 - the cosine of the angle. An embedding of zeros is at distance 1 from all others.

    Rounding errors are relative to the lengths, which are 1: distances that differ by less than
    some 1e-13 are a tie.
    """

    def __init__(self, gallery: np.ndarray):
        self._gallery = gallery
        self._tolerance = 2 * _tolerance(gallery.shape[1])

    def lower_bounds(self, query: np.ndarray) -> np.ndarray:
        query = -unit_length(query)
        bounds = np.empty((len(query), len(self._gallery)))
        for part in row_slices(self._gallery, 2**19):
            embs = unit_length(self._gallery[part])
            out = np.matmul(query, embs.T, out=bounds[:, part])
            out += 1 - self._tolerance
        return bounds

    def upper_bounds(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return self.distances(query, indices) + self._tolerance

    def distances(self, query: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
        embs = unit_length(self._gallery[indices])
        return 1 - np.einsum("ij,j->i", embs, unit_length(query[None])[0])

    def of_pairs(self, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return 1 - np.einsum("ij,ij->i", unit_length(self._gallery[indices]), unit_length(queries))


METRICS: dict[str, type[Metric]] = {
    "euclidean": _SquaredEuclidean,
    "sqeuclidean": _SquaredEuclidean,
    "cityblock": _Cityblock,
    "cosine": _Cosine,
}


def unit_length(embs: np.ndarray) -> np.ndarray:
    """Embeddings [n, D] scaled to length 1, in float64. Zeros stay zeros."""
    embs = embs.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", embs, embs))
    lengths[lengths == 0] = 1
    embs /= lengths[:, None]
    return embs


def of_pairs(metric: Metric, embs: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Distances between embeddings [N, D] at `rows` and those at `columns`, int [n] both: [n]."""
    dists = np.empty(len(rows))
    for part in _slices(len(rows), max(1, 2**17 // embs.shape[1])):
        dists[part] = metric.of_pairs(embs[rows[part]].astype(np.float64), columns[part])
    return dists


# ------------------------------------------------------------------------- blocks


def map_blocks(
    process_block: Callable[[slice], object], rows: int, columns: int, batch_size: int
) -> list:
    """Call a function for each block of `rows` rows, on all cores.

    Args:
        process_block: takes a slice of the rows. Threads call it at the same time.
        columns: the numbers that each row takes in memory. Blocks of long rows are smaller.
        batch_size: rows in a block, at most.

    Returns:
        What process_block returned, in the order of the rows.
    """
    rows_in_memory = max(1, _MAX_DISTANCES // max(1, columns))
    threads = min(cores.count(), rows_in_memory)
    rows_per_thread = -(-rows // threads)
    size = max(1, min(batch_size, rows_per_thread, rows_in_memory // threads))
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(process_block, _slices(rows, size)))
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
    return [process_block(block) for block in _slices(rows, size)]  # with little memory, slowly


def row_slices(embs: np.ndarray, numbers: int) -> Iterator[slice]:
    """Slices of the rows of `embs` [n, D] with about that many numbers each."""
    return _slices(len(embs), max(1, numbers // embs.shape[1]))


def _slices(stop: int, size: int) -> Iterator[slice]:
    for start in range(0, stop, size):
        yield slice(start, min(start + size, stop))
