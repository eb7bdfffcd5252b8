import keras
import numpy as np
import pytest

import common

C, D = 96, 16
HEADS = ["bnneck", "direct", "direct_normalize", "fc1024", "fc1024_normalize"]


def build(name, dim=D, dtype="float32"):
    features = keras.Input((C,), dtype=dtype)
    return keras.Model(features, list(common.load_plugin("heads", name).build(features, dim)))


def inputs(rows=12):
    return np.random.default_rng(0).normal(size=(rows, C)).astype(np.float32)


def test_every_head_is_in_the_table():
    assert common.plugin_names("heads") == HEADS


@pytest.mark.parametrize("name", HEADS)
def test_embeddings_before_and_after_normalization(name):
    emb_raw, emb = (output.numpy() for output in build(name)(inputs()))
    assert emb_raw.shape == emb.shape == (12, D)
    if name.endswith("_normalize"):
        np.testing.assert_allclose(
            emb, emb_raw / np.linalg.norm(emb_raw, axis=1, keepdims=True), rtol=1e-5
        )
    elif name == "bnneck":
        np.testing.assert_allclose(emb, emb_raw / np.sqrt(1 + 1e-5), rtol=1e-6)
    else:
        np.testing.assert_array_equal(emb, emb_raw)


@pytest.mark.parametrize("name", HEADS)
def test_initial_weights(name):
    keras.utils.set_random_seed(0)
    weights = {variable.path: variable.numpy() for variable in build(name).variables}
    width = 1024 if "fc1024" in name else C
    kernel = weights["emb/kernel"]
    assert kernel.shape == (width, D)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(D), atol=1e-5)
    np.testing.assert_array_equal(weights["emb/bias"], 0)
    if width == 1024:
        limit = np.sqrt(6 / (C + 1024))
        hidden = weights["fully_connected/kernel"]
        assert 0.99 * limit < np.abs(hidden).max() <= limit
        assert "fully_connected/bias" not in weights
        assert len(weights) == 7
    else:
        assert len(weights) == (5 if name == "bnneck" else 2)


def test_the_neck_is_a_batch_norm_without_bias():
    head = build("bnneck")
    x, gamma = inputs(), np.random.default_rng(1).uniform(0.5, 2, D)
    head.get_layer("emb.BatchNorm").gamma.assign(gamma)
    emb_raw, emb = (output.numpy() for output in head(x, training=True))
    np.testing.assert_allclose(emb_raw, x @ head.get_layer("emb").kernel, rtol=1e-4, atol=1e-5)
    normal = (emb_raw - emb_raw.mean(axis=0)) / np.sqrt(emb_raw.var(axis=0) + 1e-5)
    np.testing.assert_allclose(emb, normal * gamma, rtol=1e-4, atol=1e-5)
    assert [weight.path for weight in head.weights if "BatchNorm" in weight.path] == [
        f"emb.BatchNorm/{name}" for name in ("gamma", "moving_mean", "moving_variance")
    ]


def test_the_neck_takes_features_of_its_own_size_as_they_are():
    head = build("bnneck", dim=C)
    emb_raw, emb = head(inputs(), training=True)
    np.testing.assert_array_equal(emb_raw, inputs())
    np.testing.assert_allclose(np.mean(emb, axis=0), 0, atol=1e-5)
    assert len(head.weights) == 3


def test_what_the_loss_is_taken_of():
    taken = {name: getattr(common.load_plugin("heads", name), "LOSS_ON", "emb") for name in HEADS}
    assert taken == dict.fromkeys(HEADS, "emb") | {"bnneck": "emb_raw"}


def test_fc1024_is_linear_batch_norm_relu_linear():
    head = build("fc1024")
    rng = np.random.default_rng(1)
    for variable in head.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) * rng.choice([-1, 1], variable.shape))
    weights = {variable.path: variable.numpy() for variable in head.variables}
    x = inputs()
    hidden = x @ weights["fully_connected/kernel"]
    scale = weights["fully_connected.BatchNorm/gamma"]
    shift = weights["fully_connected.BatchNorm/beta"]

    def rest(mean, variance):
        normal = (hidden - mean) / np.sqrt(variance + 1e-5) * scale + shift
        return np.maximum(normal, 0) @ weights["emb/kernel"] + weights["emb/bias"]

    trained = head(x, training=True)[1]
    np.testing.assert_allclose(
        trained, rest(hidden.mean(axis=0), hidden.var(axis=0)), rtol=1e-3, atol=1e-3
    )
    mean = 0.9 * weights["fully_connected.BatchNorm/moving_mean"] + 0.1 * hidden.mean(axis=0)
    np.testing.assert_allclose(
        head.get_layer("fully_connected.BatchNorm").moving_mean, mean, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", HEADS)
def test_half_precision_ends_in_float32(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        head = build(name)
    finally:
        keras.config.set_dtype_policy(before)
    assert {variable.dtype for variable in head.variables} == {"float32"}
    assert {output.dtype.name for output in head(inputs())} == {"float32"}
