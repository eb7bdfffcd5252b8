from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from network import layers, model, segments

SIZE = (64, 32)


def images(count=4):
    return tf.constant(np.random.default_rng(0).uniform(0, 255, (count, *SIZE, 3)), tf.float32)


def apply(parts, x):
    for part in parts:
        x = part(x, training=False)
    return x


@pytest.mark.parametrize(
    "name, head, at_least",
    [
        ("lunet_narrow", "bnneck", 8),
        ("mobilenet_v3_large", "fc1024_normalize", 8),  # a net within a net
        ("vit_small_patch16", "direct", 8),
    ],
)
def test_segments_do_together_what_the_network_does(name, head, at_least):
    network = model.build(name, head, 16, (*SIZE, 3))
    parts = segments.split(network)
    assert len(parts) >= at_least
    weights = [id(weight) for part in parts for weight in part.weights]
    assert sorted(weights) == sorted(id(weight) for weight in network.weights)
    got, expected = apply(parts, images()), network(images(), training=False)
    for output in got:
        np.testing.assert_allclose(got[output], expected[output], rtol=1e-5, atol=1e-6)


def test_the_neck_on_the_features_themselves():
    """One output of the network is the input of its last segment."""
    network = model.build("lunet_narrow", "bnneck", 256, (*SIZE, 3))
    with tf.GradientTape() as tape:
        expected = network(images(), training=True)
        total = tf.reduce_sum(expected["emb"] ** 2) + tf.reduce_sum(expected["emb_raw"])
    weights = network.trainable_variables
    by_weights = tape.gradient(total, weights)
    parts = segments.Segments(network)
    got, kept = parts.forward(images())
    assert got.keys() == expected.keys()
    by_outputs = {"emb": 2 * got["emb"], "emb_raw": tf.ones_like(got["emb_raw"])}
    gradients = parts.backward(kept, by_outputs, weights)
    pairs = [*zip(gradients, by_weights, strict=True)]
    pairs += [(got[name], expected[name]) for name in expected]
    for ours, theirs in pairs:
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * scale)


