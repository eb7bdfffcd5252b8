import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import BatchNorm, L2Normalize

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
def test_training_normalises_with_the_batch_and_moves_the_statistics(shape):
    layer, x = make(shape, decay=0.8, epsilon=1e-3)
    gamma, beta, moving_mean, moving_variance = (variable.numpy() for variable in layer.weights)
    rows = x.reshape(-1, 3).astype(np.float64)
    mean, variance = rows.mean(axis=0), rows.var(axis=0)

    y = layer(x, training=True)

    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.8 * moving_mean + 0.2 * mean, rtol=1e-6)
    unbiased = variance * len(rows) / (len(rows) - 1)
    np.testing.assert_allclose(layer.moving_variance, 0.8 * moving_variance + 0.2 * unbiased, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_inference_normalises_with_the_running_statistics_and_leaves_them(shape):
    layer, x = make(shape)
    before = gamma, beta, mean, variance = [variable.numpy() for variable in layer.weights]
    np.testing.assert_allclose(
        layer(x, training=False), (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, rtol=1e-5, atol=1e-5
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
        mean, variance = tf.nn.moments(x, axes) if training else (layer.moving_mean.value, layer.moving_variance.value)
        return tf.nn.batch_normalization(x, mean, variance, layer.beta.value, layer.gamma.value, 1e-5)

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
    step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, None, None, 3])])
    for factor in (1, 2, 3):
        np.testing.assert_allclose(step(x[factor:] * factor), eager(x[factor:] * factor, training=True), rtol=1e-5)
    assert step.experimental_get_tracing_count() == 1
    np.testing.assert_allclose(layer.moving_variance, eager.moving_variance, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_parameters_and_statistics_in_float32(shape, policy):
    half, x = make(shape, dtype=policy)
    full, _ = make(shape)
    for training in (True, False):
        y, expected = half(x, training=training), full(x, training=training)
        assert y.dtype == policy.removeprefix("mixed_")
        np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.05)
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


def test_rows_get_length_one_and_zero_stays_zero():
    x = np.array([[3, 4], [0, 0], [-1e-3, 0]], np.float32)
    np.testing.assert_allclose(L2Normalize()(x), [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
