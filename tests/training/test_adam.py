import keras
import numpy as np
import pytest
import tensorflow as tf

from training.adam import Adam


def trajectory(optimizer, shape=(3, 2), steps=50, compile_step=True):
    variable = keras.Variable(np.arange(6, dtype=np.float32).reshape(shape))
    optimizer.build([variable])

    def step(gradient, rate):
        optimizer.learning_rate.assign(rate)
        optimizer.apply([gradient], [variable])

    step = tf.function(step) if compile_step else step
    rng, values = np.random.default_rng(0), []
    for number in range(steps):
        step(
            tf.constant(rng.normal(size=shape).astype(np.float32)),
            tf.constant(0.1 * 0.95**number, tf.float32),
        )
        values.append(variable.numpy().copy())
    return np.array(values)


def by_hand(shape=(3, 2), steps=50):
    """Algorithm 1 of arXiv:1412.6980 in float64, with epsilon as TensorFlow 1 has it, outside of
    the correction.
    """
    rng, x, m, v, values = np.random.default_rng(0), np.arange(6.0).reshape(shape), 0.0, 0.0, []
    for t in range(1, steps + 1):
        g = rng.normal(size=shape)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - 0.1 * 0.95 ** (t - 1) * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (
            np.sqrt(v) + 1e-8
        )
        values.append(x)
    return np.array(values)


@pytest.mark.parametrize("compile_step", [True, False])
def test_steps_are_those_of_the_formula_and_of_keras(compile_step):
    got = trajectory(Adam(0.1, epsilon=1e-8), compile_step=compile_step)
    np.testing.assert_allclose(got, by_hand(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        got, trajectory(keras.optimizers.Adam(0.1, epsilon=1e-8)), rtol=1e-5, atol=1e-6
    )


def test_iterations_are_counted():
    optimizer = Adam(0.1)
    trajectory(optimizer, steps=3)
    assert int(optimizer.iterations) == 3
