from types import SimpleNamespace

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf

from network import checkpoints
from network.layers import (
    Attention,
    BatchNorm,
    CameraEmbeddings,
    Chunk,
    DropPath,
    GeM,
    L2Normalize,
    calling_with,
    drawing,
    gelu,
    seen_by,
)

SHAPES = [(6, 5, 4, 3), (7, 3)]


def make(shape, **options):
    """A layer with statistics and parameters that are not the initial ones, and inputs for it."""
    rng = np.random.default_rng(0)
    layer = BatchNorm(**options)
    layer.build((None, *shape[1:]))
    for variable in layer.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return layer, rng.normal(2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_normalizes_with_the_batch_and_moves_the_statistics(shape):
    layer, x = make(shape, decay=0.8, epsilon=1e-3)
    gamma, beta, moving_mean, moving_variance = (variable.numpy() for variable in layer.weights)
    rows = x.reshape(-1, 3).astype(np.float64)
    mean, variance = rows.mean(axis=0), rows.var(axis=0)

    y = layer(x, training=True)

    np.testing.assert_allclose(
        y, (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(layer.moving_mean, 0.8 * moving_mean + 0.2 * mean, rtol=1e-6)
    unbiased = variance * len(rows) / (len(rows) - 1)
    np.testing.assert_allclose(
        layer.moving_variance, 0.8 * moving_variance + 0.2 * unbiased, rtol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_inference_normalizes_with_the_running_statistics_and_leaves_them(shape):
    layer, x = make(shape)
    before = gamma, beta, mean, variance = [variable.numpy() for variable in layer.weights]
    np.testing.assert_allclose(
        layer(x, training=False),
        (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta,
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    for variable, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_formula(shape, training):
    layer, x = make(shape)
    weights = tf.constant(np.random.default_rng(1).normal(size=shape).astype(np.float32))

    def formula(x):
        axes = list(range(len(shape) - 1))
        mean, variance = (
            tf.nn.moments(x, axes)
            if training
            else (layer.moving_mean.value, layer.moving_variance.value)
        )
        return tf.nn.batch_normalization(
            x, mean, variance, layer.beta.value, layer.gamma.value, 1e-5
        )

    gradients = []
    moving = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
    for function in (lambda x: layer(x, training=training), formula):
        layer.moving_mean.assign(moving[0])
        layer.moving_variance.assign(moving[1])
        with tf.GradientTape() as tape:
            inputs = tf.Variable(x)
            total = tf.reduce_sum(function(inputs) * weights)
        gradients.append(tape.gradient(total, [inputs, layer.gamma.value, layer.beta.value]))
    for ours, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_statistics_move_inside_a_graph_that_is_traced_once():
    layer, x = make((6, 5, 4, 3))
    eager, _ = make((6, 5, 4, 3))
    step = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, None, None, 3])]
    )
    for factor in (1, 2, 3):
        np.testing.assert_allclose(
            step(x[factor:] * factor), eager(x[factor:] * factor, training=True), rtol=1e-5
        )
    assert step.experimental_get_tracing_count() == 1
    np.testing.assert_allclose(layer.moving_variance, eager.moving_variance, rtol=1e-6)


def test_chunks_move_the_statistics_once_towards_their_mean():
    layer, x = make((12, 5), decay=0.7)
    gamma, beta, mean, variance = (variable.numpy() for variable in layer.weights)
    chunks = np.split(x, 3)
    for moves in (False, True):
        for index, chunk in enumerate(chunks):
            with calling_with(Chunk(tf.constant(index), 3, moves)):
                got = layer(chunk, training=True)
            normalized = (chunk - chunk.mean(0)) / np.sqrt(chunk.var(0) + layer.epsilon)
            np.testing.assert_allclose(got, normalized * gamma + beta, rtol=1e-4, atol=1e-4)
        if moves:
            mean = 0.7 * mean + 0.3 * np.mean([chunk.mean(0) for chunk in chunks], axis=0)
            variances = [chunk.var(0, ddof=1) for chunk in chunks]
            variance = 0.7 * variance + 0.3 * np.mean(variances, axis=0)
        np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (6, 5, 4, 16)])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_parameters_and_statistics_in_float32(shape, policy):
    half, x = make(shape, dtype=policy)
    full, _ = make(shape)
    for training in (True, False):
        y, expected = half(x, training=training), full(x, training=training)
        assert y.dtype == policy.removeprefix("mixed_")
        np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=2**-7, atol=0.05)
    for variable, other in zip(half.weights, full.weights, strict=True):
        assert variable.dtype == "float32"
        np.testing.assert_allclose(variable, other, rtol=0.01)


def test_weights_have_their_names_and_initial_values():
    layer = BatchNorm()
    layer.build((None, 4))
    assert [(w.name, w.trainable, w.numpy().tolist()) for w in layer.weights] == [
        ("gamma", True, [1] * 4),
        ("beta", True, [0] * 4),
        ("moving_mean", False, [0] * 4),
        ("moving_variance", False, [1] * 4),
    ]


