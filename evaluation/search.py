"""The k images of a gallery that are nearest to each query.

`Exact` compares each query with the whole gallery; gallery_index.py asks an index. Both find rows by
distances in float64, computed term by term as those of an evaluation, so that they name the same
numbers.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from evaluation import distances

# From a slice of n queries to bool [n, G], True = passed over. Threads call it at the same time.
Ignore = Callable[[slice], np.ndarray]


class Found(NamedTuple):
    """What was found for Q queries, nearest first; at equal distances in the order of the gallery.

    Attributes:
        rows: int64 [Q, k], of the gallery; -1 where fewer than k images are left.
        dists: float64 [Q, k], the distances; inf there.
    """

    rows: np.ndarray
    dists: np.ndarray


class Searcher(Protocol):
    """Finds the nearest images of a gallery."""

    def search(self, query_embs: np.ndarray, k: int) -> Found:
        """The k nearest of each query, [Q, D]; k at most G."""


class Exact:
    """Compares each query with the whole gallery, block by block: memory does not grow with Q.

    Args:
        embs: float32 [G, D], finite. It is read in parts, so it may be a memory map.
        metric: one of distances.METRICS.
        batch_size: queries compared at a time, at most. It does not change any result.
    """

    def __init__(self, embs: np.ndarray, metric: str, batch_size: int = 256):
        self._count = len(embs)
        self._metric = metric
        self._to_gallery = distances.METRICS[metric](embs)
        self._batch_size = batch_size

    def search(self, query_embs: np.ndarray, k: int, ignore: Ignore | None = None) -> Found:
        """The k nearest of each query.

        Args:
            query_embs: [Q, D], finite.
            k: from 1 to G.
            ignore: which gallery images are passed over.
        """
        Q = len(query_embs)
        rows = np.full((Q, k), -1, np.int64)
        dists = np.full((Q, k), np.inf)

        def process_block(block: slice) -> None:
            embs = query_embs[block].astype(np.float64)
            bounds = self._to_gallery.lower_bounds(embs)
            if ignore is not None:
                bounds[ignore(block)] = np.inf
            for emb, row, lower in zip(embs, range(*block.indices(Q)), bounds, strict=True):
                candidates = self._candidates(emb, lower, k)
                nearest, of_nearest = self.ranked(emb, candidates, k)
                rows[row, : len(nearest)] = nearest
                dists[row, : len(nearest)] = of_nearest

        distances.map_blocks(process_block, Q, self._count, self._batch_size)
        return Found(rows, dists)

    def _candidates(self, emb: np.ndarray, lower: np.ndarray, k: int) -> np.ndarray:
        """The gallery images that may be among the k nearest of one query."""
        first = np.argpartition(lower, k - 1)[:k] if k < len(lower) else np.arange(len(lower))
        first = first[lower[first] < np.inf]
        if len(first) < k:
            return np.sort(first)
        limit = self._to_gallery.upper_bounds(emb, first).max()
        return np.flatnonzero(lower <= limit)

    def ranked(
        self, emb: np.ndarray, candidates: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of some gallery images.

        Args:
            emb: float64 [D], a query.
            candidates: int [n], ascending.

        Returns:
            Their rows and distances, nearest first; fewer than k where there are not so many.
        """
        dists = np.maximum(self._to_gallery.distances(emb, candidates), 0)  # 1 - cosine rounds
        if self._metric == "euclidean":
            dists = np.sqrt(dists)
        order = np.argsort(dists, kind="stable")[:k]
        return candidates[order], dists[order]
