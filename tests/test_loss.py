import inspect

import numpy as np
import pytest
import tensorflow as tf
from paths import GOLDEN

import common
import loss

NUMBERS = np.load(GOLDEN / "loss_golden.npz")
CASES = ("c0", "c1", "c2", "c3")
ORIGINAL_METRICS = ("euclidean", "sqeuclidean", "cityblock")
MARGINS = ("soft", "none", 0.2, 1.0)
SEED = tf.constant([3, 4])


def losses_of(name, embs, pids, margin="soft", columns=None):
    """The losses of all anchors by any loss of the table. Draws have a seed."""
    if columns is None:
        columns = loss.Columns(pids, seed=SEED, embs=embs)
    dists = loss.cdist(embs, columns.embs)
    losses, _ = loss.per_anchor(loss.Choice(name, margin), embs, dists, pids, columns)
    return losses


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", ORIGINAL_METRICS)
@pytest.mark.parametrize("case", CASES)
def test_distances_are_the_originals(case, metric):
    embs = NUMBERS[f"{case}/embs"]
    close(loss.cdist(embs, embs, metric), NUMBERS[f"{case}/{metric}/dists"])


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("metric", ORIGINAL_METRICS)
@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_monitoring_are_the_originals(case, metric, margin):
    embs, pids = tf.constant(NUMBERS[f"{case}/embs"]), tf.constant(NUMBERS[f"{case}/pids"])
    golden = {
        name: NUMBERS[f"{case}/{metric}/{margin}/{name}"]
        for name in ("losses", "grad", "top1", "prec_at_k")
    }
    with tf.GradientTape() as tape:
        tape.watch(embs)
        dists = loss.cdist(embs, embs, metric)
        losses = loss.batch_hard(dists, pids, margin)
        mean = tf.reduce_mean(losses)
    close(losses, golden["losses"])
    close(tape.gradient(mean, embs), golden["grad"])
    top1, precision = loss.retrieval_in_batch(dists, pids, int(NUMBERS[f"{case}/K"]) - 1)
    close(tf.reduce_mean(top1), golden["top1"])
    close(tf.reduce_mean(precision), golden["prec_at_k"])


def apply_margin(x, margin):
    if margin == "soft":
        return np.log1p(np.exp(x))
    return x if margin == "none" else max(0.0, margin + x)


def triplets_of(anchor, pids):
    """Indices of the positives and of the negatives of an anchor."""
    positives = [i for i, pid in enumerate(pids) if pid == pids[anchor] and i != anchor]
    negatives = [i for i, pid in enumerate(pids) if pid != pids[anchor]]
    return positives, negatives


def batch_hard(dist, positives, negatives, margin):
    furthest = max((dist[p] for p in positives), default=0.0)
    closest = min((dist[n] for n in negatives), default=np.inf)
    return apply_margin(furthest - closest, margin)


def batch_all(dist, positives, negatives, margin):
    terms = [apply_margin(dist[p] - dist[n], margin) for p in positives for n in negatives]
    return np.mean(terms) if terms else 0.0


def lifted(dist, positives, negatives, margin):
    if not positives or not negatives:
        return 0.0
    m = 0.0 if isinstance(margin, str) else margin
    pull = np.log(sum(np.exp(dist[p]) for p in positives))
    push = np.log(sum(np.exp(m - dist[n]) for n in negatives))
    # A number is in the sum already: only the hinge at 0 is left.
    return apply_margin(pull + push, margin if isinstance(margin, str) else 0.0)


REFERENCES = {"batch_hard": batch_hard, "batch_all": batch_all, "lifted": lifted}
DRAWING = ("batch_sample", "triplet")


def reference(name, dists, pids, margin):
    """The losses of all anchors, float64, by going through their pairs and triplets one by one."""
    losses = []
    for anchor, dist in enumerate(dists):
        positives, negatives = triplets_of(anchor, pids)
        losses.append(REFERENCES[name](dist, positives, negatives, margin))
    return np.array(losses)


