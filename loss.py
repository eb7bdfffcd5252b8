"""Distances of embeddings, the losses over them, and the numbers to watch.

B anchors (rows) are compared with C embeddings (columns). In the plain case both are the batch: C =
B and row i is column i. When a replica mines in the embeddings gathered from all replicas, its rows
are the columns from `offset` on, and `column_pids` are the pids of all of them.

LOSS_CHOICES are losses over distances, WITHOUT_ZEROS those of them that can leave zero terms out of
their mean, and EMBEDDING_LOSSES take the embeddings themselves. All give one loss an anchor; the
loss of a batch is their mean.
"""

from collections.abc import Iterator

import tensorflow as tf

import common

# Distances that are in float64 at a time: 16 MB.
_BLOCK = 2**21


def cdist(a: tf.Tensor, b: tf.Tensor, metric: str = "euclidean") -> tf.Tensor:
    """Distances of all pairs.

    Args:
      a: float [B, D].
      b: float [C, D].
      metric: "euclidean" (root of the sum of squares + 1e-12, whose gradient is finite at equal
        points), "sqeuclidean", "cityblock" or "cosine" (1 - cosine, in 0..2; a zero vector is 1
        away from all, and vectors shorter than 1e-6 come close to that).

    Returns: float32 [B, C], >= 0. Memory is O(B·C), never B·C·D.
    Raises: ValueError for another metric.
    """
    if metric == "cityblock":
        return _cityblock(tf.cast(a, tf.float32), tf.cast(b, tf.float32))
    if metric not in common.METRICS:
        raise ValueError(
            f"metric should be one of {', '.join(common.METRICS)}. Received: {metric!r}"
        )
    # |a - b|² = |a|² - 2ab + |b|² loses all digits of close pairs in float32; in float64 more are
    # left than the sum of float32 differences has, in value and in gradient, down to equal points.
    # The same holds for 1 - ab.
    a, b = tf.cast(a, tf.float64), tf.cast(b, tf.float64)
    if metric == "cosine":
        a, b = (tf.math.l2_normalize(x, axis=1) for x in (a, b))
        return _products(_with_columns(-a, 1), _with_columns(b, 1), root=False)
    a_squares, b_squares = (tf.reduce_sum(x * x, axis=1, keepdims=True) for x in (a, b))
    return _products(
        _with_columns(-2 * a, a_squares, 1),
        _with_columns(b, 1, b_squares),
        root=metric == "euclidean",
    )


def _with_columns(x: tf.Tensor, *columns: tf.Tensor | float) -> tf.Tensor:
    """x [N, D] with further columns, each [N, 1] or one number."""
    ones = tf.ones_like(x[:, :1])
    return tf.concat([x, *(column * ones for column in columns)], axis=1)


def _products(a: tf.Tensor, b: tf.Tensor, root: bool) -> tf.Tensor:
    """x = max(a·b, 0) of all pairs, or the root of x + 1e-12: float64 [B, E] and [C, E] -> float32
    [B, C].

    Some rows at a time, in the gradient, too: of what is in float64, little is there at once.
    """

    @tf.custom_gradient
    def forward(a, b):
        parts = []
        for rows in _row_blocks(a, b):
            with tf.control_dependencies(parts[-1:]):  # else all would run at once
                products = tf.cast(tf.linalg.matmul(a[rows], b, transpose_b=True), tf.float32)
                products = tf.maximum(products, 0)
                parts.append(tf.sqrt(products + 1e-12) if root else products)
        dists = tf.concat(parts, axis=0)

        def backward(upstream):
            a_parts, b_gradient = [], tf.zeros_like(b)
            for rows in _row_blocks(a, b):
                with tf.control_dependencies([b_gradient]):
                    weights = 0.5 * upstream[rows] / dists[rows] if root else upstream[rows]
                    weights = tf.cast(weights, tf.float64)
                    a_parts.append(tf.linalg.matmul(weights, b))
                    b_gradient += tf.linalg.matmul(weights, a[rows], transpose_a=True)
            return tf.concat(a_parts, axis=0), b_gradient

        return dists, backward

    return forward(a, b)


