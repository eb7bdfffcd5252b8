import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import GOLDEN

from experiment.flags import Settings
from experiment.id_losses import ID_LOSSES
from network import checkpoints, model
from training import companions
from training.adam import Adam

LABELS = np.array([2, 0, 2, 1, 2])
# Of pytorch-metric-learning 2.9; see golden/metric_learning.py.
THEIRS = np.load(GOLDEN / "metric_learning.npz")


def build(images, **flags):
    """The companions of a training with as many images of each pid, on embeddings [B, 4]."""
    flags = {"embedding_dim": 4, "id_loss_weight": 1.0} | flags
    return companions.build(np.asarray(images), Settings(experiment_root="exp", **flags))


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
        losses = companions.cross_entropy(logits, LABELS, smoothing)
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
        companions.cross_entropy(logits, [0, 0], 0.1), [100.0, 1900.0], rtol=1e-6
    )


def test_a_fresh_classifier_knows_nobody():
    layer = companions.classifier(50)
    logits = layer(tf.random.stateless_normal([8, 16], [1, 2]))
    assert logits.dtype == tf.float32 and layer.bias is None
    assert float(tf.math.reduce_std(layer.kernel)) == pytest.approx(0.001, rel=0.2)
    np.testing.assert_allclose(
        companions.cross_entropy(logits, np.arange(8)), np.log(50), rtol=0.01
    )


# ------------------------------------------------------------------------- with a margin


def cosines_of(embs, centers, count):
    """float64 [B, N]: the largest of each pid's cosines."""
    embs = embs / np.linalg.norm(embs, axis=1, keepdims=True)
    centers = centers / np.linalg.norm(centers, axis=0)
    return (embs @ centers).reshape(len(embs), count, -1).max(axis=2)


def with_margin(name, cosines, labels, margins, weights):
    """The logits before they are scaled, one by one. weights: cosines that give circle's weights."""
    logits = cosines.copy()
    for row, label in enumerate(labels):
        own, m = cosines[row, label], margins[row]
        if name == "circle":
            logits[row] = np.maximum(0, weights[row] + m) * (cosines[row] - m)
            logits[row, label] = max(0, 1 + m - weights[row, label]) * (own - (1 - m))
        elif name == "cosface":
            logits[row, label] = own - m
        else:
            angle = math.acos(own)
            beyond = angle + m > math.pi
            logits[row, label] = own - m * math.sin(m) if beyond else math.cos(angle + m)
    return logits


def numeric_gradient(function, x, step=1e-6):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        gradient[index] = (function(x + moved) - function(x - moved)) / (2 * step)
    return gradient


def losses_and_gradients(made, embs, labels):
    """Losses [B], and the gradients of their mean by embeddings and by centers."""
    embs = tf.Variable(embs, dtype=tf.float32)
    with tf.GradientTape() as tape:
        losses = made.id_loss.losses(made.classifier(embs), labels)
        mean = tf.reduce_mean(losses)
    by_embs, by_centers = tape.gradient(mean, [embs, made.classifier.kernel.value])
    return losses.numpy(), by_embs.numpy(), by_centers.numpy()


