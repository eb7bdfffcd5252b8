"""From embeddings to the ranks of the true matches, and from those ranks to AP, CMC, mINP and
precision at recall.

A query's true matches are the gallery images with its pid that are not ignored. Ranks count from 1
and pass over what is ignored. They come from counting the wrong images that are closer than each
match, one block of queries at a
time: the whole matrix of distances never exists and the gallery is never put in order.

Ties go against the embedding: a wrong image at the distance of a true match counts as closer than
it. So one that puts all images in one point scores worst, rather than by the luck of their order.

Distances are in float64, and those that differ by no more than their rounding errors are a tie. So
results do not depend on the block size, the number of threads or the machine.
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Distances in memory at a time, all threads together: 256 MB.
_MAX_DISTANCES = 2**25

# From a slice of the queries to the least that their distances to the gallery can be, float64
# [queries, G], and to a function: the row of a query in it and indices [n] of gallery images -> the
# greatest that those distances can be, [n]. What lies between is rounding.
Bounds = Callable[[slice], tuple[np.ndarray, Callable[[int, np.ndarray], np.ndarray]]]


def bounds(query_embs: np.ndarray, gallery_embs: np.ndarray, metric: str) -> Bounds:
    """Distances between embeddings, by the block.

    Args:
        query_embs: [Q, D], finite.
        gallery_embs: [G, D], finite; read in parts, so it may be a memory map.
        metric: one of METRICS.
    """
    gallery = METRICS[metric](gallery_embs)

    def of_block(block: slice) -> tuple[np.ndarray, Callable[[int, np.ndarray], np.ndarray]]:
        embs = query_embs[block].astype(np.float64)
        return gallery.lower_bounds(embs), lambda row, indices: gallery.upper_bounds(
            embs[row], indices
        )

    return of_block


def match_ranks(
    bounds: Bounds,
    query_pids: Sequence[str],
    gallery_pids: Sequence[str],
    ignore: Callable[[slice], np.ndarray],
    batch_size: int = 256,
) -> list[np.ndarray]:
    """The ranks of every query's true matches.

    Args:
        bounds: the distances. Threads call it at the same time.
        query_pids, gallery_pids: Q and G of them.
        ignore: from a slice of the queries to bool [queries, G], True = ignored. Threads call it at
            the same time.
        batch_size: queries in a block, at most; a block has fewer when the gallery is large.

    Returns: for every query its int64 ranks, ascending, in 1..G; an empty array where there is no
        true match.
    """

    def ranks_of_block(matches: list[np.ndarray], wrong: np.ndarray) -> list[np.ndarray]:
        return [
            _ranks(np.sort(row_matches), row)
            for row_matches, row in zip(matches, wrong, strict=True)
        ]

    blocks = _compare(ranks_of_block, bounds, query_pids, gallery_pids, ignore, batch_size)
    return [ranks for block in blocks for ranks in block]


def tpr_at_fpr(
    bounds: Bounds,
    query_pids: Sequence[str],
    gallery_pids: Sequence[str],
    ignore: Callable[[slice], np.ndarray],
    fprs: Sequence[float],
    batch_size: int = 256,
) -> list[float | None]:
    """Points of the ROC over all pairs of a query and a gallery image that are not ignored, as in
    verification.

    A pair is accepted when its distance is below a threshold. There are 65,537 of those, evenly
    spread from 0 to the greatest distance of the first 16 queries (in the numbers of `bounds`:
    squared for "euclidean").

    Args:
        fprs: shares of the wrong pairs, in 0..1.
        bounds, query_pids, gallery_pids, ignore, batch_size: as for match_ranks.

    Returns: for each FPR the share of the true pairs that are accepted at the greatest threshold
        that accepts no more than this share of the wrong pairs; None where there are no true or no
        wrong pairs.
    """
    bins = 2**16
    lower, _ = bounds(slice(0, min(16, len(query_pids))))
    greatest = lower.max()
    scale = bins / greatest if greatest > 0 else 1.0

    def histogram(dists: np.ndarray) -> np.ndarray:
        numbers = np.empty(dists.shape, np.float32)  # enough for a bin, and much faster
        with np.errstate(over="ignore"):
            np.multiply(dists, scale, out=numbers, casting="same_kind")
        return np.bincount(
            np.clip(numbers, 0, bins, out=numbers).astype(np.int32).ravel(), minlength=bins + 1
        )

    def count(matches: list[np.ndarray], wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        positives = histogram(np.concatenate(matches))
        negatives = sum(histogram(wrong[rows]) for rows in slices(wrong, 2**18))
        return positives, negatives, np.count_nonzero(wrong < np.inf)

    blocks = _compare(count, bounds, query_pids, gallery_pids, ignore, batch_size)
    positives, negatives, negative_count = (sum(counts) for counts in zip(*blocks, strict=True))
    positive_count = positives.sum()
    if not positive_count or not negative_count:
        return [None] * len(fprs)
    accepted = [
        np.concatenate([[0], np.cumsum(counts[:-1])]) for counts in (positives, negatives)
    ]  # at each threshold
    thresholds = [
        np.searchsorted(accepted[1], fpr * negative_count, side="right") - 1 for fpr in fprs
    ]
    return [float(accepted[0][threshold] / positive_count) for threshold in thresholds]


def _compare(
    work: Callable[[list[np.ndarray], np.ndarray], object],
    bounds: Bounds,
    query_pids: Sequence[str],
    gallery_pids: Sequence[str],
    ignore: Callable[[slice], np.ndarray],
    batch_size: int,
) -> list:
    """What `work` returns for each block of queries, in their order.

    Args:
        work: from the distances of the true matches, one array [n] per query, and of the wrong
            images, [queries, G] with inf for what is none.
        bounds, query_pids, gallery_pids, ignore, batch_size: as for match_ranks.
    """
    indices = defaultdict(list)
    for index, pid in enumerate(gallery_pids):
        indices[pid].append(index)
    members = {pid: np.array(indices[pid], np.intp) for pid in set(query_pids)}

    def of_block(block: slice) -> object:
        ignored = ignore(block)
        wrong, upper_bounds = bounds(block)
        wrong[ignored] = np.inf
        matches = []
        for row, (pid, ignored_row) in enumerate(zip(query_pids[block], ignored, strict=True)):
            kept = members[pid][~ignored_row[members[pid]]]
            matches.append(upper_bounds(row, kept))
            wrong[row, kept] = np.inf
        return work(matches, wrong)

    return in_blocks(of_block, len(query_pids), len(gallery_pids), batch_size)


def in_blocks(work: Callable[[slice], object], rows: int, columns: int, size: int) -> list:
    """What `work` returns for each slice of `rows`, in their order; all cores work.

    A slice has `size` rows, or fewer where the distances to `columns` others take more memory than
    there is for them.
    """
    threads = os.cpu_count() or 1
    size = max(1, min(size, -(-rows // threads), _MAX_DISTANCES // (threads * columns)))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, _slices(rows, size)))


def _ranks(matches: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Ranks [n] of matches at ascending distances [n] among wrong images at distances [G]; inf
    counts for nothing.
    """
    if not len(matches):
        return np.empty(0, np.int64)
    # Looking every wrong image up among the few matches needs fewer comparisons, but NumPy's
    # vectorised sort, of those that are not beyond the last match, takes a third of that time.
    closer = np.searchsorted(np.sort(wrong[wrong <= matches[-1]]), matches, side="right")
    return np.arange(1, len(matches) + 1) + closer