def numeric_gradient(function, x, step=1e-5):
    """Of a scalar function of an array, by finite differences."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        gradient[index] = (function(x + moved) - function(x - moved)) / (2 * step)
    return gradient


def with_gradient(function, x, weights):
    """float32: function(x) [B], and the gradient of its sum with these weights."""
    x = tf.Variable(x, dtype=tf.float32)
    with tf.GradientTape() as tape:
        losses = function(x)
        total = tf.reduce_sum(losses * tf.constant(weights, tf.float32))
    return losses.numpy(), tape.gradient(total, x).numpy()


# Anchor 5 has no positive; the pids have one, two and three of them.
PIDS = np.array([0, 0, 1, 1, 1, 2, 3, 3, 0])


def random_dists(size=9):
    embs = np.random.default_rng(1).normal(size=(size, 4)) / 2
    return np.sqrt(((embs[:, None] - embs[None]) ** 2).sum(-1) + 1e-12)


@pytest.mark.parametrize("margin", ["soft", "none", 0.3, 0.0, -0.1])
@pytest.mark.parametrize("name", REFERENCES)
def test_losses_and_gradients_over_every_triplet(name, margin):
    dists, weights = random_dists(), np.linspace(0.5, 2, len(PIDS))
    function = loss.LOSSES[name].function
    losses, gradient = with_gradient(
        lambda x: function(x, tf.constant(PIDS), margin), dists, weights
    )
    np.testing.assert_allclose(losses, reference(name, dists, PIDS, margin), rtol=1e-5, atol=1e-6)
    numeric = numeric_gradient(lambda x: weights @ reference(name, x, PIDS, margin), dists)
    np.testing.assert_allclose(gradient, numeric, atol=1e-5)


@pytest.mark.parametrize("margin", ["soft", "none", 0.3])
@pytest.mark.parametrize("name", DRAWING)
def test_losses_that_draw_take_one_positive_and_one_negative(name, margin):
    dists, pids, function = random_dists(), tf.constant(PIDS), loss.LOSSES[name].function
    columns, ones = loss.Columns(pids, seed=SEED), np.ones(len(PIDS))
    _, drawn = with_gradient(lambda x: function(x, pids, "none", columns), dists, ones)
    losses, gradient = with_gradient(lambda x: function(x, pids, margin, columns), dists, ones)
    for anchor in range(len(PIDS)):
        positives, negatives = triplets_of(anchor, PIDS)
        if not positives:
            assert losses[anchor] == 0 and not gradient[anchor].any()
            continue
        assert np.count_nonzero(drawn[anchor]) == 2
        (positive,) = np.flatnonzero(drawn[anchor] == 1)
        (negative,) = np.flatnonzero(drawn[anchor] == -1)
        assert positive in positives and negative in negatives
        x = dists[anchor, positive] - dists[anchor, negative]
        assert losses[anchor] == pytest.approx(apply_margin(x, margin), abs=1e-6)
        slope = {"soft": 1 / (1 + np.exp(-x)), "none": 1.0}.get(margin, float(x + 0.3 > 0))
        np.testing.assert_allclose(gradient[anchor], slope * drawn[anchor], atol=1e-6)


@pytest.mark.parametrize("name", DRAWING)
def test_draws_have_their_probabilities(name):
    pids, draws = np.array([0, 0, 0, 0, 1, 1, 2]), 600
    dists = 2 * random_dists(size=len(pids)).astype(np.float32)

    @tf.function
    def draw(seed):
        columns = loss.Columns(tf.constant(pids), seed=seed)
        return loss.LOSSES[name].function(dists, columns.pids, "none", columns)

    found = np.array([draw(tf.constant([7, number])) for number in range(draws)])
    for anchor in range(len(pids) - 1):
        positives, negatives = triplets_of(anchor, pids)
        scale = 1 if name == "batch_sample" else 0
        up = np.exp(scale * dists[anchor, positives])
        down = np.exp(-scale * dists[anchor, negatives])
        for p, p_share in zip(positives, up / up.sum(), strict=True):
            for n, n_share in zip(negatives, down / down.sum(), strict=True):
                difference = dists[anchor, p] - dists[anchor, n]
                count = np.isclose(found[:, anchor], difference, atol=1e-6).sum()
                share = p_share * n_share
                assert abs(count - draws * share) < 5 * np.sqrt(draws * share * (1 - share)) + 1


@pytest.mark.parametrize("name", DRAWING)
def test_draws_follow_from_the_seed(name):
    dists, pids = tf.constant(random_dists(size=40), tf.float32), tf.constant(np.arange(40) // 4)
    function = loss.LOSSES[name].function

    def draw(*seed):
        return function(dists, pids, "none", loss.Columns(pids, seed=tf.constant(seed)))

    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    assert np.mean(np.not_equal(draw(1, 2), draw(1, 3))) > 0.5
    for columns in (None, loss.Columns(pids)):
        with pytest.raises(ValueError, match="needs a seed"):
            function(dists, pids, "none", columns)


@pytest.mark.parametrize("name", common.LOSSES)
def test_losses_are_the_same_when_they_are_compiled(name):
    embs = tf.constant(np.random.default_rng(7).normal(size=(12, 4)), tf.float32)
    pids = tf.constant(np.arange(12) // 3)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(embs)
            total = tf.reduce_sum(losses_of(name, embs, pids))
        return total, tape.gradient(total, embs)

    for compiled, plain in zip(tf.function(gradient, jit_compile=True)(), gradient(), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", common.LOSSES_WITHOUT_ZEROS)
def test_means_without_zeros(name):
    dists, margin = random_dists(), 0.2
    without_zeros = loss.LOSSES[name].without_zeros

    def terms_of(anchor, dist):
        positives, negatives = triplets_of(anchor, PIDS)
        if name == "batch_hard":
            return np.array([batch_hard(dist, positives, negatives, margin)])
        return np.array(
            [apply_margin(dist[p] - dist[n], margin) for p in positives for n in negatives]
        )

    def mean(dists):
        terms = np.concatenate([terms_of(anchor, dist) for anchor, dist in enumerate(dists)])
        return terms[terms > 0].mean()

    def ours(dists):
        losses, counts = without_zeros(dists, tf.constant(PIDS), margin)
        return losses * counts / tf.reduce_sum(counts)

    parts, gradient = with_gradient(ours, dists, np.ones(len(PIDS)))
    assert parts.sum() == pytest.approx(mean(dists), rel=1e-5)
    np.testing.assert_allclose(gradient, numeric_gradient(mean, dists), atol=1e-5)

    means, counts = without_zeros(tf.constant(dists, tf.float32), tf.constant(PIDS), margin)
    for anchor, dist in enumerate(dists):
        terms = terms_of(anchor, dist)
        assert counts[anchor] == np.count_nonzero(terms)
        expected = terms[terms > 0].mean() if counts[anchor] else 0
        assert float(means[anchor]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", common.LOSSES_WITHOUT_ZEROS)
def test_where_all_terms_are_zero_so_is_their_mean_and_its_gradient(name):
    dists = np.where(np.equal.outer(PIDS, PIDS), 0.0, 9.0)
    without_zeros = loss.LOSSES[name].without_zeros
    means, gradient = with_gradient(
        lambda x: without_zeros(x, tf.constant(PIDS), 0.2)[0], dists, np.ones(len(PIDS))
    )
    np.testing.assert_array_equal(means, 0)
    np.testing.assert_array_equal(gradient, 0)
    _, counts = without_zeros(tf.constant(dists, tf.float32), tf.constant(PIDS), 0.2)
    np.testing.assert_array_equal(counts, 0)


def similarities(embs):
    unit = embs / np.linalg.norm(embs, axis=1, keepdims=True)
    return unit @ unit.T


def multi_similarity(embs, pids, alpha=2, beta=50, base=0.5, epsilon=0.1):
    losses, all_sims = [], similarities(embs)
    for anchor, sims in enumerate(all_sims):
        positives, negatives = triplets_of(anchor, pids)
        hard_positives = [
            p for p in positives if any(sims[p] < sims[n] + epsilon for n in negatives)
        ]
        hard_negatives = [
            n for n in negatives if any(sims[n] > sims[p] - epsilon for p in positives)
        ]
        pull = np.log(1 + sum(np.exp(-alpha * (sims[p] - base)) for p in hard_positives)) / alpha
        push = np.log(1 + sum(np.exp(beta * (sims[n] - base)) for n in hard_negatives)) / beta
        losses.append(pull + push)
    return np.array(losses)


def circle(embs, pids, weighted_by=None, m=0.25, gamma=64):
    """Weights are those of the embeddings `weighted_by`: they have no gradient."""
    losses, all_sims = [], similarities(embs)
    weight_sims = all_sims if weighted_by is None else similarities(weighted_by)
    for anchor, (sims, frozen) in enumerate(zip(all_sims, weight_sims, strict=True)):
        total = 0.0
        positives, negatives = triplets_of(anchor, pids)
        for p in positives:
            for n in negatives:
                pull = max(0, 1 + m - frozen[p]) * (sims[p] - (1 - m))
                push = max(0, frozen[n] + m) * (sims[n] - m)
                total += np.exp(gamma * (push - pull))
        losses.append(np.log(1 + total))
    return np.array(losses)


def supcon(embs, pids):
    losses, all_sims = [], similarities(embs) / 0.1
    for anchor, sims in enumerate(all_sims):
        positives, negatives = triplets_of(anchor, pids)
        total = sum(np.exp(sims[other]) for other in positives + negatives)
        terms = [np.log(total) - sims[positive] for positive in positives]
        losses.append(np.mean(terms) if positives and negatives else 0.0)
    return np.array(losses)


EMBEDDING_REFERENCES = {"multi_similarity": multi_similarity, "circle": circle, "supcon": supcon}


@pytest.mark.parametrize("spread", [0.3, 1, 30])
@pytest.mark.parametrize("name", EMBEDDING_REFERENCES)
def test_losses_over_embeddings_and_their_gradients(name, spread):
    rng = np.random.default_rng(6)
    embs = spread * rng.normal(size=(len(PIDS), 5)) + 0.5
    weights = np.linspace(0.5, 2, len(PIDS))
    function = loss.LOSSES[name].function
    losses, gradient = with_gradient(lambda x: function(x, tf.constant(PIDS)), embs, weights)
    np.testing.assert_allclose(losses, EMBEDDING_REFERENCES[name](embs, PIDS), rtol=1e-5, atol=1e-5)
    frozen = {"circle": {"weighted_by": embs}}.get(name, {})
    numeric = numeric_gradient(
        lambda x: weights @ EMBEDDING_REFERENCES[name](x, PIDS, **frozen), embs
    )
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


OTHER_CONSTANTS = {
    "multi_similarity": {"alpha": 3.0, "beta": 20.0, "base": 0.7, "epsilon": 0.3},
    "circle": {"m": 0.4, "gamma": 16.0},
}


@pytest.mark.parametrize("name", OTHER_CONSTANTS)
def test_each_constant_of_a_loss_can_be_set(name):
    defaults = common.LOSS_CONSTANTS[name]
    assert defaults.keys() == OTHER_CONSTANTS[name].keys()
    embs, pids = np.random.default_rng(6).normal(size=(len(PIDS), 5)), tf.constant(PIDS)
    for constant, value in OTHER_CONSTANTS[name].items():
        constants = {constant: value}
        losses, _ = loss.per_anchor(loss.Choice(name, constants=constants), embs, None, pids)
        expected = EMBEDDING_REFERENCES[name](embs, PIDS, **defaults | constants)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(expected - EMBEDDING_REFERENCES[name](embs, PIDS)).max() > 1e-3


@pytest.mark.parametrize(
    "function, expected",
    [
        (loss.multi_similarity, np.log1p(np.exp(3)) / 2 + np.log1p(np.exp(25)) / 50),
        (loss.circle, 64 * (2.25 * 1.75 + 1.25 * 0.75)),
        (loss.supcon, 20 + np.log(1 + 2 * np.exp(-20))),
    ],
)
def test_losses_over_embeddings_are_finite_far_from_their_optimum(function, expected):
    # Cosines of -1 within and 1 between pids: the circle loss has exponents of 312.
    embs, pids = np.array([[1.0, 0], [-1, 0], [1, 0], [-1, 0]]), tf.constant([0, 0, 1, 1])
    losses, gradient = with_gradient(lambda x: function(x, pids), embs, np.ones(4))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_a_temperature_divides_the_cosines(temperature):
    rng = np.random.default_rng(11)
    embs, pids = tf.constant(rng.normal(size=(6, 4)), tf.float32), tf.constant([0, 0, 0, 1, 1, 1])
    sims = similarities(embs.numpy().astype(float)) / temperature
    losses = loss.supcon(embs, pids, temperature=temperature)
    others = np.exp(sims[0, 1:] - sims[0, 1:].max()).sum()
    expected = np.log(others) + sims[0, 1:].max() - sims[0, 1:3].mean()
    assert float(losses[0]) == pytest.approx(expected, rel=1e-4)


# Of pytorch-metric-learning 2.9; see golden/metric_learning.py.
THEIRS = np.load(GOLDEN / "metric_learning.npz")
CHOICES = {
    "batch_hard": loss.Choice("batch_hard", 0.5),
    "batch_hard_soft": loss.Choice("batch_hard"),
    "batch_all": loss.Choice("batch_all", 0.5),
    "batch_all_without_zeros": loss.Choice("batch_all", 0.5, ignore_zero=True),
    "lifted": loss.Choice("lifted", 1.0),
    "multi_similarity": loss.Choice("multi_similarity"),
    "circle": loss.Choice("circle"),
    "supcon": loss.Choice("supcon"),
}


@pytest.mark.parametrize("theirs", CHOICES)
def test_losses_are_those_of_pytorch_metric_learning(theirs):
    pids = tf.constant(THEIRS["pk_pids"])

    def of_batch(embs):
        dists = loss.cdist(embs, embs)
        losses, counts = loss.per_anchor(CHOICES[theirs], embs, dists, pids)
        return losses * counts / tf.reduce_sum(counts)

    parts, gradient = with_gradient(of_batch, THEIRS["pk_embs"], np.ones(len(pids)))
    assert parts.sum() == pytest.approx(THEIRS[f"{theirs}/loss"], rel=1e-6)
    scale = np.abs(THEIRS[f"{theirs}/by_embs"]).max()
    np.testing.assert_allclose(gradient, THEIRS[f"{theirs}/by_embs"], rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("margin", ["soft", "none", 0.2])
@pytest.mark.parametrize("pids", [[0, 1, 2, 3], [5, 5, 5, 5]], ids=["no positive", "no negative"])
@pytest.mark.parametrize("name", [n for n in common.LOSSES if n != "batch_hard"])
def test_without_triplets_there_is_neither_loss_nor_gradient(name, pids, margin):
    embs = np.random.default_rng(8).normal(size=(4, 3))
    losses, gradient = with_gradient(
        lambda x: losses_of(name, x, tf.constant(pids), margin), embs, np.ones(4)
    )
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("point", [0.0, 100.0])
@pytest.mark.parametrize("name", common.LOSSES)
def test_equal_embeddings_have_a_finite_loss_and_gradient(name, point):
    embs, pids = np.full((6, 8), point), tf.constant([0, 0, 0, 1, 1, 1])
    losses, gradient = with_gradient(lambda x: losses_of(name, x, pids), embs, np.ones(6))
    assert np.isfinite(losses).all() and np.isfinite(gradient).all()
    if name in common.DISTANCE_LOSSES:
        expected = np.log1p(2 * 3) if name == "lifted" else np.log(2)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, 0, atol=1e-3)


def test_an_anchor_without_positive_or_without_negative():
    embs = tf.constant([[0.0], [3.0], [4.0]])
    dists = loss.cdist(embs, embs)
    alone = loss.batch_hard(dists, tf.constant([0, 1, 1]), "none")
    np.testing.assert_allclose(alone[0], 0 - 3, atol=1e-5)
    same = loss.batch_hard(dists, tf.constant([5, 5, 5]), 0.2)
    np.testing.assert_array_equal(same, [0, 0, 0])
    same = loss.batch_hard(dists, tf.constant([5, 5, 5]), "none")
    np.testing.assert_array_equal(same, [-np.inf] * 3)


@pytest.mark.parametrize("metric", common.METRICS)
def test_equal_points_have_a_finite_gradient_and_zero_distance(metric):
    # Far from the origin, where distances by a product of float32 matrices would be noise.
    embs = tf.Variable(np.full((4, 8), 100.0, np.float32))
    with tf.GradientTape() as tape:
        dists = loss.cdist(embs, embs, metric)
        mean = tf.reduce_mean(loss.batch_hard(dists, tf.constant([0, 0, 1, 1]), "soft"))
    np.testing.assert_allclose(dists, 0, atol=2e-6)
    np.testing.assert_allclose(mean, np.log(2), rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(mean, embs), 0, atol=1e-4)


def test_close_pairs_far_from_the_origin_keep_their_digits():
    rng = np.random.default_rng(3)
    embs = (50 + 1e-3 * rng.normal(size=(6, 128))).astype(np.float32)
    exact = np.sqrt(((embs[:, None].astype(np.float64) - embs[None]) ** 2).sum(-1) + 1e-12)
    pairs = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(loss.cdist(embs, embs).numpy()[pairs], exact[pairs], rtol=1e-6)


def test_cityblock_gradient_equals_that_of_all_differences():
    rng = np.random.default_rng(4)
    a, b = (tf.Variable(rng.normal(size=(n, 5)).astype(np.float32)) for n in (4, 7))
    weights = tf.constant(rng.normal(size=(4, 7)).astype(np.float32))

    def gradients(dists_of):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(weights * dists_of())
        return tape.gradient(value, [a, b])

    ours = gradients(tf.function(lambda: loss.cdist(a, b, "cityblock")))
    naive = gradients(lambda: tf.reduce_sum(tf.abs(a[:, None] - b[None]), -1))
    for got, expected in zip(ours, naive, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def batch():
    """embs [12, 6] and their pids [12], of two persons, as if of three replicas."""
    rng = np.random.default_rng(5)
    embs = tf.constant(rng.normal(size=(12, 6)), tf.float32)
    return embs, tf.constant(np.arange(12) // 3 % 2)


@pytest.mark.parametrize("name", common.LOSSES)
def test_a_slice_of_anchors_against_all_gives_that_slice_of_the_losses(name, batch):
    embs, pids = batch
    parts = []
    for start in (0, 4, 8):
        rows = slice(start, start + 4)
        columns = loss.Columns(pids, offset=tf.constant(start), seed=SEED, embs=embs)
        parts.append(losses_of(name, embs[rows], pids[rows], columns=columns))
    np.testing.assert_allclose(tf.concat(parts, 0), losses_of(name, embs, pids), rtol=1e-6)


@pytest.mark.parametrize("name", common.LOSSES)
def test_columns_that_are_empty_count_for_nothing(name, batch):
    embs, pids = batch

    def losses(x, there):
        count = len(there)
        columns = loss.Columns(pids[:count], 2, SEED, embs[:count], tf.constant(there))
        return losses_of(name, x, pids[2:5], columns=columns)

    some = with_gradient(lambda x: losses(x, [True] * 8), embs[2:5], np.ones(3))
    padded = with_gradient(lambda x: losses(x, [True] * 8 + [False] * 4), embs[2:5], np.ones(3))
    for got, expected in zip(padded, some, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", common.LOSSES_WITHOUT_ZEROS)
def test_a_slice_of_anchors_without_zeros(name, batch):
    embs, pids = batch
    dists, choice = loss.cdist(embs, embs), loss.Choice(name, 0.2, ignore_zero=True)
    losses, counts = loss.per_anchor(choice, embs, dists, pids)
    rows, columns = slice(3, 7), loss.Columns(pids, offset=3)
    part = loss.per_anchor(choice, embs[rows], dists[rows], pids[rows], columns)
    np.testing.assert_allclose(part, [losses[rows], counts[rows]], rtol=1e-6)


def test_monitoring_of_a_slice_of_anchors_is_that_slice_of_the_whole(batch):
    embs, pids = batch
    dists = loss.cdist(embs, embs)
    parts = []
    for offset in (0, 6):
        rows = slice(offset, offset + 6)
        columns = loss.Columns(pids, offset)
        parts.append(loss.retrieval_in_batch(dists[rows], pids[rows], 2, columns))
    whole = loss.retrieval_in_batch(dists, pids, 2)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-6)


def test_monitoring_leaves_out_the_anchor_itself_and_not_its_copies():
    # Rows 0 and 1 are one image twice: each finds the other, which by rank would pass for itself.
    embs = tf.constant([[0.0], [0.0], [5.0], [9.0], [9.5], [20.0]])
    pids = tf.constant([0, 0, 0, 1, 1, 1])
    top1, precision = loss.retrieval_in_batch(loss.cdist(embs, embs), pids, 2)
    np.testing.assert_array_equal(top1, [1, 1, 0, 1, 1, 1])  # row 2 is nearer to row 3
    np.testing.assert_array_equal(precision, [1, 1, 0, 0.5, 0.5, 1])


@pytest.mark.parametrize("name", common.LOSSES)
def test_no_tensor_of_the_loss_and_its_gradient_has_more_than_two_axes(name):
    @tf.function
    def step(embs, pids):
        with tf.GradientTape() as tape:
            tape.watch(embs)
            mean = tf.reduce_mean(losses_of(name, embs, pids))
        return tape.gradient(mean, embs)

    graph = step.get_concrete_function(tf.TensorSpec([64, 16]), tf.TensorSpec([64], tf.int32)).graph
    graph = graph.as_graph_def(add_shapes=True)
    nodes = list(graph.node)
    for function in graph.library.function:
        nodes += function.node_def
    shapes = [shape for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    assert any([dim.size for dim in shape.dim] == [64, 64] for shape in shapes)
    assert all(len(shape.dim) <= 2 and not shape.unknown_rank for shape in shapes)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_blocks_of_rows_change_nothing(metric, monkeypatch):
    rng = np.random.default_rng(9)
    a, b = (tf.constant(rng.normal(size=(n, 5)), tf.float32) for n in (11, 7))
    weights = tf.constant(rng.normal(size=(11, 7)), tf.float32)

    @tf.function
    def dists_and_gradients(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            dists = loss.cdist(a, b, metric)
            total = tf.reduce_sum(weights * dists)
        return dists, *tape.gradient(total, [a, b])

    specs = tf.TensorSpec([None, 5]), tf.TensorSpec([None, 5])
    of_unknown_shape = dists_and_gradients.get_concrete_function(*specs)(a, b)
    whole = dists_and_gradients.python_function(a, b)
    monkeypatch.setattr(loss, "_BLOCK", 4 * 7)  # blocks of 4, 4 and 3 rows
    blocks = dists_and_gradients(a, b)
    for one, other, third in zip(whole, blocks, of_unknown_shape, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(one, third, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_gradients_of_distances_by_finite_differences(metric):
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    weights = rng.normal(size=(4, 5))

    def total(a, b):
        if metric == "cosine":
            a = a / np.linalg.norm(a, axis=1, keepdims=True)
            b = b / np.linalg.norm(b, axis=1, keepdims=True)
            return (weights * (1 - a @ b.T)).sum()
        squared = ((a[:, None] - b[None]) ** 2).sum(-1)
        return (weights * (squared if metric == "sqeuclidean" else np.sqrt(squared))).sum()

    variables = [tf.Variable(x, dtype=tf.float32) for x in (a, b)]
    with tf.GradientTape() as tape:
        ours = tf.reduce_sum(tf.constant(weights, tf.float32) * loss.cdist(*variables, metric))
    assert float(ours) == pytest.approx(total(a, b), rel=1e-5)
    gradients = tape.gradient(ours, variables)
    np.testing.assert_allclose(gradients[0], numeric_gradient(lambda x: total(x, b), a), atol=1e-5)
    np.testing.assert_allclose(gradients[1], numeric_gradient(lambda x: total(a, x), b), atol=1e-5)


def test_cosine_distances():
    embs = tf.Variable([[3.0, 0.0], [0.5, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        dists = loss.cdist(embs, embs, "cosine")
        total = tf.reduce_sum(dists)
    expected = [[0, 0, 1, 2, 1], [0, 0, 1, 2, 1], [1, 1, 0, 1, 1], [2, 2, 1, 0, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_allclose(dists, expected, atol=1e-7)
    assert np.isfinite(tape.gradient(total, embs)).all()


def test_unknown_metric_lists_the_known():
    with pytest.raises(ValueError, match="euclidean, sqeuclidean, cityblock"):
        loss.cdist(tf.zeros([2, 2]), tf.zeros([2, 2]), "manhattan")


def test_the_table_has_every_loss():
    # A loss takes distances or embeddings, then pids, and gives one tensor.
    takes = {"dists": "distances", "embs": "embeddings"}
    found = {}
    for name, function in inspect.getmembers(loss, inspect.isfunction):
        first, second, *_ = inspect.signature(function).parameters
        gives_losses = inspect.signature(function).return_annotation is tf.Tensor
        if not name.startswith("_") and second == "pids" and gives_losses:
            found[name] = (function, takes[first])
    assert found == {name: (entry.function, entry.over) for name, entry in loss.LOSSES.items()}


def test_flags_offer_exactly_the_losses_and_metrics_there_are():
    assert loss.METRICS == common.METRICS
    assert tuple(loss.LOSSES) == common.LOSSES
    for name, entry in loss.LOSSES.items():
        assert (name in common.DISTANCE_LOSSES) == (entry.over == "distances")
        assert (name in common.EMBEDDING_LOSSES) == (entry.over == "embeddings")
        assert (name in common.LOSSES_WITHOUT_ZEROS) == (entry.without_zeros is not None)
        parameters = inspect.signature(entry.function).parameters.values()
        constants = {
            each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY
        }
        assert common.LOSS_CONSTANTS[name] == constants


@pytest.mark.parametrize("name", common.LOSSES)
def test_each_loss_is_one_term_unless_zeros_are_ignored(name, batch):
    embs, pids = batch
    columns = loss.Columns(pids, seed=SEED)
    dists = loss.cdist(embs, embs)
    _, counts = loss.per_anchor(loss.Choice(name), embs, dists, pids, columns)
    np.testing.assert_array_equal(counts, np.ones(len(pids)))


@pytest.mark.parametrize("name", ["lifted", "circle"])
def test_a_loss_that_cannot_ignore_zeros_says_which_can(name, batch):
    embs, pids = batch
    choice = loss.Choice(name, 0.2, ignore_zero=True)
    with pytest.raises(ValueError, match=f"for batch_hard and batch_all. Received: {name}"):
        loss.per_anchor(choice, embs, loss.cdist(embs, embs), pids)