def test_output_spec_and_config():
    layer = BatchNorm(decay=0.5, epsilon=0.25, name="a.BatchNorm")
    again = BatchNorm.from_config(layer.get_config())
    assert (again.decay, again.epsilon, again.name) == (0.5, 0.25, "a.BatchNorm")
    y = again(keras.KerasTensor((None, None, 7, 3)))
    assert y.shape == (None, None, 7, 3)


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"epsilon": 0.0}])
def test_wrong_options_are_told(options):
    with pytest.raises(ValueError, match="should be .* Received"):
        BatchNorm(**options)


def test_wrong_rank_is_told():
    with pytest.raises(ValueError, match="Received"):
        BatchNorm().build((None, 5, 3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_without_center_it_is_as_with_a_beta_of_0(shape, training):
    (without, x), (centered, _) = make(shape, center=False), make(shape)
    assert [weight.name for weight in without.weights] == [
        "gamma",
        "moving_mean",
        "moving_variance",
    ]
    centered.beta.assign(np.zeros(3))
    for ours, theirs in (
        (without.gamma, centered.gamma),
        (without.moving_mean, centered.moving_mean),
    ):
        ours.assign(theirs)
    without.moving_variance.assign(centered.moving_variance)
    np.testing.assert_array_equal(without(x, training=training), centered(x, training=training))
    assert BatchNorm.from_config(without.get_config()).center is False


# ------------------------------------------------------------------------- pooling


def pooled(x, p):
    return np.mean(np.maximum(x, 1e-6).astype(np.float64) ** p, axis=(1, 2)) ** (1 / p)


def gem(p=3.0, **options):
    layer = GeM(dtype="float32", **options)
    layer.build((None, None, None, 3))
    layer.p.assign(p)
    return layer


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 6.5])
def test_generalized_mean_is_that_of_the_formula(p):
    x = np.random.default_rng(0).normal(1, 2, (4, 5, 6, 3)).astype(np.float32)  # some below 0
    np.testing.assert_allclose(gem(p)(x), pooled(x, p), rtol=1e-5)


