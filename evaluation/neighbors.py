"""The nearest images of every image, queries and gallery together, and average query expansion."""

from collections.abc import Callable, Sequence

import numpy as np

from evaluation import distances


def nearest(
    embs: np.ndarray, k: int, metric: str, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of all images, for each of them.

    A float32 pass, twice as fast, selects candidates; exact float64 distances order them. Ties go
    to the lower index.

    Args:
        embs: float32 [N, D], of numbers whose squares float32 can hold.
        k: >= 1. All N are taken where N is less.
        metric: one of distances.METRICS.
        batch_size: images compared with all others at a time, at most. Does not change any result.

    Returns:
        int32 [N, k], nearest first, which is the image itself; and float64 [N], the distance to the
        image that is furthest in float32 (squared for "euclidean").
    """
    N = len(embs)
    k = min(k, N)
    exact = distances.METRICS[metric](embs)
    lower_bounds = _lower_bounds(embs, metric)
    order = np.empty((N, k), np.int32)
    furthest = np.empty(N)

    def process_block(block: slice) -> None:
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
            if kth > limit:  # images whose lower bounds are above the limit may be as near
                candidates = np.flatnonzero(row <= kth)
                dists = exact.distances(emb, candidates)
            dists[candidates == index] = -np.inf  # an image comes before its copies
            order[index] = candidates[np.argsort(dists, kind="stable")[:k]]

    distances.map_blocks(process_block, N, N, batch_size)
    return order, furthest


def _lower_bounds(embs: np.ndarray, metric: str) -> Callable[[slice], np.ndarray]:
    """Bounds from below of the distances to all of `embs` [N, D]: a slice of n of them -> [n, N]."""
    if metric == "cityblock":
        to_all = distances.METRICS[metric](embs)
        return lambda block: to_all.lower_bounds(embs[block].astype(np.float64))

    # Squared Euclidean distances in float32, by the binomial formula. For "cosine" half of them,
    # between embeddings of length 1. distances.py does the same in float64 and explains it.
    scaled = distances.unit_length if metric == "cosine" else np.asarray
    parts = list(distances.row_slices(embs, 2**18))
    mean = sum(scaled(embs[part]).sum(axis=0, dtype=np.float64) for part in parts) / len(embs)
    points = np.empty_like(embs)
    for part in parts:
        points[part] = scaled(embs[part]) - mean
    points *= np.float32(0.5**0.5 if metric == "cosine" else 1)
    tolerance = (embs.shape[1] + 16) * np.finfo(np.float32).eps
    squares = (1 - np.float32(tolerance)) * np.einsum("ij,ij->i", points, points)

    def process_block(block: slice) -> np.ndarray:
        bounds = (-2 * points[block]) @ points.T
        bounds += squares[block, None]
        bounds += squares
        return bounds

    return process_block


def _limit(row: np.ndarray, k: int) -> float:
    """A close upper bound on the k-th smallest of `row`.

    It is the k-th smallest of the minima of many groups, which takes a tenth of the time of a
    partition of the row. A group is every so-many-th image, since those of one person often stand
    together.
    """
    groups = 4 * k
    width = len(row) // groups
    if width < 2:
        return np.inf
    minima = row[: groups * width].reshape(width, groups).min(axis=0)
    return np.partition(minima, k - 1)[k - 1]


def queries_in_gallery(
    query_files: Sequence[str],
    query_embs: np.ndarray,
    gallery_files: Sequence[str],
    gallery_embs: np.ndarray,
) -> np.ndarray:
    """For each gallery image the number of the query that it is, -1 where it is none: int [G].

    They are the same if both file and embedding are: files of two folders can have one name.

    Args:
        query_files, gallery_files: [Q], [G], equal where the file is (pipeline.file_names_of).
        query_embs, gallery_embs: [Q, D], [G, D].
    """
    number = {file: query for query, file in enumerate(query_files)}
    same = np.array([number.get(file, -1) for file in gallery_files])
    for image in np.flatnonzero(same >= 0):
        if not np.array_equal(query_embs[same[image]], gallery_embs[image]):
            same[image] = -1
    return same


def distinct(
    query_embs: np.ndarray, gallery_embs: np.ndarray, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | slice]:
    """Each image of queries and gallery once: one that is in both would be its own neighbor.

    Args:
        query_embs, gallery_embs: [Q, D], [G, D].
        same: as queries_in_gallery returns it; None when no query is in the gallery.

    Returns:
        The embeddings [N, D], the queries first, and the rows of the gallery images among them.
    """
    Q = len(query_embs)
    if same is None or (same < 0).all():
        return np.concatenate([query_embs, gallery_embs]), slice(Q, None)
    other = same < 0
    gallery_rows = np.where(other, Q - 1 + other.cumsum(), same)
    return np.concatenate([query_embs, gallery_embs[other]]), gallery_rows


def expand(embs: np.ndarray, k: int, alpha: float, batch_size: int = 256) -> np.ndarray:
    """Average query expansion: each embedding becomes the weighted mean of its k nearest.

    The weight is s^alpha of the cosine s, and 0 where s is below 0 (Radenović et al., Fine-tuning
    CNN Image Retrieval with No Human Annotation). The sum is divided by k, as in fast-reid.

    Args:
        embs: [N, D], finite; of queries and gallery, which are expanded from one another.
        k: >= 1, the image itself counted.
        alpha: >= 0.
        batch_size: as for nearest.

    Returns:
        float32 [N, D].
    """
    order, _ = nearest(embs, k, "cosine", batch_size)
    expanded = np.empty(embs.shape, np.float32)

    def process_block(block: slice) -> None:
        near = embs[order[block]].astype(np.float64)  # [rows, k, D]
        lengths = np.linalg.norm(near, axis=2)
        lengths[lengths == 0] = 1
        cosines = np.einsum("rd,rkd->rk", near[:, 0], near) / (lengths[:, :1] * lengths)
        weights = np.maximum(cosines, 0) ** alpha
        expanded[block] = np.einsum("rk,rkd->rd", weights, near) / order.shape[1]

    numbers_per_row = order.shape[1] * embs.shape[1]
    distances.map_blocks(process_block, len(embs), numbers_per_row, min(batch_size, 64))
    return expanded