@pytest.mark.parametrize("smoothing", [None, 0.2])
@pytest.mark.parametrize("centers", [1, 3])
@pytest.mark.parametrize("name", companions.WITH_MARGIN)
def test_losses_with_a_margin_one_by_one_and_by_finite_differences(name, centers, smoothing):
    rng = np.random.default_rng(2)
    images = [5, 40, 1]
    flags = {} if name == "circle" else {"id_margin_by_count": "0.4,0.5,0.1"}
    made = build(
        images, id_loss=name, id_scale=6.0, id_centers=centers, label_smoothing=smoothing, **flags
    )
    margins = [0.25] * 3 if name == "circle" else 0.4 / np.sqrt(images) + 0.1
    margins = np.take(margins, LABELS)
    embs, kernel = rng.normal(size=(5, 4)), rng.normal(size=(4, 3 * centers))
    embs[1] = -2 * kernel[:, 0] if centers == 1 else embs[1]  # θ = π
    embs[1] += 0.01 * rng.normal(size=4)
    made.classifier.kernel.assign(kernel)
    frozen = cosines_of(embs, kernel, 3)

    def reference(embs, kernel):
        cosines = cosines_of(embs, kernel, 3)
        logits = 6 * with_margin(name, cosines, LABELS, margins, frozen)
        return cross_entropy(logits, LABELS, smoothing or 0)

    losses, by_embs, by_centers = losses_and_gradients(made, embs, LABELS)
    np.testing.assert_allclose(losses, reference(embs, kernel), rtol=1e-5)
    numeric = numeric_gradient(lambda x: reference(x, kernel).mean(), embs)
    np.testing.assert_allclose(by_embs, numeric, rtol=1e-3, atol=1e-5)
    numeric = numeric_gradient(lambda x: reference(embs, x).mean(), kernel)
    np.testing.assert_allclose(by_centers, numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "theirs, flags",
    [
        ("cosface", {"id_loss": "cosface"}),
        ("arcface", {"id_loss": "arcface"}),
        ("sub_centers", {"id_loss": "arcface", "id_centers": 3}),
    ],
)
def test_losses_with_a_margin_are_those_of_pytorch_metric_learning(theirs, flags):
    made = build([1] * 6, embedding_dim=8, **flags)
    made.classifier.kernel.assign(THEIRS["weights" if theirs != "sub_centers" else "sub_weights"])
    losses, by_embs, by_centers = losses_and_gradients(made, THEIRS["embs"], THEIRS["pids"])
    assert losses.mean() == pytest.approx(THEIRS[f"{theirs}/loss"], rel=1e-6)
    np.testing.assert_allclose(by_embs, THEIRS[f"{theirs}/by_embs"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_centers, THEIRS[f"{theirs}/by_weights"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [30.0, 1e4])
@pytest.mark.parametrize("name", companions.WITH_MARGIN)
def test_losses_with_a_margin_are_finite_wherever_embeddings_are(name, scale):
    made = build([9] * 3, id_loss=name, id_scale=scale)
    kernel = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    made.classifier.kernel.assign(0.7 * kernel)
    # On their centers, opposite to them (θ = 0 and π), at right angles, at 0; short and long.
    embs = np.stack([*kernel.T, *-kernel.T, [0, 0, 0, 1], np.zeros(4)]).astype(np.float32)
    for length in (1e-4, 1.0, 1e4):
        losses, *gradients = losses_and_gradients(made, length * embs, [0, 1, 2, 0, 1, 2, 0, 0])
        assert np.isfinite(losses).all() and (losses >= 0).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert np.abs(gradients[0][:-1]).max() < scale / length
    made.classifier.kernel.assign(np.zeros((4, 3)))
    for found in losses_and_gradients(made, embs, [0] * 8):
        assert np.isfinite(found).all()
    equal = np.full((8, 4), 3.0)
    for found in losses_and_gradients(build([8] * 3, id_loss=name), equal, [1] * 8):
        assert np.isfinite(found).all()


def test_one_pid_has_no_loss_whatever_the_margin():
    for name in ["softmax", *companions.WITH_MARGIN]:
        losses, by_embs, _ = losses_and_gradients(build([4], id_loss=name), np.eye(4), [0] * 4)
        np.testing.assert_allclose(losses, 0, atol=1e-5)
        np.testing.assert_allclose(by_embs, 0, atol=1e-5)


# ------------------------------------------------------------------------- proxies


def proxy_anchor(embs, proxies, labels, alpha, delta):
    """Pair by pair, in float64."""
    cosines = cosines_of(embs, proxies, proxies.shape[1])
    present, total = sorted(set(labels)), 0.0
    for pid, of_pid in enumerate(cosines.T):
        pulled = [
            np.exp(-alpha * (c - delta)) for c, p in zip(of_pid, labels, strict=True) if p == pid
        ]
        pushed = [
            np.exp(alpha * (c + delta)) for c, p in zip(of_pid, labels, strict=True) if p != pid
        ]
        total += np.log(1 + sum(pulled)) / len(present) + np.log(1 + sum(pushed)) / cosines.shape[1]
    return total


def proxy_loss(made, embs, labels):
    """The loss of a batch, and its gradients by embeddings and by proxies."""
    embs = tf.Variable(embs, dtype=tf.float32)
    with tf.GradientTape() as tape:
        mean = made.id_loss.mean(made.classifier(embs), labels)
    by_embs, by_proxies = tape.gradient(mean, [embs, made.classifier.kernel.value])
    return float(mean), by_embs.numpy(), by_proxies.numpy()


@pytest.mark.parametrize("flags", [{}, {"id_scale": 4.0, "id_margin": 0.3}])
@pytest.mark.parametrize("labels", [LABELS, [1] * 5], ids=["several pids", "one pid"])
def test_proxy_anchor_pair_by_pair_and_by_finite_differences(labels, flags):
    rng = np.random.default_rng(4)
    made = build([1] * 4, id_loss="proxy_anchor", **flags)
    embs, proxies = rng.normal(size=(5, 4)), rng.normal(size=(4, 4))
    made.classifier.kernel.assign(proxies)
    constants = flags.get("id_scale", 32.0), flags.get("id_margin", 0.1)
    mean, by_embs, by_proxies = proxy_loss(made, embs, labels)
    assert mean == pytest.approx(proxy_anchor(embs, proxies, labels, *constants), rel=1e-5)
    numeric = numeric_gradient(lambda x: proxy_anchor(x, proxies, labels, *constants), embs)
    np.testing.assert_allclose(by_embs, numeric, rtol=1e-3, atol=1e-4)
    numeric = numeric_gradient(lambda x: proxy_anchor(embs, x, labels, *constants), proxies)
    np.testing.assert_allclose(by_proxies, numeric, rtol=1e-3, atol=1e-4)


def test_proxy_anchor_is_that_of_pytorch_metric_learning():
    made = build([1] * 6, embedding_dim=8, id_loss="proxy_anchor")
    made.classifier.kernel.assign(THEIRS["weights"])
    mean, by_embs, by_proxies = proxy_loss(made, THEIRS["embs"], THEIRS["pids"])
    assert mean == pytest.approx(THEIRS["proxy_anchor/loss"], rel=1e-6)
    np.testing.assert_allclose(by_embs, THEIRS["proxy_anchor/by_embs"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        by_proxies, THEIRS["proxy_anchor/by_weights"].T, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("scale", [32.0, 1e4])
@pytest.mark.parametrize("count", [1, 3])
def test_proxy_anchor_is_finite_wherever_embeddings_are(count, scale):
    keras.utils.set_random_seed(0)
    made = build([1] * count, id_loss="proxy_anchor", id_scale=scale)
    assert float(tf.math.reduce_std(made.classifier.kernel)) < 2
    made.classifier.kernel.assign(np.eye(4)[:, :count])
    for embs in (np.eye(4), -np.eye(4), np.ones((4, 4)), np.zeros((4, 4))):
        for found in proxy_loss(made, embs, [0, 0, count - 1, count - 1]):
            assert np.isfinite(found).all()


# ------------------------------------------------------------------------- all with cosines


def test_cosines_are_computed_in_float32_of_embeddings_in_16_bits():
    made = build([1, 1, 1], id_loss="arcface")
    embs = tf.cast(np.random.default_rng(3).normal(size=(5, 4)), tf.bfloat16)
    scores = made.classifier(embs)
    assert scores.dtype == tf.float32
    assert made.id_loss.losses(scores, LABELS).dtype == tf.float32
    expected = cosines_of(tf.cast(embs, tf.float64).numpy(), made.classifier.kernel.numpy(), 3)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_each_loss_has_the_constants_of_its_paper_unless_others_are_given():
    for name, own in ID_LOSSES.items():
        id_loss = build([3, 7], id_loss=name).id_loss
        assert id_loss.name == name and id_loss.scale == (own.scale or 1)
        np.testing.assert_allclose(id_loss.margins, own.margin or 0)
        assert id_loss.smoothing == (own.smoothing or 0)
    given = build([3, 7], id_loss="circle", id_scale=9.0, id_margin=0.0, label_smoothing=0.3)
    assert given.id_loss.scale == 9 and given.id_loss.smoothing == 0.3
    np.testing.assert_array_equal(given.id_loss.margins, 0)
    given = build([1, 16, 81], id_loss="arcface", id_margin_by_count="0.5,0.25,0.05").id_loss
    np.testing.assert_allclose(given.margins, [0.55, 0.3, 0.5 / 3 + 0.05], rtol=1e-6)


def test_a_checkpoint_holds_the_centers_of_the_pids_by_the_name_of_the_classifier():
    layer = build([1] * 5, id_loss="cosface", id_centers=2).classifier
    names = checkpoints.named_variables([layer])
    assert {name: variable.shape for name, variable in names.items()} == {
        "classifier/weights": (4, 10)
    }


# ------------------------------------------------------------------------- the center loss


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