def test_generalized_mean_lies_between_mean_and_maximum():
    x = np.random.default_rng(0).uniform(0, 9, (4, 5, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(gem(1.0)(x), x.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(gem(40.0)(x), x.max(axis=(1, 2)), rtol=0.1)
    layer = GeM(dtype="float32")
    np.testing.assert_allclose(layer(x), pooled(x, 3), rtol=1e-5)
    assert [(weight.name, weight.trainable, weight.dtype) for weight in layer.weights] == [
        ("p", True, "float32")
    ]


@pytest.mark.parametrize("p", [2.5, 12.0])
def test_gradients_of_the_generalized_mean_are_those_of_finite_differences(p):
    x = np.random.default_rng(0).uniform(0.5, 4, (2, 3, 2, 3)).astype(np.float32)
    layer, inputs = gem(p), tf.Variable(x)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(inputs))
    of_x, of_p = tape.gradient(total, [inputs, layer.p.value])
    slope = (pooled(x, p + 1e-4).sum() - pooled(x, p - 1e-4).sum()) / 2e-4
    np.testing.assert_allclose(of_p, slope, rtol=1e-4)
    above, below = x.astype(np.float64), x.astype(np.float64)
    above[1, 2, 0, 1] += 1e-4
    below[1, 2, 0, 1] -= 1e-4
    slope = (pooled(above, p).sum() - pooled(below, p).sum()) / 2e-4
    np.testing.assert_allclose(of_x[1, 2, 0, 1], slope, rtol=1e-4)


@pytest.mark.parametrize("p", [3.0, 6.5, 40.0])
def test_an_empty_map_has_finite_gradients(p):
    x = np.zeros((2, 3, 2, 3), np.float32)
    x[0, :, :, 1] = 5  # only some channels are empty, as after a ReLU
    layer, inputs = gem(p), tf.Variable(x)
    with tf.GradientTape() as tape:
        y = layer(inputs)
    np.testing.assert_allclose(y, [[1e-6, 5, 1e-6], [1e-6] * 3], rtol=1e-4)
    for gradient in tape.gradient(y, [inputs, layer.p.value]):
        assert np.isfinite(gradient).all()


def test_rows_get_length_one_and_zero_stays_zero():
    x = np.array([[3, 4], [0, 0], [-1e-3, 0]], np.float32)
    np.testing.assert_allclose(L2Normalize()(x), [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)


# ------------------------------------------------------------------------- stochastic depth


def factors(layer, count=24, iteration=7, seed=3):
    """What a layer multiplies each image of a batch by."""
    with drawing(seed, tf.constant(iteration, tf.int64)):
        y = layer(tf.ones([count, 2, 3]), training=True).numpy()
    assert (y == y[:, :1, :1]).all()
    return y[:, 0, 0]


def test_drop_path_keeps_an_image_or_drops_it_and_keeps_the_mean():
    found = factors(DropPath(0.2, 0), count=10_000)
    values, counts = np.unique(found, return_counts=True)
    np.testing.assert_allclose(values, [0, 1 / 0.8])
    assert abs(counts[0] / 10_000 - 0.2) < 0.02  # five standard deviations
    x = tf.ones([4, 2, 3])
    assert DropPath(0.2, 0)(x, training=False) is x


def test_drop_path_draws_by_seed_iteration_and_layer():
    first = factors(DropPath(0.5, 0))
    np.testing.assert_array_equal(factors(DropPath(0.5, 0)), first)
    for other in (
        factors(DropPath(0.5, 1)),
        factors(DropPath(0.5, 0), iteration=8),
        factors(DropPath(0.5, 0), seed=2**63 - 1),
    ):
        assert (other != first).any()
    with pytest.raises(RuntimeError, match=r"see layers\.drawing"):
        DropPath(0.5, 0)(tf.ones([4, 2]), training=True)


@pytest.mark.parametrize("replicas, chunks", [(1, 3), (2, 1), (2, 3)])
def test_replicas_and_chunks_draw_what_one_device_draws(replicas, chunks, monkeypatch):
    layer = DropPath(0.5, 4)
    parts = []
    for replica in range(replicas):
        context = SimpleNamespace(replica_id_in_sync_group=replica, num_replicas_in_sync=replicas)
        with monkeypatch.context() as patch:
            patch.setattr(tf.distribute, "get_replica_context", lambda context=context: context)
            for index in range(chunks):
                with calling_with(Chunk(tf.constant(index), chunks, moves=False)):
                    parts.append(factors(layer, count=24 // replicas // chunks))
    np.testing.assert_array_equal(np.concatenate(parts), factors(layer))


# ------------------------------------------------------------------------- attention


def test_attention_mixes_values_by_how_well_keys_fit_the_query():
    x = np.random.default_rng(0).normal(size=(2, 5, 3 * 8)).astype(np.float32)
    layer = Attention(2)
    expected = np.zeros((2, 5, 8))
    for image, token, head in np.ndindex(2, 5, 2):
        query, keys, values = [
            x[image][:, part * 8 + head * 4 : part * 8 + head * 4 + 4].astype(np.float64)
            for part in range(3)
        ]
        scores = np.exp(keys @ query[token] / 2)  # 2 is the root of the 4 numbers of a head
        mixed = scores / scores.sum() @ values
        expected[image, token, head * 4 : head * 4 + 4] = mixed
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert layer(keras.KerasTensor((None, 5, 24))).shape == (None, 5, 8)


def test_gelu_is_that_of_tensorflow():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(gelu(x), tf.nn.gelu(x), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------- cameras


def test_tokens_are_moved_by_the_vector_of_their_camera():
    rng = np.random.default_rng(0)
    tokens, weights = (tf.constant(rng.normal(size=(4, 5, 8)), tf.float32) for _ in range(2))
    layer = CameraEmbeddings(3, 2.5)
    of_none = layer(tokens)
    vectors = rng.normal(size=(3, 8)).astype(np.float32)
    assert 0.01 < np.std(layer.embeddings) < 0.03
    layer.embeddings.assign(vectors)
    with seen_by(tf.constant([2, -1, 0, 2])), tf.GradientTape() as tape:
        got = layer(tokens)
        total = tf.reduce_sum(got * weights)
    mean = vectors.mean(axis=0)
    offsets = 2.5 * np.stack([vectors[2], mean, vectors[0], vectors[2]])[:, None]
    np.testing.assert_allclose(got - tokens, np.broadcast_to(offsets, got.shape), atol=1e-5)
    np.testing.assert_allclose(layer(tokens), tokens + 2.5 * mean, atol=1e-6)
    assert of_none.shape == tokens.shape

    of_image = 2.5 * weights.numpy().sum(axis=1)  # what each image asks of its vector
    expected = np.stack([of_image[2], np.zeros(8), of_image[0] + of_image[3]]) + of_image[1] / 3
    gradient = tape.gradient(total, layer.embeddings.value)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 3.0])
def test_a_net_whose_cameras_add_nothing_is_the_net_without(factor):
    plain, told = (
        replicas.build_tiny((24, 16, 3), cameras=cameras) for cameras in (None, (2, factor))
    )
    variables = checkpoints.named_variables(told)
    for name, variable in checkpoints.named_variables(plain).items():
        variables[name].assign(variable)
    if factor:
        variables["vit/sie/camera_embeddings"].assign(np.zeros((2, 64)))
    images = np.random.default_rng(0).uniform(0, 255, (2, 24, 16, 3)).astype(np.float32)
    with seen_by(tf.constant([1, 0])):
        np.testing.assert_array_equal(told(images), plain(images))
