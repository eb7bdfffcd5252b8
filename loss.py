"""Distances of embeddings, the losses over them, and the numbers to watch.

B anchors (rows) are compared with C embeddings (columns). In the plain case both are the batch: C = B and row i is
column i. When a replica mines in the embeddings gathered from all replicas, its rows are the columns from `offset`
on, and `column_pids` are the pids of all of them.
"""

import tensorflow as tf

import common


def cdist(a: tf.Tensor, b: tf.Tensor, metric: str = "euclidean") -> tf.Tensor:
    """Distances of all pairs.

    Args:
      a: float [B, D].
      b: float [C, D].
      metric: "euclidean" (root of the sum of squares + 1e-12, whose gradient is finite at equal points),
        "sqeuclidean" or "cityblock".

    Returns: float32 [B, C], >= 0. Memory is O(B·C), never B·C·D.
    Raises: ValueError for another metric.
    """
    if metric == "cityblock":
        return _cityblock(tf.cast(a, tf.float32), tf.cast(b, tf.float32))
    if metric not in common.METRICS:
        raise ValueError(f"metric should be one of {', '.join(common.METRICS)}. Received: {metric!r}")
    # |a - b|² = |a|² - 2ab + |b|² loses all digits of close pairs in float32; in float64 more are left than the sum
    # of float32 differences has, in value and in gradient, down to equal points.
    a, b = tf.cast(a, tf.float64), tf.cast(b, tf.float64)
    squared = tf.linalg.matmul(-2 * a, b, transpose_b=True)
    squared += tf.reduce_sum(a * a, axis=1)[:, None] + tf.reduce_sum(b * b, axis=1)
    squared = tf.maximum(squared, 0)
    return tf.cast(squared if metric == "sqeuclidean" else tf.sqrt(squared + 1e-12), tf.float32)


def _cityblock(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """One row at a time; the signs are computed anew in the gradient, else B·C·D of them would be kept for it."""
    row_dists = tf.recompute_grad(lambda row, b: tf.reduce_sum(tf.abs(row - b), axis=1))
    return tf.map_fn(lambda row: row_dists(row, b), a)


def pair_masks(pids: tf.Tensor, column_pids: tf.Tensor | None = None, offset: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pairs are of one person and which of two.

    Args:
      pids: [B], of the anchors; any type that can be compared.
      column_pids: [C], of the columns; the anchors' own when None.
      offset: row i is column offset + i.

    Returns: positives, negatives: bool [B, C]. An anchor with itself is neither; another copy of the same image is
      a positive.
    """
    column_pids = pids if column_pids is None else column_pids
    same = tf.equal(pids[:, None], column_pids[None, :])
    itself = tf.equal(tf.range(tf.shape(pids)[0])[:, None] + offset, tf.range(tf.shape(column_pids)[0])[None, :])
    return same & ~itself, ~same


def apply_margin(difference: tf.Tensor, margin: float | str) -> tf.Tensor:
    """Section 2 of the paper: "soft" = log(1 + exp(x)), "none" = x, a number m = max(0, m + x). Any shape."""
    if margin == "soft":
        return tf.nn.softplus(difference)
    if margin == "none":
        return difference
    return tf.nn.relu(difference + float(margin))


def batch_hard(
    dists: tf.Tensor,
    pids: tf.Tensor,
    margin: float | str,
    column_pids: tf.Tensor | None = None,
    offset: int = 0,
) -> tf.Tensor:
    """The batch-hard triplet loss, eq. 5 of arXiv:1703.07737: furthest positive minus closest negative.

    Args:
      dists: float32 [B, C], as from cdist.
      pids, column_pids, offset: see pair_masks.
      margin: see apply_margin.

    Returns: float32 [B], one loss an anchor. The furthest positive of an anchor without one is 0 away, the closest
      negative of an anchor without one is infinitely far (no loss, but with margin "none").
    """
    positives, negatives = pair_masks(pids, column_pids, offset)
    furthest_positive = tf.reduce_max(tf.where(positives, dists, 0.0), axis=1)
    closest_negative = tf.reduce_min(tf.where(negatives, dists, float("inf")), axis=1)
    return apply_margin(furthest_positive - closest_negative, margin)


LOSS_CHOICES = {loss.__name__: loss for loss in (batch_hard,)}


def retrieval_in_batch(
    dists: tf.Tensor,
    pids: tf.Tensor,
    k: int,
    column_pids: tf.Tensor | None = None,
    offset: int = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """How well each anchor finds its own in the batch; the anchor itself is left out by its index.

    Args:
      dists: float32 [B, C].
      pids, column_pids, offset: see pair_masks.
      k: how many of the nearest to look at, K - 1 where a batch has K images of each person.

    Returns: two of float32 [B], of each anchor: 1 where its nearest is a positive, else 0; and the share of positives
      among its k nearest.
    """
    positives, negatives = pair_masks(pids, column_pids, offset)
    candidates = tf.where(positives | negatives, dists, float("inf"))
    _, nearest = tf.math.top_k(-candidates, k)
    hits = tf.cast(tf.gather(positives, nearest, batch_dims=1), tf.float32)
    return hits[:, 0], tf.reduce_mean(hits, axis=1)
