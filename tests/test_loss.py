from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import common
import loss

GOLDEN = np.load(Path(__file__).parent / "golden" / "loss_golden.npz")
CASES = ("c0", "c1", "c2", "c3")
MARGINS = ("soft", "none", 0.2, 1.0)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", common.METRICS)
@pytest.mark.parametrize("case", CASES)
def test_distances_are_the_originals(case, metric):
    embs = GOLDEN[f"{case}/embs"]
    close(loss.cdist(embs, embs, metric), GOLDEN[f"{case}/{metric}/dists"])


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("metric", common.METRICS)
@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_monitoring_are_the_originals(case, metric, margin):
    embs, pids = tf.constant(GOLDEN[f"{case}/embs"]), tf.constant(GOLDEN[f"{case}/pids"])
    golden = {name: GOLDEN[f"{case}/{metric}/{margin}/{name}"] for name in ("losses", "grad", "top1", "prec_at_k")}
    with tf.GradientTape() as tape:
        tape.watch(embs)
        dists = loss.cdist(embs, embs, metric)
        losses = loss.batch_hard(dists, pids, margin)
        mean = tf.reduce_mean(losses)
    close(losses, golden["losses"])
    close(tape.gradient(mean, embs), golden["grad"])
    top1, precision = loss.retrieval_in_batch(dists, pids, int(GOLDEN[f"{case}/K"]) - 1)
    close(tf.reduce_mean(top1), golden["top1"])
    close(tf.reduce_mean(precision), golden["prec_at_k"])


def brute_force_batch_hard(embs, pids, margin):
    """Every triplet, one by one, in float64."""
    losses = []
    for a, (anchor, pid) in enumerate(zip(embs, pids, strict=True)):
        dist = [np.sqrt(((anchor - other) ** 2).sum() + 1e-12) for other in embs]
        positives = [dist[i] for i, other in enumerate(pids) if other == pid and i != a]
        negatives = [dist[i] for i, other in enumerate(pids) if other != pid]
        x = max(positives, default=0.0) - min(negatives, default=np.inf)
        losses.append({"soft": np.log1p(np.exp(x)), "none": x}.get(margin, np.maximum(0, x + 0.3)))
    return np.array(losses)


@pytest.mark.parametrize("margin", ["soft", "none", 0.3])
def test_batch_hard_over_every_triplet(margin):
    rng = np.random.default_rng(1)
    embs, pids = rng.normal(size=(9, 4)), np.array([0, 0, 1, 1, 1, 2, 3, 3, 0])
    got = loss.batch_hard(loss.cdist(embs, embs), tf.constant(pids), margin)
    np.testing.assert_allclose(got, brute_force_batch_hard(embs, pids, margin), rtol=1e-5, atol=1e-6)


def test_gradient_by_finite_differences():
    rng = np.random.default_rng(2)
    embs, pids = rng.normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 2])
    variable = tf.Variable(embs, dtype=tf.float32)
    with tf.GradientTape() as tape:
        mean = tf.reduce_mean(loss.batch_hard(loss.cdist(variable, variable), tf.constant(pids), "soft"))
    gradient = tape.gradient(mean, variable).numpy()
    for index in np.ndindex(embs.shape):
        step = np.zeros_like(embs)
        step[index] = 1e-5
        up, down = (brute_force_batch_hard(embs + sign * step, pids, "soft").mean() for sign in (1, -1))
        assert gradient[index] == pytest.approx((up - down) / 2e-5, abs=1e-5)


def test_an_anchor_without_positive_or_without_negative():
    embs = tf.constant([[0.0], [3.0], [4.0]])
    alone = loss.batch_hard(loss.cdist(embs, embs), tf.constant([0, 1, 1]), "none")
    np.testing.assert_allclose(alone[0], 0 - 3, atol=1e-5)
    same = loss.batch_hard(loss.cdist(embs, embs), tf.constant([5, 5, 5]), 0.2)
    np.testing.assert_array_equal(same, [0, 0, 0])
    assert np.isneginf(loss.batch_hard(loss.cdist(embs, embs), tf.constant([5, 5, 5]), "none")).all()


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


def test_a_slice_of_anchors_against_all_gives_that_slice_of_the_losses():
    rng = np.random.default_rng(5)
    embs, pids = tf.constant(rng.normal(size=(12, 6)), tf.float32), tf.constant(np.arange(12) // 3 % 2)
    whole = loss.batch_hard(loss.cdist(embs, embs), pids, "soft")
    top1, precision = loss.retrieval_in_batch(loss.cdist(embs, embs), pids, 2)
    parts, found = [], []
    for offset in (0, 6):
        part = slice(offset, offset + 6)
        dists = loss.cdist(embs[part], embs)
        parts.append(loss.batch_hard(dists, pids[part], "soft", column_pids=pids, offset=offset))
        found.append(loss.retrieval_in_batch(dists, pids[part], 2, column_pids=pids, offset=offset))
    np.testing.assert_allclose(tf.concat(parts, 0), whole, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(found, axis=1), [top1, precision], rtol=1e-6)


def test_monitoring_leaves_out_the_anchor_itself_and_not_its_copies():
    # Rows 0 and 1 are one image twice: each finds the other, which by rank would pass for itself.
    embs = tf.constant([[0.0], [0.0], [5.0], [9.0], [9.5], [20.0]])
    top1, precision = loss.retrieval_in_batch(loss.cdist(embs, embs), tf.constant([0, 0, 0, 1, 1, 1]), 2)
    np.testing.assert_array_equal(top1, [1, 1, 0, 1, 1, 1])  # row 2 is nearer to row 3
    np.testing.assert_array_equal(precision, [1, 1, 0, 0.5, 0.5, 1])


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_no_tensor_of_the_loss_and_its_gradient_has_more_than_two_axes(metric):
    @tf.function
    def step(embs, pids):
        with tf.GradientTape() as tape:
            tape.watch(embs)
            mean = tf.reduce_mean(loss.batch_hard(loss.cdist(embs, embs, metric), pids, "soft"))
        return tape.gradient(mean, embs)

    graph = step.get_concrete_function(tf.TensorSpec([64, 16]), tf.TensorSpec([64], tf.int32)).graph
    outputs = [output for operation in graph.get_operations() for output in operation.outputs]
    assert outputs and all(output.shape.rank <= 2 for output in outputs)


def test_unknown_metric_lists_the_known():
    with pytest.raises(ValueError, match="euclidean, sqeuclidean, cityblock"):
        loss.cdist(tf.zeros([2, 2]), tf.zeros([2, 2]), "cosine")


def test_flags_offer_exactly_the_losses_there_are():
    assert tuple(loss.LOSS_CHOICES) == common.LOSSES