def _slices(stop: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, stop)) for start in range(0, stop, size))


# ------------------------------------------------------------------------- distances


def distances(query_embs: np.ndarray, gallery_embs: np.ndarray, metric: str) -> np.ndarray:
    """All distances of a few queries. Term by term, so that those of close images have all digits.

    Args:
        query_embs: [n, D], finite.
        gallery_embs: [G, D], finite; read in parts, so it may be a memory map.
        metric: one of METRICS.

    Returns: float64 [n, G].
    """
    gallery = METRICS[metric](gallery_embs)
    dists = np.empty((len(query_embs), len(gallery_embs)))
    for part in slices(gallery_embs, 2**15):
        for emb, row in zip(query_embs.astype(np.float64), dists, strict=True):
            row[part] = gallery.distances(emb, part)
    return np.sqrt(dists) if metric == "euclidean" else dists


# Where two distances are the same or nearly so, rounding decides which comes out smaller. So wrong
# images get the least distance that rounding allows and matches the greatest: every doubtful pair
# is a tie. The bounds are those of a sum of D products or terms (Higham, Accuracy and Stability of
# Numerical Algorithms, section 3.1).


def _tolerance(dim: int) -> float:
    """Relative error of a distance of `dim` terms in float64, with room for the few steps around
    the sum.
    """
    return (dim + 8) * np.finfo(np.float64).eps


