"""From embeddings to the ranks of the true matches, and from those ranks to AP, CMC and mINP.

A query's true matches are the gallery images with its pid that are not ignored. Ranks count from 1 and pass over
what is ignored. They come from counting the wrong images that are closer than each match, one block of queries at a
time: the whole matrix of distances never exists and the gallery is never put in order.

Ties go against the embedding: a wrong image at the distance of a true match counts as closer than it. So one that
puts all images in one point scores worst, rather than by the luck of their order.

Distances are in float64, and those that differ by no more than their rounding errors are a tie. So results do not
depend on the block size, the number of threads or the machine.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Distances in memory at a time, all threads together: 256 MB.
_MAX_DISTANCES = 2**25


def match_ranks(
    query_embs: np.ndarray,
    gallery_embs: np.ndarray,
    query_pids: Sequence[str],
    gallery_pids: Sequence[str],
    ignore: Callable[[slice], np.ndarray],
    metric: str,
    batch_size: int = 256,
) -> list[np.ndarray]:
    """The ranks of every query's true matches.

    Args:
        query_embs: [Q, D], finite float32.
        gallery_embs: [G, D], finite float32; read in parts, so it may be a memory map.
        query_pids, gallery_pids: Q and G of them.
        ignore: from a slice of the queries to bool [queries, G], True = ignored. Threads call it at the same time.
        metric: one of METRICS.
        batch_size: queries in a block, at most; a block has fewer when the gallery is large.

    Returns: for every query its int64 ranks, ascending, in 1..G; an empty array where there is no true match.
    """
    gallery = METRICS[metric](gallery_embs)
    indices = defaultdict(list)
    for index, pid in enumerate(gallery_pids):
        indices[pid].append(index)
    members = {pid: np.array(indices[pid], np.intp) for pid in set(query_pids)}

    def ranks_of_block(block: slice) -> list[np.ndarray]:
        embs = query_embs[block].astype(np.float64)
        ignored = ignore(block)
        wrong = gallery.lower_bounds(embs)
        wrong[ignored] = np.inf
        ranks = []
        for emb, pid, row, ignored_row in zip(embs, query_pids[block], wrong, ignored, strict=True):
            matches = members[pid]
            matches = matches[~ignored_row[matches]]
            row[matches] = np.inf
            ranks.append(_ranks(np.sort(gallery.upper_bounds(emb, matches)), row))
        return ranks

    threads = os.cpu_count() or 1
    per_thread = -(-len(query_embs) // threads)
    size = max(1, min(batch_size, per_thread, _MAX_DISTANCES // (threads * len(gallery_embs))))
    with ThreadPoolExecutor(threads) as pool:
        blocks = pool.map(ranks_of_block, _slices(len(query_embs), size))
        return [ranks for block in blocks for ranks in block]


def _ranks(matches: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Ranks [n] of matches at ascending distances [n] among wrong images at distances [G]; inf counts for nothing."""
    if not len(matches):
        return np.empty(0, np.int64)
    # Looking every wrong image up among the few matches needs fewer comparisons, but NumPy's vectorised sort, of those
    # that are not beyond the last match, takes a third of that time.
    closer = np.searchsorted(np.sort(wrong[wrong <= matches[-1]]), matches, side="right")
    return np.arange(1, len(matches) + 1) + closer


def _slices(stop: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, stop)) for start in range(0, stop, size))


# ------------------------------------------------------------------------------------------ distances


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


# Where two distances are the same or nearly so, rounding decides which comes out smaller. So wrong images get the
# least distance that rounding allows and matches the greatest: every doubtful pair is a tie. The bounds are those of a
# sum of D products or terms (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).


def _tolerance(dim: int) -> float:
    """Relative error of a distance of `dim` terms in float64, with room for the few steps around the sum."""
    return (dim + 8) * np.finfo(np.float64).eps


class _SquaredEuclidean:
    """Squared euclidean distances, whose order is that of the euclidean ones.

    By the binomial formula, a matrix product, whose error is relative to the lengths of the embeddings and not to
    their distance; with their mean taken off, a large common offset costs no digits.
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
        weights = np.full(query.shape[1], 1 - self._tolerance)  # a product with them sums faster than sum()
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
    """1 - the cosine of the angle, with the methods of _SquaredEuclidean. An embedding of zeros is 1 from all.

    What rounding may change is relative to the lengths, which are 1: distances within some 1e-13 are a tie.
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
        return 1 - unit_length(self._gallery[indices]) @ unit_length(query[None])[0]


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
    """Slices of the rows of `embs` [n, D] with about that many numbers, so that what is made of them stays small."""
    return _slices(len(embs), max(1, numbers // embs.shape[1]))


# ------------------------------------------------------------------------------------------ figures


def average_precision(ranks: np.ndarray, market: bool = False) -> float:
    """The AP of one query, in 0..1.

    Args:
        ranks: of its n >= 1 true matches, ascending, from 1.
        market: join the points of precision and recall by straight lines, as the code that came with Market-1501
            does, instead of by steps, as scikit-learn does since 0.19.
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
        ranks: as match_ranks returns them. Queries without a true match do not count; at least one has one.
        gallery_size: G.
    """
    first = [query[0] for query in ranks if len(query)]
    return np.bincount(np.subtract(first, 1), minlength=gallery_size).cumsum() / len(first)


def mean_inverse_negative_penalty(ranks: Sequence[np.ndarray]) -> float:
    """mINP, in 0..1: what share of the images up to the last true match are true matches, as a mean over queries.

    Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, section 4.1.

    Args:
        ranks: as match_ranks returns them. Queries without a true match do not count; at least one has one.
    """
    return float(np.mean([len(query) / query[-1] for query in ranks if len(query)]))
