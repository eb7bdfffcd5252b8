import keras
import numpy as np
import pytest
import tensorflow as tf

from network import checkpoints, model
from training import companions
from training.adam import Adam

LABELS = np.array([2, 0, 2, 1, 2])


def cross_entropy(logits, labels, smoothing):
    """One by one, in float64."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        shares = np.exp(row) / np.exp(row).sum()
        wanted = [
            smoothing / len(row) + (1 - smoothing) * (pid == label) for pid in range(len(row))
        ]
        losses.append(-sum(q * np.log(p) for q, p in zip(wanted, shares, strict=True)))
    return np.array(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_id_losses_and_their_gradient(smoothing):
    rng = np.random.default_rng(0)
    logits = tf.Variable(rng.normal(size=(5, 4)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        losses = companions.id_losses(logits, LABELS, smoothing)
        total = tf.reduce_sum(losses)
    exact = logits.numpy().astype(np.float64)
    np.testing.assert_allclose(losses, cross_entropy(exact, LABELS, smoothing), rtol=1e-5)
    gradient = tape.gradient(total, logits).numpy()
    for index in np.ndindex(exact.shape):
        step = np.zeros_like(exact)
        step[index] = 1e-5
        up, down = (cross_entropy(exact + sign * step, LABELS, smoothing).sum() for sign in (1, -1))
        assert gradient[index] == pytest.approx((up - down) / 2e-5, abs=1e-5)


def test_id_losses_of_extreme_logits_are_finite():
    logits = tf.constant([[1000.0, -1000.0], [-1000.0, 1000.0]])
    np.testing.assert_allclose(
        companions.id_losses(logits, [0, 0], 0.1), [100.0, 1900.0], rtol=1e-6
    )


def test_a_fresh_classifier_knows_nobody():
    layer = companions.classifier(50)
    logits = layer(tf.random.stateless_normal([8, 16], [1, 2]))
    assert logits.dtype == tf.float32 and layer.bias is None
    assert float(tf.math.reduce_std(layer.kernel)) == pytest.approx(0.001, rel=0.2)
    np.testing.assert_allclose(companions.id_losses(logits, np.arange(8)), np.log(50), rtol=0.01)


def test_centers_draw_embeddings_and_are_moved_by_them():
    rng = np.random.default_rng(1)
    layer, before = companions.Centers(4, alpha=0.5), rng.normal(size=(4, 3)).astype(np.float32)
    layer.build((None, 3))
    np.testing.assert_array_equal(layer.centers, np.zeros((4, 3)))
    layer.centers.assign(before)
    embs = tf.Variable(rng.normal(size=(5, 3)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        losses = layer(embs, LABELS)
        total = tf.reduce_sum(losses)
    np.testing.assert_allclose(losses, ((embs.numpy() - before[LABELS]) ** 2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(total, embs), 2 * (embs.numpy() - before[LABELS]), rtol=1e-5
    )
    assert layer.trainable_variables == []

    expected = before.copy()
    for pid in range(4):
        mine = [emb for emb, label in zip(embs.numpy(), LABELS, strict=True) if label == pid]
        expected[pid] -= (
            0.5 * sum((before[pid] - emb for emb in mine), np.zeros(3)) / (1 + len(mine))
        )
    tf.function(layer.move)(embs, LABELS)
    np.testing.assert_allclose(layer.centers, expected, rtol=1e-5)
    np.testing.assert_array_equal(layer.centers[3], before[3])  # nobody of the batch


def test_centers_come_to_rest_at_the_mean_of_their_embeddings():
    layer, embs = companions.Centers(2), np.array([[1.0, 5.0], [3.0, 5.0], [-4.0, 0.0]], np.float32)
    layer.build((None, 2))
    for _ in range(60):
        layer.move(embs, [0, 0, 1])
    np.testing.assert_allclose(layer.centers, [[2, 5], [-4, 0]], atol=1e-5)


def test_a_checkpoint_holds_them_and_their_optimizer_state_beside_the_network(tmp_path):
    def make(seed):
        keras.utils.set_random_seed(seed)
        network = model.build("lunet_narrow", "direct", 4, (24, 16, 3))
        classifier, centers = companions.classifier(3), companions.Centers(3)
        for layer in (classifier, centers):
            layer.build((None, 4))
        optimizer = Adam(0.1)
        optimizer.build(network.trainable_variables + classifier.trainable_variables)
        return (
            network,
            classifier,
            centers,
            checkpoints.named_variables([network, classifier, centers], optimizer),
        )

    network, classifier, centers, state = make(1)
    ours = {
        "classifier/weights",
        "classifier/weights/Adam",
        "classifier/weights/Adam_1",
        "centers/centers",
    }
    assert {name for name in state if name.startswith(("classifier", "centers"))} == ours
    assert checkpoints.named_variables(network).keys() < state.keys() - ours
    centers.move(np.ones((2, 4), np.float32), [0, 2])
    path = checkpoints.save(tmp_path, 0, state)

    other_network, other_classifier, other_centers, other = make(2)
    assert np.any(other_classifier.kernel.numpy() != classifier.kernel.numpy())
    checkpoints.restore(path, other)
    np.testing.assert_array_equal(other_classifier.kernel, classifier.kernel)
    np.testing.assert_array_equal(other_centers.centers, centers.centers)
    checkpoints.restore(path, checkpoints.named_variables(other_network))  # as embed.py does
