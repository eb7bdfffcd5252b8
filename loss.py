"""Distances of embeddings, the losses over them, and how well a batch finds its own.

B anchors (rows) are compared with C embeddings (columns). In the plain case the anchors are
compared with each other: C = B, and anchor i is column i. See Columns for the other cases.

LOSSES is the table of all losses. A new loss is a function and a line in that table. Each gives one
loss per anchor, and the loss of a batch is their mean.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import tensorflow as tf

# common.py reads this tuple and the table LOSSES from the source of this file, for the flags.
METRICS = ("euclidean", "sqeuclidean", "cityblock", "cosine")

# How many distances are computed in float64 at a time: 16 MB.
_BLOCK = 2**21


class Columns(NamedTuple):
    """What anchors are compared with, where that is more than the anchors themselves.

    A replica that mines in the embeddings of all replicas has some of the columns as its anchors.

    Attributes:
        pids: [C], of the same type as the pids of the anchors.
        offset: integer; anchor i is column offset + i.
        seed: integers [2], which the losses that draw triplets need. The same seed and column give
            an anchor the same draw, on one device and on many.
        embs: float [C, D], for the losses over embeddings. None stands for those of the anchors.
        there: bool [C], False for columns that are empty: they are neither positives nor negatives.
            None: all are there.
    """

    pids: tf.Tensor
    offset: int | tf.Tensor = 0
    seed: tf.Tensor | None = None
    embs: tf.Tensor | None = None
    there: tf.Tensor | None = None


# ------------------------------------------------------------------------- distances


def cdist(a: tf.Tensor, b: tf.Tensor, metric: str = "euclidean") -> tf.Tensor:
    """Distances of all pairs.

    Args:
        a: float [B, D].
        b: float [C, D].
        metric: one of METRICS. "euclidean" is the root of the sum of squares + 1e-12, whose
            gradient is finite at equal points. "cosine" is 1 - cosine, in 0..2; a zero vector has a
            distance of 1 to all, and vectors shorter than 1e-6 come close to that.

    Returns:
        float32 [B, C], >= 0. Memory is O(B·C), never B·C·D.

    Raises:
        ValueError: another metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric should be one of {', '.join(METRICS)}. Received: {metric!r}")
    if metric == "cityblock":
        return _cityblock(tf.cast(a, tf.float32), tf.cast(b, tf.float32))

    # In float32, |a - b|² = |a|² - 2ab + |b|² loses all digits of close pairs; so does 1 - ab. In
    # float64 it keeps more digits than a sum of float32 differences has, in value and in gradient,
    # down to equal points.
    a = tf.cast(a, tf.float64)
    b = tf.cast(b, tf.float64)
    if metric == "cosine":
        a = tf.math.l2_normalize(a, axis=1)
        b = tf.math.l2_normalize(b, axis=1)
        return _products(_append(-a, 1), _append(b, 1), root=False)
    a_squares = tf.reduce_sum(a * a, axis=1, keepdims=True)
    b_squares = tf.reduce_sum(b * b, axis=1, keepdims=True)
    return _products(
        _append(-2 * a, a_squares, 1),
        _append(b, 1, b_squares),
        root=metric == "euclidean",
    )


def _append(x: tf.Tensor, *columns: tf.Tensor | float) -> tf.Tensor:
    """x [N, D] with further columns, each [N, 1] or one number."""
    ones = tf.ones_like(x[:, :1])
    return tf.concat([x, *(column * ones for column in columns)], axis=1)


def _products(a: tf.Tensor, b: tf.Tensor, root: bool) -> tf.Tensor:
    """max(a·b, 0) of all pairs, or the root of that + 1e-12.

    A block of rows is computed at a time, also in the gradient, so that few numbers are in float64
    at once.

    Args:
        a: float64 [B, E].
        b: float64 [C, E].
        root: whether to take the root.

    Returns:
        float32 [B, C].
    """

    @tf.custom_gradient
    def forward(a, b):
        parts = []
        for rows in _row_blocks(a, b):
            with tf.control_dependencies(parts[-1:]):  # otherwise all blocks would run at once
                products = tf.linalg.matmul(a[rows], b, transpose_b=True)
                products = tf.maximum(tf.cast(products, tf.float32), 0)
                parts.append(tf.sqrt(products + 1e-12) if root else products)
        dists = tf.concat(parts, axis=0)

        def backward(upstream):
            a_parts = []
            b_gradient = tf.zeros_like(b)
            for rows in _row_blocks(a, b):
                with tf.control_dependencies([b_gradient]):
                    weights = 0.5 * upstream[rows] / dists[rows] if root else upstream[rows]
                    weights = tf.cast(weights, tf.float64)
                    a_parts.append(tf.linalg.matmul(weights, b))
                    b_gradient += tf.linalg.matmul(weights, a[rows], transpose_a=True)
            return tf.concat(a_parts, axis=0), b_gradient

        return dists, backward

    return forward(a, b)