def random_network():
    """Three blocks of a convolution, batch norm, dropout and stochastic depth -> {"emb"} twice."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((*SIZE, 3))
    x = inputs / 255.0
    for block in range(3):
        x = keras.layers.Conv2D(8, 3, strides=2, name=f"conv{block}")(x)
        x = layers.BatchNorm(name=f"norm{block}")(x)
        for part in range(4):
            x = keras.layers.LeakyReLU(0.9)(x)
            x = keras.layers.Dropout(0.3, seed=block + part, name=f"dropout{block}{part}")(x)
        x = layers.DropPath(0.3, block)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    emb = keras.layers.Dense(4, name="emb")(x)
    return keras.Model(inputs, {"emb_raw": emb, "emb": emb})


def test_gradients_draws_and_statistics_are_those_of_the_network():
    results = []
    for recomputes in (False, True):
        network = random_network()
        parts = segments.Segments(network)
        assert len(parts.parts) >= 3

        @tf.function(autograph=False)
        def step(x, iteration, network=network, parts=parts, recomputes=recomputes):
            by_emb = tf.range(4.0) * tf.ones((4, 1))
            with layers.drawing(3, iteration):
                if not recomputes:
                    with tf.GradientTape() as tape:
                        embs = network(x, training=True)
                    weights = network.trainable_variables
                    return embs, tape.gradient(embs["emb"], weights, output_gradients=by_emb)
                embs, kept = parts.forward(x)
                with layers.calling_with(layers.Chunk(tf.constant(0), 1, moves=False)):
                    by_outputs = {"emb": by_emb}
                    return embs, parts.backward(kept, by_outputs, network.trainable_variables)

        told = [step(images() / (1 + i), tf.constant(i, tf.int64)) for i in range(2)]
        state = {variable.path: variable.numpy() for variable in network.variables}
        results.append((told, list(state.values())))
    got, expected = (tf.nest.flatten(each) for each in reversed(results))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert sum(np.asarray(each).dtype.kind in "iu" for each in got) == 12  # states of dropout


def test_gradients_of_a_layer_that_is_called_twice_are_added_up():
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(4, name="twice")
    x = inputs
    for _ in range(2):
        x = layer(x)
        for _ in range(8):
            x = keras.layers.LeakyReLU(0.5)(x)
    network = keras.Model(inputs, {"emb": x})
    parts = segments.Segments(network)
    assert len(parts.parts) >= 2
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 4)), tf.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(network(x)["emb"])
    weights = network.trainable_variables
    embs, kept = parts.forward(x)
    got = parts.backward(kept, {"emb": tf.ones_like(embs["emb"])}, weights)
    for ours, theirs in zip(got, tape.gradient(total, weights), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def assert_gradients_are_those_of(network, x):
    """Of the network in one piece."""
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(network(x, training=True)["emb"] ** 2)
    weights = network.trainable_variables
    expected = tape.gradient(total, weights)
    parts = segments.Segments(network)
    embs, kept = parts.forward(x)
    got = parts.backward(kept, {"emb": 2 * embs["emb"]}, weights)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def deep(x, depth=9):
    """Layers that would be a segment of their own."""
    for _ in range(depth):
        x = keras.layers.LeakyReLU(0.9)(x)
    return x


def two_ways(x):
    a, b = keras.ops.split(x, 2, axis=-1)
    return keras.layers.Concatenate()([deep(a), b])


def one_way(x):
    """Only the second result is used."""
    return deep(keras.ops.unstack(keras.ops.reshape(x, (-1, 2, 4)), axis=1)[1])


def inner(x):
    """A network of two outputs."""
    entry = keras.Input((8,))
    middle = deep(keras.layers.Dense(4)(entry))
    a, b = keras.Model(entry, [middle, keras.layers.Dense(4)(middle)])(x)
    return keras.layers.Concatenate()([deep(a), b])


@pytest.mark.parametrize("ways, at_least", [(two_ways, 3), (one_way, 4), (inner, 3)])
def test_operations_of_several_results(ways, at_least):
    inputs = keras.Input((8,))
    x = ways(deep(keras.layers.Dense(8)(inputs)))
    emb = keras.layers.Dense(4)(deep(keras.layers.Dense(4)(x)))
    network = keras.Model(inputs, {"emb": emb})
    assert len(segments.split(network)) >= at_least
    rng = np.random.default_rng(0)
    assert_gradients_are_those_of(network, tf.constant(rng.normal(size=(3, 8)), tf.float32))


def test_a_dropout_that_is_called_twice_ends_where_it_does_in_one_piece():
    inputs = keras.Input((8,))
    layer = keras.layers.Dropout(0.5, seed=1)
    x = deep(layer(keras.layers.Dense(8)(inputs)))
    emb = keras.layers.Dense(4)(deep(layer(deep(keras.layers.Dense(8)(x)))))
    network = keras.Model(inputs, {"emb": emb})
    assert sum(layer in part.layers for part in segments.split(network)) == 2
    state = layer.seed_generator.state
    begun = state.numpy()
    network(tf.ones((3, 8)), training=True)
    expected = state.numpy()
    state.assign(begun)
    parts = segments.Segments(network)
    embs, kept = parts.forward(tf.ones((3, 8)))
    parts.backward(kept, {"emb": tf.ones_like(embs["emb"])}, network.trainable_variables)
    np.testing.assert_array_equal(state, expected)


def test_gradients_of_some_weights_only():
    """As with a frozen net: what comes before the first of them is not computed again."""
    network = random_network()
    parts = segments.Segments(network)
    (weight,) = [v for v in network.trainable_variables if v.path == "emb/kernel"]
    with layers.drawing(3, tf.constant(0, tf.int64)):
        embs, kept = parts.forward(images())
        parts.parts[0] = SimpleNamespace(trainable_variables=[])  # calling it would fail
        (gradient,) = parts.backward(kept, {"emb": tf.ones_like(embs["emb"])}, [weight])
    assert gradient.shape == weight.shape