def _row_blocks(a: tf.Tensor, b: tf.Tensor) -> Iterator[slice]:
    """Slices of a's rows; all of them where the shapes are not known before."""
    if a.shape[0] is None or b.shape[0] is None:
        return [slice(None)]
    size = max(1, _BLOCK // b.shape[0])
    return [slice(start, start + size) for start in range(0, a.shape[0], size)]


def _cityblock(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """One row at a time; the signs are computed anew in the gradient, else B·C·D of them would be
    kept for it.
    """
    row_dists = tf.recompute_grad(lambda row, b: tf.reduce_sum(tf.abs(row - b), axis=1))
    return tf.map_fn(lambda row: row_dists(row, b), a)


def pair_masks(
    pids: tf.Tensor, column_pids: tf.Tensor | None = None, offset: int | tf.Tensor = 0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pairs are of one person and which of two.

    Args:
      pids: [B], of the anchors; any type that can be compared.
      column_pids: [C], of the columns; the anchors' own when None.
      offset: row i is column offset + i.

    Returns: positives, negatives: bool [B, C]. An anchor with itself is neither; another copy of
      the same image is a positive.
    """
    column_pids = pids if column_pids is None else column_pids
    same = tf.equal(pids[:, None], column_pids[None, :])
    itself = tf.equal(
        tf.range(tf.shape(pids)[0])[:, None] + offset, tf.range(tf.shape(column_pids)[0])[None, :]
    )
    return same & ~itself, ~same


def apply_margin(difference: tf.Tensor, margin: float | str) -> tf.Tensor:
    """Section 2 of the paper: "soft" = log(1 + exp(x)), "none" = x, a number m = max(0, m + x). Any
    shape.
    """
    if margin == "soft":
        return tf.nn.softplus(difference)
    if margin == "none":
        return difference
    return tf.nn.relu(difference + float(margin))


def _hinged(valid: tf.Tensor, difference: tf.Tensor, margin: float | str) -> tf.Tensor:
    """apply_margin where `valid`, bool [B], and elsewhere a loss and a gradient of 0. difference:
    [B].
    """
    return tf.where(valid, apply_margin(tf.where(valid, difference, 0.0), margin), 0.0)


def _any_triplet(positives: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
    return tf.reduce_any(positives, axis=1) & tf.reduce_any(negatives, axis=1)


# ------------------------------------------------------------------------- losses over distances
#
# Section 2 of arXiv:1703.07737. All take
#   dists: float32 [B, C], as from cdist.
#   pids, column_pids, offset: see pair_masks.
#   margin: see apply_margin.
#   seed: int32 [2], for the losses that draw: the same one gives an anchor the same draw on one device and on many.
# and give float32 [B], one loss an anchor. It is 0, and has no gradient, for an anchor without
# positive or without negative, but for batch_hard.


def batch_hard(
    dists: tf.Tensor,
    pids: tf.Tensor,
    margin: float | str,
    column_pids: tf.Tensor | None = None,
    offset: int | tf.Tensor = 0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """The batch-hard triplet loss, eq. 5: furthest positive minus closest negative.

    The furthest positive of an anchor without one is 0 away, the closest negative of an anchor
    without one is infinitely far (no loss, but with margin "none").
    """
    positives, negatives = pair_masks(pids, column_pids, offset)
    furthest_positive = tf.reduce_max(tf.where(positives, dists, 0.0), axis=1)
    closest_negative = tf.reduce_min(tf.where(negatives, dists, float("inf")), axis=1)
    return apply_margin(furthest_positive - closest_negative, margin)


def batch_all(
    dists: tf.Tensor,
    pids: tf.Tensor,
    margin: float | str,
    column_pids: tf.Tensor | None = None,
    offset: int | tf.Tensor = 0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """The mean over all triplets of the anchor. Memory is O(B·C), time that and the most positives
    of an anchor.
    """
    positives, negatives = pair_masks(pids, column_pids, offset)
    counts = [
        tf.math.count_nonzero(mask, axis=1, dtype=tf.float32) for mask in (positives, negatives)
    ]
    sums, _ = _sum_triplets(dists, positives, negatives, margin)
    return tf.math.divide_no_nan(sums, counts[0] * counts[1])


def _sum_triplets(
    dists: tf.Tensor, positives: tf.Tensor, negatives: tf.Tensor, margin: float | str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Go through the first positives of all anchors with all their negatives, then the second ones,
    and so on.

    Returns: float32 [B], the sum over the anchor's triplets, and float32 [B], how many of them are
        not 0.
    """
    ordinals = tf.where(
        positives, tf.cumsum(tf.cast(positives, tf.int32), axis=1), 0
    )  # 1, 2, ... in each row

    # The gradient is summed up along with the losses: automatic differentiation would keep all
    # triplets for it.
    @tf.custom_gradient
    def forward(dists):
        def add(ordinal, sums, active, gradient):
            with tf.GradientTape() as tape:
                tape.watch(dists)
                chosen = tf.equal(ordinals, ordinal)
                positive_dists = tf.reduce_sum(tf.where(chosen, dists, 0.0), axis=1, keepdims=True)
                valid = negatives & tf.reduce_any(chosen, axis=1, keepdims=True)
                terms = tf.where(valid, apply_margin(positive_dists - dists, margin), 0.0)
                row_sums = tf.reduce_sum(terms, axis=1)
            active += tf.math.count_nonzero(terms, axis=1, dtype=tf.float32)
            return ordinal + 1, sums + row_sums, active, gradient + tape.gradient(row_sums, dists)

        zeros = tf.zeros_like(dists[:, 0])
        _, sums, active, gradient = tf.while_loop(
            lambda ordinal, *_: ordinal <= tf.reduce_max(ordinals),
            add,
            (1, zeros, zeros, tf.zeros_like(dists)),
            parallel_iterations=1,
        )
        return (sums, active), lambda upstream, _: upstream[:, None] * gradient

    return forward(dists)


def batch_sample(
    dists: tf.Tensor,
    pids: tf.Tensor,
    margin: float | str,
    column_pids: tf.Tensor | None = None,
    offset: int | tf.Tensor = 0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """One positive, drawn with the softmax of the distances, minus one negative, with that of minus
    the distances.
    """
    return _one_triplet(dists, dists, -dists, pids, margin, column_pids, offset, seed)


def triplet(
    dists: tf.Tensor,
    pids: tf.Tensor,
    margin: float | str,
    column_pids: tf.Tensor | None = None,
    offset: int | tf.Tensor = 0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """One positive minus one negative, both drawn uniformly."""
    return _one_triplet(
        dists, tf.zeros_like(dists), tf.zeros_like(dists), pids, margin, column_pids, offset, seed
    )


def _one_triplet(
    dists, positive_logits, negative_logits, pids, margin, column_pids, offset, seed
) -> tf.Tensor:
    """One positive and one negative an anchor, drawn with the softmax of logits [B, C] over those
    there are.
    """
    if seed is None:
        raise ValueError("this loss draws its triplets: it needs a seed, int32 [2]. Received: None")
    positives, negatives = pair_masks(pids, column_pids, offset)
    # Two numbers in 0..1 for each column, of which the anchors are some: whoever has an anchor
    # draws the same. From integers of a named generator: XLA, and some devices, would draw other
    # floats.
    bits = tf.random.stateless_uniform(
        [tf.shape(dists)[1], 2], seed, None, None, tf.int32, alg="philox"
    )
    uniform = tf.cast(tf.bitwise.bitwise_and(bits, 2**23 - 1), tf.float32) / 2**23
    uniform = uniform[offset : offset + tf.shape(dists)[0]]
    positive = _draw(positive_logits, positives, uniform[:, 0])
    negative = _draw(negative_logits, negatives, uniform[:, 1])
    difference = tf.gather(dists, positive, batch_dims=1) - tf.gather(dists, negative, batch_dims=1)
    return _hinged(_any_triplet(positives, negatives), difference, margin)


def _draw(logits: tf.Tensor, mask: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """One column of each row, where the mask [B, C] has any, for uniform numbers in 0..1, [B]."""
    logits = tf.where(mask, logits, -float("inf"))
    weights = tf.where(mask, tf.exp(logits - tf.reduce_max(logits, axis=1, keepdims=True)), 0.0)
    cumulated = tf.cumsum(weights, axis=1)
    reached = cumulated > uniform[:, None] * cumulated[:, -1:]
    return tf.argmax(mask & reached, axis=1)


def lifted(
    dists: tf.Tensor,
    pids: tf.Tensor,
    margin: float | str,
    column_pids: tf.Tensor | None = None,
    offset: int | tf.Tensor = 0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """The generalised lifted loss: log Σ e^d over the positives + log Σ e^(m - d) over the
    negatives, hinged.

    The margin m leaves the sum as a summand, so apply_margin adds it, or has its soft form without
    one.
    """
    positives, negatives = pair_masks(pids, column_pids, offset)
    difference = _log_sum_exp(dists, positives) + _log_sum_exp(-dists, negatives)
    return _hinged(_any_triplet(positives, negatives), difference, margin)


def _log_sum_exp(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """log Σ e^x over the columns that the mask has, [B, C] -> [B]: -inf, without gradient, where it
    has none.
    """
    return tf.reduce_logsumexp(tf.where(mask, logits, -float("inf")), axis=1)


LOSS_CHOICES = {
    loss.__name__: loss for loss in (batch_hard, batch_all, batch_sample, lifted, triplet)
}


# The same, but for their mean: the "≠ 0" of the paper's table 1. Two float32 [B]: the mean of the
# anchor's terms that are not 0, and their number. The loss of a batch is the mean over all that are
# not 0.


def _batch_hard_without_zeros(*args, **kwargs) -> tuple[tf.Tensor, tf.Tensor]:
    losses = batch_hard(*args, **kwargs)
    return losses, tf.cast(losses > 0, tf.float32)


def _batch_all_without_zeros(
    dists, pids, margin, column_pids=None, offset=0, seed=None
) -> tuple[tf.Tensor, tf.Tensor]:
    sums, active = _sum_triplets(dists, *pair_masks(pids, column_pids, offset), margin)
    return tf.math.divide_no_nan(sums, active), active


WITHOUT_ZEROS = {"batch_hard": _batch_hard_without_zeros, "batch_all": _batch_all_without_zeros}


# ------------------------------------------------------------------------- losses over embeddings
#
# All compare by cosine and take
#   embs: float [B, D]; column_embs: [C, D], the anchors' own when None.
#   pids, column_pids, offset: see pair_masks.
# and give float32 [B], one loss an anchor: 0, without gradient, for one without positive or without
# negative.


def _similarities(
    embs, pids, column_embs, column_pids, offset
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cosines float32 [B, C], and the masks of positives and negatives."""
    return 1 - cdist(embs, embs if column_embs is None else column_embs, "cosine"), *pair_masks(
        pids, column_pids, offset
    )


def multi_similarity(
    embs: tf.Tensor,
    pids: tf.Tensor,
    column_embs: tf.Tensor | None = None,
    column_pids: tf.Tensor | None = None,
    offset: int | tf.Tensor = 0,
) -> tf.Tensor:
    """The multi-similarity loss of Wang et al., CVPR 2019 (arXiv:1904.06627), sections 4.1 (mining)
    and 4.2.
    """
    alpha, beta, base, epsilon = 2.0, 50.0, 0.5, 0.1
    sims, positives, negatives = _similarities(embs, pids, column_embs, column_pids, offset)
    least_positive = tf.reduce_min(tf.where(positives, sims, float("inf")), axis=1, keepdims=True)
    greatest_negative = tf.reduce_max(
        tf.where(negatives, sims, -float("inf")), axis=1, keepdims=True
    )
    positives &= sims < greatest_negative + epsilon
    negatives &= sims > least_positive - epsilon
    # softplus(log Σ e^x) = log(1 + Σ e^x)
    pull = tf.nn.softplus(_log_sum_exp(-alpha * (sims - base), positives)) / alpha
    push = tf.nn.softplus(_log_sum_exp(beta * (sims - base), negatives)) / beta
    return pull + push


def circle(
    embs: tf.Tensor,
    pids: tf.Tensor,
    column_embs: tf.Tensor | None = None,
    column_pids: tf.Tensor | None = None,
    offset: int | tf.Tensor = 0,
) -> tf.Tensor:
    """The circle loss of Sun et al., CVPR 2020 (arXiv:2002.10857), section 3; its weights have no
    gradient.
    """
    m, gamma = 0.25, 64.0
    sims, positives, negatives = _similarities(embs, pids, column_embs, column_pids, offset)
    positive_weights = tf.stop_gradient(tf.nn.relu(1 + m - sims))
    negative_weights = tf.stop_gradient(tf.nn.relu(sims + m))
    difference = _log_sum_exp(-gamma * positive_weights * (sims - (1 - m)), positives)
    difference += _log_sum_exp(gamma * negative_weights * (sims - m), negatives)
    return _hinged(_any_triplet(positives, negatives), difference, "soft")


EMBEDDING_LOSSES = {loss.__name__: loss for loss in (multi_similarity, circle)}


# ------------------------------------------------------------------------- numbers to watch


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

    Returns: two of float32 [B], of each anchor: 1 where its nearest is a positive, else 0; and the
      share of positives among its k nearest.
    """
    positives, negatives = pair_masks(pids, column_pids, offset)
    candidates = tf.where(positives | negatives, dists, float("inf"))
    _, nearest = tf.math.top_k(-candidates, k)
    hits = tf.cast(tf.gather(positives, nearest, batch_dims=1), tf.float32)
    return hits[:, 0], tf.reduce_mean(hits, axis=1)
