"""k-reciprocal re-ranking: Zhong et al., Re-ranking Person Re-identification with k-reciprocal
Encoding, CVPR 2017.

All N = Q + G images are compared with one another, a block at a time, and of that only the nearest
of each are kept: memory is that of the embeddings and O(N·k), time O(N²·D).
"""

from collections.abc import Callable

import numpy as np
from scipy import sparse

from evaluation import ranking
from evaluation.neighbors import distinct, nearest


def bounds(
    query_embs: np.ndarray,
    gallery_embs: np.ndarray,
    metric: str,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    same: np.ndarray | None = None,
) -> ranking.Bounds:
    """The distances after re-ranking: (1 - weight) · Jaccard distance + weight · distance (eq. 12
    of the paper).

    The distance is the squared one of `metric`, divided by the greatest that the query has to any
    image. ("cosine" is
    not squared: it is half the squared euclidean one between embeddings of length 1.)

    Args:
        query_embs, gallery_embs: [Q, D], [G, D], finite.
        metric: one of ranking.METRICS.
        k1: >= 1, how many neighbours of an image are looked at, itself not counted.
        k2: in 1..k1 + 1, over how many nearest images, itself counted, the encodings are averaged.
        weight: in 0..1, the lambda of the paper.
        same: which gallery images are queries, too; see neighbors.distinct.
    """
    Q = len(query_embs)
    embs, gallery_rows = distinct(query_embs, gallery_embs, same)
    # Only ratios of distances matter. This way their squares stay finite in float32.
    np.ldexp(embs, -np.frexp(max(embs.max(), -embs.min()))[1], out=embs)
    order, furthest = nearest(embs, k1 + 1, metric)
    encoding = _encoding(_neighborhoods(order, round(k1 / 2) + 1), embs, metric, furthest)
    encoding = _among(order[:, :k2]) @ encoding / min(k2, len(embs))
    query_encoding, gallery_encoding = encoding[:Q], encoding[gallery_rows].tocsc()
    gallery = ranking.METRICS[metric](embs[gallery_rows])
    tolerance = 1e-12  # more than rounding does to the sum of two terms of at most 1

    def of_block(block: slice) -> tuple[np.ndarray, Callable[[int, np.ndarray], np.ndarray]]:
        dists = gallery.lower_bounds(embs[:Q][block].astype(np.float64))
        dists = weight * _squared(dists, furthest[:Q][block, None], metric)
        for query, row in zip(range(Q)[block], dists, strict=True):
            both = _intersections(query_encoding, query, gallery_encoding)
            row += (1 - weight) * (1 - both / (2 - both))
        return dists - tolerance, lambda row, indices: dists[row, indices] + tolerance

    return of_block


def _squared(dists: np.ndarray, furthest: np.ndarray, metric: str) -> np.ndarray:
    """Squared distances in units of the furthest; those of ranking.METRICS are squared already, but
    for cityblock.
    """
    dists = np.maximum(dists, 0) / np.where(
        furthest > 0, furthest, 1
    )  # 0 where all images are one point
    return np.square(dists) if metric == "cityblock" else dists


def _among(order: np.ndarray) -> sparse.csr_array:
    """[N, N], 1 where the column is among the nearest [N, k] of the row."""
    N, k = order.shape
    return sparse.csr_array(
        (np.ones(N * k, np.int32), order.ravel(), np.arange(0, N * k + 1, k)), (N, N)
    )


def _neighborhoods(order: np.ndarray, half: int) -> sparse.csr_array:
    """R* of section 3.2, as a pattern [N, N]: the k-reciprocal neighbours and what most of theirs
    agree with.

    Args:
        order: [N, k1 + 1], the nearest of each image.
        half: how many of them make the smaller set of an image, by which those of another are
            expanded.
    """
    mutual, small = (
        near.multiply(near.T).tocsr() for near in (_among(order), _among(order[:, :half]))
    )
    agreed = (mutual @ small.T).multiply(mutual).tocsr()  # how many of the small set of the column
    agreed.data = (3 * agreed.data > 2 * small.sum(axis=1)[agreed.indices]).astype(np.int32)
    agreed.eliminate_zeros()
    return (mutual + agreed @ small).tocsr()


def _encoding(
    neighborhoods: sparse.csr_array, embs: np.ndarray, metric: str, furthest: np.ndarray
) -> sparse.csr_array:
    """V of eq. 8: exp(-distance) within the neighbourhood, 0 elsewhere; rows sum to 1, as in the
    authors' code.
    """
    everyone = ranking.METRICS[metric](embs)

    def of_block(block: slice) -> list[np.ndarray]:
        rows = []
        for index in range(len(embs))[block]:
            columns = neighborhoods.indices[
                neighborhoods.indptr[index] : neighborhoods.indptr[index + 1]
            ]
            dists = everyone.distances(embs[index].astype(np.float64), columns)
            closeness = np.exp(-_squared(dists, furthest[index], metric))
            rows.append(closeness / closeness.sum())
        return rows

    blocks = ranking.in_blocks(of_block, len(embs), 1, 256)
    data = np.concatenate([row for rows in blocks for row in rows])
    return sparse.csr_array(
        (data, neighborhoods.indices, neighborhoods.indptr), neighborhoods.shape
    )


def _intersections(queries: sparse.csr_array, query: int, gallery: sparse.csc_array) -> np.ndarray:
    """The sum over all images of the lesser of two encodings, a query's and each gallery image's:
    [G].

    Only images in the query's are looked at, and of each only the gallery images that have it in
    theirs.
    """
    part = slice(queries.indptr[query], queries.indptr[query + 1])
    images = queries.indices[part]
    starts = gallery.indptr[images]
    counts = gallery.indptr[images + 1] - starts
    ends = counts.cumsum()
    where = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
    lesser = np.minimum(gallery.data[where], np.repeat(queries.data[part], counts))
    return np.bincount(gallery.indices[where], lesser, minlength=gallery.shape[0])