class _SquaredEuclidean:
    """Squared euclidean distances, whose order is that of the euclidean ones.

    By the binomial formula, a matrix product, whose error is relative to the lengths of the
    embeddings and not to their distance; with their mean taken off, a large common offset costs no
    digits.
    """

    def __init__(self, gallery: np.ndarray):
        self._gallery = gallery
        self._mean = gallery.mean(axis=0, dtype=np.float64)
        self._tolerance = _tolerance(gallery.shape[1])

    def lower_bounds(self, query: np.ndarray) -> np.ndarray:
        """Of all gallery images: from [Q, D] float64 to [Q, G]."""
        query = query - self._mean
        query_squares = (1 - self._tolerance) * np.einsum("ij,ij->i", query, query)
        query *= -2
        bounds = np.empty((len(query), len(self._gallery)))
        for part in slices(self._gallery, 2**19):
            embs = self._gallery[part] - self._mean
            out = np.matmul(query, embs.T, out=bounds[:, part])
            out += query_squares[:, None]
            out += (1 - self._tolerance) * np.einsum("ij,ij->i", embs, embs)
        return bounds

    def upper_bounds(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Of the gallery images at `indices` [n]: from one query [D] float64 to [n]."""
        return (1 + self._tolerance) * self.distances(query, indices)

    def distances(self, query: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
        """The same without the room for rounding."""
        return np.square(self._gallery[indices] - query).sum(axis=1)


class _Cityblock:
    """Sums of absolute differences, with the methods of _SquaredEuclidean."""

    def __init__(self, gallery: np.ndarray):
        self._gallery = gallery
        self._tolerance = _tolerance(gallery.shape[1])

    def lower_bounds(self, query: np.ndarray) -> np.ndarray:
        bounds = np.empty((len(query), len(self._gallery)))
        weights = np.full(
            query.shape[1], 1 - self._tolerance
        )  # a product with them sums faster than sum()
        for part in slices(self._gallery, 2**15):
            embs = self._gallery[part].astype(np.float64)
            diffs = np.empty_like(embs)
            for emb, row in zip(query, bounds, strict=True):
                np.abs(np.subtract(embs, emb, out=diffs), out=diffs)
                np.matmul(diffs, weights, out=row[part])
        return bounds

    def upper_bounds(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return (1 + self._tolerance) * self.distances(query, indices)

    def distances(self, query: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
        return np.abs(self._gallery[indices] - query).sum(axis=1)


class _Cosine:
    """1 - the cosine of the angle, with the methods of _SquaredEuclidean. An embedding of zeros is
    1 from all.

    What rounding may change is relative to the lengths, which are 1: distances within some 1e-13
        are a tie.
    """

    def __init__(self, gallery: np.ndarray):
        self._gallery = gallery
        self._tolerance = 2 * _tolerance(gallery.shape[1])

    def lower_bounds(self, query: np.ndarray) -> np.ndarray:
        query = -unit_length(query)
        bounds = np.empty((len(query), len(self._gallery)))
        for part in slices(self._gallery, 2**19):
            out = np.matmul(query, unit_length(self._gallery[part]).T, out=bounds[:, part])
            out += 1 - self._tolerance
        return bounds

    def upper_bounds(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return self.distances(query, indices) + self._tolerance

    def distances(self, query: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
        return 1 - np.einsum(
            "ij,j->i", unit_length(self._gallery[indices]), unit_length(query[None])[0]
        )


METRICS = {
    "euclidean": _SquaredEuclidean,
    "sqeuclidean": _SquaredEuclidean,
    "cityblock": _Cityblock,
    "cosine": _Cosine,
}


def unit_length(embs: np.ndarray) -> np.ndarray:
    """Embeddings [n, D] scaled to length 1, in float64; zeros stay zeros."""
    embs = embs.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", embs, embs))
    lengths[lengths == 0] = 1
    embs /= lengths[:, None]
    return embs


def slices(embs: np.ndarray, numbers: int) -> Iterator[slice]:
    """Slices of the rows of `embs` [n, D] with about that many numbers, so that what is made of
    them stays small.
    """
    return _slices(len(embs), max(1, numbers // embs.shape[1]))


# ------------------------------------------------------------------------- figures


def average_precision(ranks: np.ndarray, market: bool = False) -> float:
    """The AP of one query, in 0..1.

    Args:
        ranks: of its n >= 1 true matches, ascending, from 1.
        market: join the points of precision and recall by straight lines, as the code that came
            with Market-1501 does, instead of by steps, as scikit-learn does since 0.19.
    """
    found = np.arange(1, len(ranks) + 1)
    precisions = found / ranks
    if market:
        ahead = np.ones(len(ranks))  # precision just ahead of each match; 1 where nothing is ahead
        np.divide(found - 1, ranks - 1, out=ahead, where=ranks > 1)
        precisions = (ahead + precisions) / 2
    return float(precisions.mean())


def cmc(ranks: Sequence[np.ndarray], gallery_size: int) -> np.ndarray:
    """The share of queries with a true match among the first k images, float64 [G] for k = 1..G.

    Args:
        ranks: as match_ranks returns them. Queries without a true match do not count; at least one
            has one.
        gallery_size: G.
    """
    first = [query[0] for query in ranks if len(query)]
    return np.bincount(np.subtract(first, 1), minlength=gallery_size).cumsum() / len(first)


def inverse_negative_penalty(ranks: np.ndarray) -> float:
    """What share of the images up to a query's last true match are true matches, in 0..1; mINP is
    its mean.

    Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, section 4.1.

    Args:
        ranks: of its n >= 1 true matches, ascending, from 1.
    """
    return float(len(ranks) / ranks[-1])


def precision_at_recall(ranks: Sequence[np.ndarray], recalls: Sequence[float]) -> list[float]:
    """Interpolated precision, in 0..1: the highest at this recall or a higher one, as a mean over
    queries.

    Args:
        ranks: as match_ranks returns them. Queries without a true match do not count; at least one
            has one.
        recalls: above 0, up to 1.
    """
    curves = []
    for query in filter(len, ranks):
        precisions = np.arange(1, len(query) + 1) / query
        best_from = np.maximum.accumulate(precisions[::-1])[::-1]
        # 0.7 · 10 is more than 7 in floats.
        curves.append([best_from[math.ceil(recall * len(query) - 1e-9) - 1] for recall in recalls])
    return np.mean(curves, axis=0).tolist()
