"""k-reciprocal re-ranking: Zhong et al., Re-ranking Person Re-identification with k-reciprocal
Encoding, CVPR 2017.

All N = Q + G images are compared with one another, a block at a time, and only the nearest of each
are kept: memory is that of the embeddings and O(N·k), time is O(N²·D).
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from evaluation import distances
from evaluation.neighbors import distinct, nearest


class Parameters(NamedTuple):
    """What the paper leaves to choose.

    Attributes:
        k1: >= 1, how many neighbors of an image are looked at, itself not counted.
        k2: in 1..k1 + 1, over how many nearest images, itself counted, the encodings are averaged.
        weight: in 0..1, the lambda of the paper.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3


_PUBLISHED = Parameters()

_QUERIES = 8  # whose distances to the gallery fit into a processor's cache


def bounds(
    query_embs: np.ndarray,
    gallery_embs: np.ndarray,
    metric: str,
    parameters: Parameters = _PUBLISHED,
    same: np.ndarray | None = None,
    batch_size: int = 256,
) -> distances.Bounds:
    """Distances after re-ranking: (1 - weight) · Jaccard distance + weight · distance (eq. 12).

    The distance is the squared one of `metric`, divided by the greatest that the query has to any
    image. ("cosine" is not squared: it is half the squared Euclidean distance between embeddings of
    length 1.)

    Args:
        query_embs, gallery_embs: [Q, D], [G, D], finite.
        metric: one of distances.METRICS.
        same: which gallery images are queries, too; see neighbors.queries_in_gallery.
        batch_size: images compared with all others at a time, at most. Does not change any result.
    """
    k1, k2, weight = parameters
    Q = len(query_embs)
    embs, gallery_rows = distinct(query_embs, gallery_embs, same)
    # Only ratios of distances matter. This way their squares stay finite in float32.
    np.ldexp(embs, -np.frexp(max(embs.max(), -embs.min()))[1], out=embs)
    order, furthest = nearest(embs, k1 + 1, metric, batch_size)
    neighborhoods = _neighborhoods(order, round(k1 / 2) + 1)
    encoding = _encoding(neighborhoods, embs, metric, furthest, batch_size)
    encoding = _indicator(order[:, :k2]) @ encoding / min(k2, len(embs))
    query_encoding = encoding[:Q]
    gallery_encoding = encoding[gallery_rows].T.tocsr()
    to_gallery = distances.METRICS[metric](embs[gallery_rows])
    divisors = np.where(furthest > 0, furthest, 1)[:Q]  # 0 where all images are one point
    scale = weight / divisors
    tolerance = 1e-12  # more than rounding does to the sum of two terms of at most 1

    def process_block(block: slice) -> tuple[np.ndarray, distances.UpperBounds]:
        dists = to_gallery.lower_bounds(embs[:Q][block].astype(np.float64))
        for start in range(0, len(dists), _QUERIES):
            queries = np.arange(Q)[block][start : start + _QUERIES]
            rows = dists[start : start + _QUERIES]
            np.maximum(rows, 0, out=rows)
            if metric == "cityblock":
                rows *= rows
                rows /= divisors[queries, None]
            rows *= scale[queries, None]
            rows += 1 - weight - tolerance
            both = _intersections(query_encoding[queries], gallery_encoding)
            union = 2 - both
            both *= 1 - weight
            both /= union
            rows -= both
        # Both bounds are of one array, which ranking.py changes: an upper bound is asked for before.
        return dists, lambda row, indices: dists[row, indices] + 2 * tolerance

    return process_block


def _squared(dists: np.ndarray, furthest: np.ndarray, metric: str) -> np.ndarray:
    """Squared distances in units of the furthest: METRICS gives all but cityblock squared."""
    scale = np.where(furthest > 0, furthest, 1)  # 0 where all images are one point
    dists = np.maximum(dists, 0) / scale
    return np.square(dists) if metric == "cityblock" else dists


def _indicator(order: np.ndarray) -> sparse.csr_array:
    """[N, N], 1 where the column is among the nearest [N, k] of the row."""
    N, k = order.shape
    ones = np.ones(N * k, np.int32)
    return sparse.csr_array((ones, order.ravel(), np.arange(0, N * k + 1, k)), (N, N))


def _mutual(order: np.ndarray) -> sparse.csr_array:
    """[N, N], 1 where row and column are among the nearest [N, k] of one another."""
    near = _indicator(order)
    return near.multiply(near.T).tocsr()


def _neighborhoods(order: np.ndarray, half: int) -> sparse.csr_array:
    """R* of section 3.2 as a pattern [N, N]: the k-reciprocal neighbors, expanded by their own.

    Args:
        order: [N, k1 + 1], the nearest of each image.
        half: how many of them make the smaller set of an image. Where two thirds of it are
            neighbors of another image, too, it joins the neighborhood of that image.
    """
    mutual = _mutual(order)
    small = _mutual(order[:, :half])
    agreed = (mutual @ small.T).multiply(mutual).tocsr()  # how many of the small set of the column
    agreed.data = (3 * agreed.data > 2 * small.sum(axis=1)[agreed.indices]).astype(np.int32)
    agreed.eliminate_zeros()
    return (mutual + agreed @ small).tocsr()


def _encoding(
    neighborhoods: sparse.csr_array,
    embs: np.ndarray,
    metric: str,
    furthest: np.ndarray,
    batch_size: int,
) -> sparse.csr_array:
    """V of eq. 8: exp(-distance) within the neighborhood, 0 elsewhere.

    Rows sum to 1, as in the authors' code.
    """
    exact = distances.METRICS[metric](embs)
    indices = neighborhoods.indices
    starts = neighborhoods.indptr

    def process_block(block: slice) -> np.ndarray:
        part = slice(starts[block.start], starts[block.stop])
        counts = np.diff(starts[block.start : block.stop + 1])  # 1 at least: the image itself
        rows = np.repeat(np.arange(block.start, block.stop), counts)
        dists = distances.of_pairs(exact, embs, rows, indices[part])
        closeness = np.exp(-_squared(dists, furthest[rows], metric))
        sums = np.add.reduceat(closeness, starts[block] - starts[block.start])
        return closeness / np.repeat(sums, counts)

    blocks = distances.map_blocks(process_block, len(embs), columns=1, batch_size=batch_size)
    return sparse.csr_array((np.concatenate(blocks), indices, starts), neighborhoods.shape)


def _intersections(queries: sparse.csr_array, gallery: sparse.csr_array) -> np.ndarray:
    """The sums over all images of the lesser of two encodings.

    Only images in a query's encoding are looked at, and of each only the gallery images that have
    it in theirs.

    Args:
        queries: [n, N].
        gallery: [N, G].

    Returns:
        [n, G].
    """
    found = gallery[queries.indices]
    counts = np.diff(found.indptr)
    lesser = np.minimum(found.data, queries.data.repeat(counts))
    starts = found.indptr[queries.indptr]
    shape = (queries.shape[0], gallery.shape[1])
    return sparse.csr_array((lesser, found.indices, starts), shape).toarray()
