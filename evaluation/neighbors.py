"""The nearest images of every image, queries and gallery together, and average query expansion from
them.
"""

from collections.abc import Callable

import numpy as np

from evaluation import ranking


def nearest(embs: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of all images, for each of them.

    Float32 tells in half the time of float64 which few may be among them; only of those are the
    distances exact. Of two that are equally far, the first counts as nearer.

    Args:
        embs: float32 [N, D], of numbers whose squares float32 holds.
        k: >= 1. Where N is less, all N.
        metric: one of ranking.METRICS.

    Returns: int32 [N, k], nearest first, which is the image itself; and float64 [N], the distance
        of the furthest (the one that is furthest in float32), for "euclidean" squared.
    """
    N = len(embs)
    k = min(k, N)
    exact, lower_bounds = ranking.METRICS[metric](embs), _lower_bounds(embs, metric)
    order, furthest = np.empty((N, k), np.int32), np.empty(N)

    def of_block(block: slice) -> None:
        bounds = lower_bounds(block)
        last = bounds.argmax(axis=1)
        np.fill_diagonal(bounds[:, block], -np.inf)
        for index, row in zip(range(N)[block], bounds, strict=True):
            emb = embs[index].astype(np.float64)
            furthest[index] = exact.distances(emb, last[index - block.start, None])[0]
            limit = _limit(row, k)
            candidates = np.flatnonzero(row <= limit)  # k or more
            dists = exact.distances(emb, candidates)
            kth = np.partition(dists, k - 1)[k - 1]
            if kth > limit:  # then others, whose lower bounds are above the limit, may be as near
                candidates = np.flatnonzero(row <= kth)
                dists = exact.distances(emb, candidates)
            dists[candidates == index] = -np.inf  # of copies of an image, too, itself comes first
            order[index] = candidates[np.argsort(dists, kind="stable")[:k]]

    ranking.in_blocks(of_block, N, N, 256)
    return order, furthest


def _lower_bounds(embs: np.ndarray, metric: str) -> Callable[[slice], np.ndarray]:
    """What the distances to all of `embs` [N, D] are at least: from a slice of n of them to [n, N]."""
    if metric == "cityblock":
        cityblock = ranking.METRICS[metric](embs)
        return lambda block: cityblock.lower_bounds(embs[block].astype(np.float64))

    # Squared euclidean distances in float32, by the binomial formula; their half for "cosine",
    # between embeddings of length 1. ranking.py does the same in float64 and tells more of it.
    scaled = ranking.unit_length if metric == "cosine" else np.asarray
    parts = list(ranking.slices(embs, 2**18))
    mean = sum(scaled(embs[part]).sum(axis=0, dtype=np.float64) for part in parts) / len(embs)
    points = np.empty_like(embs)
    for part in parts:
        points[part] = scaled(embs[part]) - mean
    points *= np.float32(0.5**0.5 if metric == "cosine" else 1)
    tolerance = (embs.shape[1] + 16) * np.finfo(np.float32).eps
    squares = (1 - np.float32(tolerance)) * np.einsum("ij,ij->i", points, points)

    def of_block(block: slice) -> np.ndarray:
        bounds = (-2 * points[block]) @ points.T
        bounds += squares[block, None]
        bounds += squares
        return bounds

    return of_block


def _limit(row: np.ndarray, k: int) -> float:
    """A number that at least k of `row` are not above, and not many more.

    The k-th of the least of many groups is one. Finding those takes a tenth of the time of a
    partition of the row. A group is every so-many-th image, since those of a person often stand
    together.
    """
    groups = 4 * k
    width = len(row) // groups
    if width < 2:
        return np.inf
    return np.partition(row[: groups * width].reshape(width, groups).min(axis=0), k - 1)[k - 1]


def distinct(
    query_embs: np.ndarray, gallery_embs: np.ndarray, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | slice]:
    """Each image of queries and gallery once: else one that is in both would be its own neighbour.

    Args:
        query_embs, gallery_embs: [Q, D], [G, D].
        same: int [G], the number of the query that a gallery image is, -1 where it is none; None
            when none is.

    Returns: the embeddings [N, D], the queries first, and the rows that are the gallery's, in its
        order.
    """
    Q = len(query_embs)
    if same is None or (same < 0).all():
        return np.concatenate([query_embs, gallery_embs]), slice(Q, None)
    other = same < 0
    return np.concatenate([query_embs, gallery_embs[other]]), np.where(
        other, Q - 1 + other.cumsum(), same
    )


def expand(embs: np.ndarray, k: int, alpha: float) -> np.ndarray:
    """Average query expansion: each embedding becomes the mean of its k nearest, weighted by
    similarity.

    The similarity s is the cosine, the weight s^alpha, 0 where s is below 0; the mean is the sum
    divided by k, as in fast-reid. (The weights: Radenović et al., Fine-tuning CNN Image Retrieval
    with No Human Annotation.)

    Args:
        embs: [N, D], finite; of queries and gallery, which are expanded from one another.
        k: >= 1, the image itself counted.
        alpha: >= 0.

    Returns: float32 [N, D].
    """
    order, _ = nearest(embs, k, "cosine")
    expanded = np.empty(embs.shape, np.float32)

    def of_block(block: slice) -> None:
        near = embs[order[block]].astype(np.float64)  # [rows, k, D]
        lengths = np.linalg.norm(near, axis=2)
        lengths[lengths == 0] = 1
        cosines = np.einsum("rd,rkd->rk", near[:, 0], near) / (lengths[:, :1] * lengths)
        expanded[block] = (
            np.einsum("rk,rkd->rd", np.maximum(cosines, 0) ** alpha, near) / order.shape[1]
        )

    ranking.in_blocks(of_block, len(embs), order.shape[1] * embs.shape[1], 64)
    return expanded
