"""The nets of keras.applications."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden.nets import deviation
from keras_nets import SMALL, images, keras_features, layers, net_of, original, scramble, weights

from common import UserError
from network import checkpoints, model

NETS = {
    "resnet50": 2048,
    "efficientnet_v2_b0": 1280,
    "efficientnet_v2_s": 1280,
    "convnext_tiny": 768,
    "mobilenet_v3_large": 960,
    "densenet121": 1024,
}
# As in test_nets.py.
LAYERS = {
    "resnet50": (4, True),
    "efficientnet_v2_b0": (6, True),
    "efficientnet_v2_s": (6, True),
    "convnext_tiny": (18, True),
    "mobilenet_v3_large": (15, True),
    "densenet121": (4, True),
}


def step(network, optimizer, batch):
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(network(batch, training=True)["emb"] ** 2)
    optimizer.apply(tape.gradient(total, network.trainable_variables), network.trainable_variables)


def make(net, size):
    network = model.build(net, "direct", 8, (*size, 3))
    optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-8)
    optimizer.build(network.trainable_variables)
    return network, optimizer, checkpoints.named_variables(network, optimizer)


@pytest.fixture(scope="module", params=NETS)
def made(request):
    """A net of each kind, for images of any size, its optimizer and their state."""
    keras.backend.clear_session()
    return request.param, *make(request.param, (None, None))


def test_features_are_keras_own(made):
    net, network, _, _ = made
    theirs = original(net, input_shape=(None, None, 3))
    scramble(theirs.weights)
    ours = model.net_of(network)
    for variable, weight in zip(weights(ours).values(), theirs.weights, strict=True):
        variable.assign(weight)
    features = ours(images(64, 32), training=False)
    assert features.shape == (2, NETS[net])
    assert features.dtype == tf.float32
    assert deviation(features, keras_features(net, theirs, images(64, 32)).numpy()) < 1e-5


def test_layers(made):
    net, network, _, _ = made
    assert layers(net, model.net_of(network)) == LAYERS[net]


def test_a_training_step_and_embeddings_of_another_size(made):
    net, network, optimizer, state = made
    assert all(name.startswith((f"{net}/", "emb/")) or name == "global_step" for name in state)
    before = {name: variable.numpy() for name, variable in state.items()}
    step(network, optimizer, images(64, 32))
    for name, variable in state.items():
        assert np.isfinite(variable.numpy()).all(), name
    # Not all of them: stochastic depth passes over some blocks.
    moved = [name for name, variable in state.items() if np.any(variable.numpy() != before[name])]
    assert {"emb/weights", next(iter(state)), "global_step"} <= set(moved)
    assert len(moved) > 0.8 * len(state)
    emb = network(images(96, 64), training=False)["emb"]
    assert emb.shape == (2, 8)
    assert np.isfinite(emb).all()


def test_names_do_not_depend_on_size_and_on_what_was_built_before():
    # Keras numbers some of its layers.
    first = weights(net_of("convnext_tiny", (64, 32)))
    again = weights(net_of("convnext_tiny", (96, 64)))
    assert {name: variable.shape for name, variable in first.items()} == {
        name: variable.shape for name, variable in again.items()
    }


def test_images_that_are_too_small_are_told():
    with pytest.raises(
        UserError, match="densenet121 takes images of at least 32x32. Received: 64x16"
    ):
        net_of("densenet121", (64, 16))


def test_stochastic_depth_is_the_same_again_and_after_resuming(tmp_path):
    def start():
        keras.utils.set_random_seed(1)
        return make("efficientnet_v2_b0", (32, 32))

    def values(state):
        return {name: variable.numpy().copy() for name, variable in state.items()}

    network, optimizer, state = start()
    initial, paths = values(state), []
    assert sum(name.endswith("seed_generator_state") for name in state) > 10
    for iteration in (1, 2):
        step(network, optimizer, images(32, 32))
        paths.append(checkpoints.save(tmp_path, iteration, state))
    network, optimizer, again = start()
    for name, variable in again.items():
        np.testing.assert_array_equal(variable.numpy(), initial[name], err_msg=name)
    checkpoints.restore(paths[0], again)
    step(network, optimizer, images(32, 32))
    for name, value in values(state).items():
        np.testing.assert_array_equal(again[name].numpy(), value, err_msg=name)


def test_half_precision_keeps_variables_and_features_in_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = net_of(SMALL)
    finally:
        keras.config.set_dtype_policy(before)
    full = net_of(SMALL)
    named = weights(full)
    for name, variable in weights(half).items():
        assert variable.dtype == "float32"
        variable.assign(named[name])
    features = half(images(64, 32), training=False)
    assert features.dtype == tf.float32
    assert 0 < deviation(features, full(images(64, 32), training=False).numpy()) < 0.1
