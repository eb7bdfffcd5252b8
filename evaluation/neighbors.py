"""The nearest images of every image, queries and gallery together, and average query expansion."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from evaluation import distances

_CROWDED = 16  # candidates per neighbor: a row with more is looked at alone, to save memory


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
        bounds, offsets = lower_bounds(block)
        rows = np.arange(N)[block]
        furthest[block] = distances.of_pairs(exact, embs, rows, bounds.argmax(axis=1))
        np.fill_diagonal(bounds[:, block], -np.inf)
        limits = _limits(bounds, k)
        candidates = np.flatnonzero(bounds <= limits[:, None])  # k or more in each row
        some, columns = np.divmod(candidates, N)
        counts = np.bincount(some, minlength=len(rows))
        crowded = counts > _CROWDED * k
        if crowded.any():
            kept = ~crowded[some]
            some, columns = some[kept], columns[kept]
            counts[crowded] = 0
        dists = distances.of_pairs(exact, embs, rows[some], columns)
        dists[columns == rows[some]] = -np.inf  # an image comes before its copies
        by_row = np.lexsort((dists, some))  # at equal distances by column, as they were
        starts = np.cumsum(counts) - counts
        kept = np.flatnonzero(~crowded)
        best = by_row[starts[kept, None] + np.arange(k)]
        order[rows[kept]] = columns[best]
        # Images whose lower bounds are above the limit may be as near as the kth.
        doubtful = dists[best[:, -1]] > limits[kept] + offsets[kept]
        for row in [*np.flatnonzero(crowded), *kept[doubtful]]:
            order[rows[row]] = _nearest_of(rows[row], bounds[row], offsets[row])

    def _nearest_of(index: int, bounds: np.ndarray, offset: float) -> np.ndarray:
        """The k nearest of one image, in memory for one."""
        emb = embs[index].astype(np.float64)
        candidates = np.flatnonzero(bounds <= _limits(bounds[None], k)[0])
        kth = np.partition(exact.distances(emb, candidates), k - 1)[k - 1]
        candidates = np.union1d(candidates, np.flatnonzero(bounds + offset <= kth))
        dists = exact.distances(emb, candidates)
        dists[candidates == index] = -np.inf
        return candidates[np.argsort(dists, kind="stable")[:k]]

    distances.map_blocks(process_block, N, N, batch_size)
    return order, furthest


def _lower_bounds(
    embs: np.ndarray, metric: str
) -> Callable[[slice], tuple[np.ndarray, np.ndarray]]:
    """Bounds from below of the distances to all of `embs` [N, D].

    Returns:
        From a slice of n of them to bounds [n, N] and offsets [n] that have to be added to them. The
        array of the bounds is that of the thread: it is written anew by the next call.
    """
    if metric == "cityblock":
        to_all = distances.METRICS[metric](embs)

        def of_block(block: slice) -> tuple[np.ndarray, np.ndarray]:
            bounds = to_all.lower_bounds(embs[block].astype(np.float64))
            return bounds, np.zeros(len(bounds))

        return of_block

    # Squared Euclidean distances in float32, by the binomial formula. For "cosine" half of them,
    # between embeddings of length 1. distances.py does the same in float64 and explains it. One
    # more column makes the sum with the squares of the column's image a part of the product.
    N, D = embs.shape
    scaled = distances.unit_length if metric == "cosine" else np.asarray
    parts = list(distances.row_slices(embs, 2**18))
    mean = sum(scaled(embs[part]).sum(axis=0, dtype=np.float64) for part in parts) / N
    points = np.empty((N, D + 1), np.float32)
    for part in parts:
        points[part, :D] = scaled(embs[part]) - mean
    points[:, :D] *= np.float32(0.5**0.5 if metric == "cosine" else 1)
    tolerance = 2 * (D + 16) * np.finfo(np.float32).eps
    squares = np.einsum("ij,ij->i", points[:, :D], points[:, :D]) * np.float32(1 - tolerance)
    points[:, D] = squares
    buffers = threading.local()

    def process_block(block: slice) -> tuple[np.ndarray, np.ndarray]:
        left = -2 * points[block]
        left[:, D] = 1
        if getattr(buffers, "bounds", None) is None or len(buffers.bounds) < len(left):
            buffers.bounds = np.empty((len(left), N), np.float32)
        bounds = np.matmul(left, points.T, out=buffers.bounds[: len(left)])
        return bounds, squares[block]

    return process_block


def _limits(bounds: np.ndarray, k: int) -> np.ndarray:
    """Close upper bounds on the k-th smallest of each row of `bounds` [n, N]: [n].

    They are the k-th smallest of the minima of many groups, which takes a tenth of the time of a
    partition of the rows. A group is every so-many-th image, since those of one person often stand
    together.
    """
    n, N = bounds.shape
    groups = 4 * k
    width = N // groups
    if width < 2:
        return np.full(n, np.inf)
    # Minima over long rows first: NumPy takes them many at a time.
    long = max(factor for factor in range(1, 33) if width // factor > 0)
    rows = N // (groups * long)
    used = bounds[:, : rows * groups * long].reshape(n, rows, groups * long)
    minima = used.min(axis=1).reshape(n, long, groups).min(axis=1)
    return np.partition(minima, k - 1, axis=1)[:, k - 1]


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