def _row_blocks(a: tf.Tensor, b: tf.Tensor) -> list[slice]:
    """Slices of the rows of a. One slice takes them all if the shapes are not known yet."""
    if a.shape[0] is None or b.shape[0] is None:
        return [slice(None)]
    size = max(1, _BLOCK // b.shape[0])
    return [slice(start, start + size) for start in range(0, a.shape[0], size)]


def _cityblock(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Sums of absolute differences, one row at a time.

    The gradient computes the signs again. Otherwise B·C·D of them would be kept for it.
    """
    row_dists = tf.recompute_grad(lambda row, b: tf.reduce_sum(tf.abs(row - b), axis=1))
    return tf.map_fn(lambda row: row_dists(row, b), a)


# ------------------------------------------------------------------------- parts of losses


def pair_masks(pids: tf.Tensor, columns: Columns | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pairs have the same pid, and which have two.

    Args:
        pids: [B], of the anchors; any type that can be compared.
        columns: what the anchors are compared with; None stands for the anchors.

    Returns:
        positives, negatives: bool [B, C]. An anchor with itself is neither. Another copy of the
        same image is a positive.
    """
    if columns is None:
        columns = Columns(pids)
    same = tf.equal(pids[:, None], columns.pids[None, :])
    own_column = tf.range(tf.shape(pids)[0]) + columns.offset
    itself = tf.equal(own_column[:, None], tf.range(tf.shape(columns.pids)[0])[None, :])
    positives, negatives = same & ~itself, ~same
    if columns.there is None:
        return positives, negatives
    return positives & columns.there, negatives & columns.there


def apply_margin(difference: tf.Tensor, margin: float | str) -> tf.Tensor:
    """The hinge of section 2 of arXiv:1703.07737, for a difference x of any shape.

    Args:
        difference: float32, any shape.
        margin: "soft" for log(1 + exp(x)), "none" for x, a number m for max(0, m + x).

    Returns:
        float32, the same shape.
    """
    if margin == "soft":
        return tf.nn.softplus(difference)
    if margin == "none":
        return difference
    return tf.nn.relu(difference + float(margin))


def _hinge(
    difference: tf.Tensor, margin: float | str, positives: tf.Tensor, negatives: tf.Tensor
) -> tf.Tensor:
    """apply_margin for the anchors that have a triplet; 0, with no gradient, for the others.

    Args:
        difference: float32 [B].
        margin: see apply_margin.
        positives: bool [B, C].
        negatives: bool [B, C].

    Returns:
        float32 [B].
    """
    valid = tf.reduce_any(positives, axis=1) & tf.reduce_any(negatives, axis=1)
    # Twice: a gradient through the branch that is not taken would be NaN where it is not finite.
    difference = tf.where(valid, difference, 0.0)
    return tf.where(valid, apply_margin(difference, margin), 0.0)


def _log_sum_exp(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """log Σ e^x of the columns in the mask, [B, C] -> [B]. Without any: -inf, with no gradient."""
    return tf.reduce_logsumexp(tf.where(mask, logits, -float("inf")), axis=1)


# ------------------------------------------------------------------------- losses over distances
#
# The triplet losses of section 2 of arXiv:1703.07737. They take
#   dists: float32 [B, C], as from cdist.
#   pids: [B], of the anchors.
#   margin: see apply_margin.
#   columns: what the anchors are compared with; None stands for the anchors.
# and give float32 [B], one loss per anchor. An anchor without positives or without negatives has a
# loss of 0 and no gradient, except with batch_hard.


def batch_hard(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, columns: Columns | None = None
) -> tf.Tensor:
    """The batch-hard triplet loss, eq. 5: the furthest positive minus the closest negative.

    An anchor without positives has its furthest one at 0. An anchor without negatives has its
    closest one at infinity: its loss is 0, or -inf with margin "none".
    """
    positives, negatives = pair_masks(pids, columns)
    furthest_positive = tf.reduce_max(tf.where(positives, dists, 0.0), axis=1)
    closest_negative = tf.reduce_min(tf.where(negatives, dists, float("inf")), axis=1)
    return apply_margin(furthest_positive - closest_negative, margin)


def batch_all(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, columns: Columns | None = None
) -> tf.Tensor:
    """The mean over all triplets of the anchor.

    Memory is O(B·C). Time is that, multiplied by the most positives that an anchor has.
    """
    positives, negatives = pair_masks(pids, columns)
    sums, _ = _sum_triplets(dists, positives, negatives, margin)
    positive_counts = tf.math.count_nonzero(positives, axis=1, dtype=tf.float32)
    negative_counts = tf.math.count_nonzero(negatives, axis=1, dtype=tf.float32)
    return tf.math.divide_no_nan(sums, positive_counts * negative_counts)


def _sum_triplets(
    dists: tf.Tensor, positives: tf.Tensor, negatives: tf.Tensor, margin: float | str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum over all triplets of each anchor.

    A step of the loop takes one positive of each anchor with all negatives: the first positives,
    then the second ones, and so on.

    Returns:
        sums: float32 [B], over the anchor's triplets.
        active: float32 [B], how many of these are not 0.
    """
    # The positives of each row are numbered 1, 2, ...; the other columns have a 0.
    ordinals = tf.cumsum(tf.cast(positives, tf.int32), axis=1)
    ordinals = tf.where(positives, ordinals, 0)

    # Gradients are summed along with the losses: automatic differentiation would keep all triplets.
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
            sums += row_sums
            active += tf.math.count_nonzero(terms, axis=1, dtype=tf.float32)
            gradient += tape.gradient(row_sums, dists)
            return ordinal + 1, sums, active, gradient

        zeros = tf.zeros_like(dists[:, 0])
        _, sums, active, gradient = tf.while_loop(
            cond=lambda ordinal, *_: ordinal <= tf.reduce_max(ordinals),
            body=add,
            loop_vars=(1, zeros, zeros, tf.zeros_like(dists)),
            parallel_iterations=1,
        )

        def backward(upstream, _):
            return upstream[:, None] * gradient

        return (sums, active), backward

    return forward(dists)


def batch_sample(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, columns: Columns | None = None
) -> tf.Tensor:
    """One positive minus one negative, drawn by the softmax of dists and of -dists.

    Raises:
        ValueError: there is no seed in columns.
    """
    return _one_triplet(dists, dists, pids, margin, columns)


def triplet(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, columns: Columns | None = None
) -> tf.Tensor:
    """One positive minus one negative, both drawn uniformly.

    Raises:
        ValueError: there is no seed in columns.
    """
    return _one_triplet(dists, tf.zeros_like(dists), pids, margin, columns)


def _one_triplet(
    dists: tf.Tensor,
    logits: tf.Tensor,
    pids: tf.Tensor,
    margin: float | str,
    columns: Columns | None,
) -> tf.Tensor:
    """A positive drawn by the softmax of logits, float32 [B, C], minus a negative by -logits."""
    if columns is None or columns.seed is None:
        raise ValueError(
            "this loss draws its triplets and needs a seed, integers [2]. Received: None. Give "
            "columns=Columns(pids, seed=...)."
        )
    positives, negatives = pair_masks(pids, columns)
    # Two numbers in 0..1 for each column; an anchor takes those of its own column, so each replica
    # draws the same for it. They are made of integers of a named generator: XLA, and some devices,
    # would draw other floats.
    bits = tf.random.stateless_uniform(
        [tf.shape(dists)[1], 2], columns.seed, None, None, tf.int32, alg="philox"
    )
    uniform = tf.cast(tf.bitwise.bitwise_and(bits, 2**23 - 1), tf.float32) / 2**23
    uniform = uniform[columns.offset : columns.offset + tf.shape(dists)[0]]
    positive = _draw(logits, positives, uniform[:, 0])
    negative = _draw(-logits, negatives, uniform[:, 1])
    positive_dists = tf.gather(dists, positive, batch_dims=1)
    negative_dists = tf.gather(dists, negative, batch_dims=1)
    return _hinge(positive_dists - negative_dists, margin, positives, negatives)


def _draw(logits: tf.Tensor, mask: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draw a column of the mask [B, C] in each row, for numbers in 0..1, [B]; 0 if it has none."""
    logits = tf.where(mask, logits, -float("inf"))
    greatest = tf.reduce_max(logits, axis=1, keepdims=True)
    weights = tf.where(mask, tf.exp(logits - greatest), 0.0)
    cumulated = tf.cumsum(weights, axis=1)
    reached = cumulated > uniform[:, None] * cumulated[:, -1:]
    return tf.argmax(mask & reached, axis=1)


def lifted(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, columns: Columns | None = None
) -> tf.Tensor:
    """The generalized lifted loss: log Σ e^d of positives + log Σ e^(m - d) of negatives, hinged.

    log Σ e^(m - d) is m + log Σ e^-d, so apply_margin adds m. With margin "soft" or "none" there is
    no m.
    """
    positives, negatives = pair_masks(pids, columns)
    difference = _log_sum_exp(dists, positives) + _log_sum_exp(-dists, negatives)
    return _hinge(difference, margin, positives, negatives)


# The losses "≠ 0" of table 1 of the paper, see Loss.without_zeros.


def _batch_hard_without_zeros(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, columns: Columns | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    losses = batch_hard(dists, pids, margin, columns)
    return losses, tf.cast(losses > 0, tf.float32)


def _batch_all_without_zeros(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, columns: Columns | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    positives, negatives = pair_masks(pids, columns)
    sums, active = _sum_triplets(dists, positives, negatives, margin)
    return tf.math.divide_no_nan(sums, active), active


# ------------------------------------------------------------------------- losses over embeddings
#
# They compare by cosine, have constants in place of a margin, and take
#   embs: float [B, D], of the anchors.
#   pids: [B], of the anchors.
#   columns: what the anchors are compared with; None stands for the anchors.
# and give float32 [B], one loss per anchor. An anchor without positives or without negatives has a
# loss of 0 and no gradient.


def multi_similarity(
    embs: tf.Tensor,
    pids: tf.Tensor,
    columns: Columns | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> tf.Tensor:
    """The multi-similarity loss of Wang et al., CVPR 2019 (arXiv:1904.06627).

    Section 4.1 has the mining, section 4.2 the weights.

    Args:
        alpha, beta: how much the hardest positives and negatives outweigh the others, above 0.
        base: the cosine, λ in the paper, that pairs are held against.
        epsilon: how much easier than the hardest pair of the other kind a pair may be to count.
    """
    sims, positives, negatives = _similarities(embs, pids, columns)
    infinity = float("inf")
    least_positive = tf.reduce_min(tf.where(positives, sims, infinity), axis=1, keepdims=True)
    greatest_negative = tf.reduce_max(tf.where(negatives, sims, -infinity), axis=1, keepdims=True)
    positives &= sims < greatest_negative + epsilon
    negatives &= sims > least_positive - epsilon
    # softplus(log Σ e^x) = log(1 + Σ e^x)
    pull = tf.nn.softplus(_log_sum_exp(-alpha * (sims - base), positives)) / alpha
    push = tf.nn.softplus(_log_sum_exp(beta * (sims - base), negatives)) / beta
    return pull + push


def circle(
    embs: tf.Tensor,
    pids: tf.Tensor,
    columns: Columns | None = None,
    *,
    m: float = 0.25,
    gamma: float = 64.0,
) -> tf.Tensor:
    """The circle loss of Sun et al., CVPR 2020 (arXiv:2002.10857), section 3.

    Its weights have no gradient.

    Args:
        m: the margin: cosines should be above 1 - m for positives and below m for negatives.
        gamma: scale of the cosines, above 0.
    """
    sims, positives, negatives = _similarities(embs, pids, columns)
    positive_weights = tf.stop_gradient(tf.nn.relu(1 + m - sims))
    negative_weights = tf.stop_gradient(tf.nn.relu(sims + m))
    difference = _log_sum_exp(-gamma * positive_weights * (sims - (1 - m)), positives)
    difference += _log_sum_exp(gamma * negative_weights * (sims - m), negatives)
    return _hinge(difference, "soft", positives, negatives)


def supcon(
    embs: tf.Tensor, pids: tf.Tensor, columns: Columns | None = None, *, temperature: float = 0.1
) -> tf.Tensor:
    """The supervised contrastive loss of Khosla et al., NeurIPS 2020 (arXiv:2004.11362), eq. 2.

    It is the mean over the positives p of log Σ e^(cos / τ) over all columns but the anchor itself,
    minus cos_p / τ.

    Args:
        temperature: τ, above 0.
    """
    sims, positives, negatives = _similarities(embs, pids, columns)
    logits = sims / temperature
    counts = tf.math.count_nonzero(positives, axis=1, dtype=tf.float32)
    pull = tf.math.divide_no_nan(tf.reduce_sum(tf.where(positives, logits, 0.0), axis=1), counts)
    difference = _log_sum_exp(logits, positives | negatives) - pull
    return _hinge(difference, "none", positives, negatives)


def _similarities(
    embs: tf.Tensor, pids: tf.Tensor, columns: Columns | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cosines float32 [B, C], and the masks of positives and negatives."""
    column_embs = embs if columns is None or columns.embs is None else columns.embs
    sims = 1 - cdist(embs, column_embs, "cosine")
    positives, negatives = pair_masks(pids, columns)
    return sims, positives, negatives


# ------------------------------------------------------------------------- the table of losses


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What has to be known of a loss.

    Attributes:
        function: gives float32 [B], the loss of each anchor. It takes (dists, pids, margin,
            columns) or (embs, pids, columns), and its constants, each by name only, a number above
            0 with a default: --loss_constants sets them.
        over: which of the two it takes.
        without_zeros: the same loss without its terms that are 0, if it has such a form. It takes
            (dists, pids, margin, columns) and gives two float32 [B]: the mean of the anchor's terms
            that are not 0, and how many these are.
    """

    function: Callable[..., tf.Tensor]
    over: Literal["distances", "embeddings"]
    without_zeros: Callable[..., tuple[tf.Tensor, tf.Tensor]] | None = None


LOSSES = {
    "batch_hard": Loss(
        function=batch_hard, over="distances", without_zeros=_batch_hard_without_zeros
    ),
    "batch_all": Loss(function=batch_all, over="distances", without_zeros=_batch_all_without_zeros),
    "batch_sample": Loss(function=batch_sample, over="distances"),
    "lifted": Loss(function=lifted, over="distances"),
    "triplet": Loss(function=triplet, over="distances"),
    "multi_similarity": Loss(function=multi_similarity, over="embeddings"),
    "circle": Loss(function=circle, over="embeddings"),
    "supcon": Loss(function=supcon, over="embeddings"),
}


class Choice(NamedTuple):
    """Which loss to take, and how.

    Attributes:
        name: a name in LOSSES.
        margin: see apply_margin; the losses over embeddings have none.
        ignore_zero: whether terms that are 0 do not count in the mean of a batch.
        constants: of the loss, by name; those that are not there have their defaults.
    """

    name: str
    margin: float | str = "soft"
    ignore_zero: bool = False
    constants: Mapping[str, float] = MappingProxyType({})


def per_anchor(
    choice: Choice,
    embs: tf.Tensor,
    dists: tf.Tensor,
    pids: tf.Tensor,
    columns: Columns | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The chosen loss of each anchor.

    Args:
        choice: which loss, and how.
        embs: float [B, D], of the anchors.
        dists: float32 [B, C], as from cdist.
        pids: [B], of the anchors.
        columns: what the anchors are compared with; None stands for the anchors.

    Returns:
        losses: float32 [B].
        counts: float32 [B], how many terms each loss is the mean of: 1, or with ignore_zero any
            number. The loss of a batch is sum(losses * counts) / max(sum(counts), 1).

    Raises:
        ValueError: ignore_zero with a loss that has no such form.
    """
    chosen = LOSSES[choice.name]
    if choice.ignore_zero:
        if chosen.without_zeros is None:
            able = [name for name, loss in LOSSES.items() if loss.without_zeros]
            raise ValueError(
                f"ignore_zero is for {' and '.join(able)}. Received: {choice.name}. Leave it out."
            )
        return chosen.without_zeros(dists, pids, choice.margin, columns)
    if chosen.over == "embeddings":
        losses = chosen.function(embs, pids, columns, **choice.constants)
    else:
        losses = chosen.function(dists, pids, choice.margin, columns, **choice.constants)
    return losses, tf.ones_like(losses)


# ------------------------------------------------------------------------- numbers to watch


def retrieval_in_batch(
    dists: tf.Tensor, pids: tf.Tensor, k: int, columns: Columns | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """How well each anchor finds its own in the batch. An anchor does not count for itself.

    Args:
        dists: float32 [B, C], as from cdist.
        pids: [B], of the anchors.
        k: how many of the nearest to look at, K - 1 where a batch has K images of each pid.
        columns: what the anchors are compared with; None stands for the anchors.

    Returns:
        top1: float32 [B], 1 where the nearest is a positive, else 0.
        precision: float32 [B], the share of positives among the k nearest, 0..1.
    """
    positives, negatives = pair_masks(pids, columns)
    candidates = tf.where(positives | negatives, dists, float("inf"))
    _, nearest = tf.math.top_k(-candidates, k)
    hits = tf.cast(tf.gather(positives, nearest, batch_dims=1), tf.float32)
    return hits[:, 0], tf.reduce_mean(hits, axis=1)
