"""Convolutions against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden.nets import deviation

from nets import _keras
from network import convolutions

# Kind, filters, kernel size, options, and the shape of the images.
CASES = {
    "products": ("Conv2D", 256, 3, {"padding": "same"}, (2, 5, 4, 256)),
    "an even kernel's products": ("Conv2D", 256, (2, 4), {"padding": "same"}, (2, 5, 4, 256)),
    "products with strides": ("Conv2D", 256, (3, 2), {"strides": (2, 3)}, (2, 8, 7, 256)),
    "products of pixels": ("Conv2D", 256, 1, {"use_bias": False}, (2, 5, 4, 256)),
    "pixels with strides": ("Conv2D", 6, 1, {"strides": 2}, (2, 5, 4, 3)),
    "products of pixels with strides": ("Conv2D", 256, 1, {"strides": 2}, (2, 5, 4, 256)),
    "padded strides": ("Conv2D", 256, 3, {"strides": 2, "padding": "same"}, (2, 5, 4, 256)),
    "few channels": ("Conv2D", 6, 3, {"activation": "relu"}, (2, 5, 4, 3)),
    "dilated": ("Conv2D", 256, 2, {"dilation_rate": 2}, (2, 5, 4, 256)),
    "depthwise": ("DepthwiseConv2D", None, 3, {"padding": "same"}, (2, 5, 4, 6)),
    "large depthwise": ("DepthwiseConv2D", None, 5, {"padding": "same"}, (2, 5, 4, 6)),
    "strided depthwise": (
        "DepthwiseConv2D",
        None,
        3,
        {"strides": 2, "use_bias": False, "activation": "relu"},
        (2, 7, 9, 6),
    ),
    "large strided depthwise": (
        "DepthwiseConv2D",
        None,
        5,
        {"strides": 2, "padding": "same"},
        (2, 7, 9, 6),
    ),
    "dilated depthwise": ("DepthwiseConv2D", None, 5, {"dilation_rate": 2}, (2, 11, 9, 6)),
}


def make(module, case, dtype):
    kind, filters, size, options, shape = CASES[case]
    sizes = [size] if filters is None else [filters, size]
    layer = getattr(module, kind)(*sizes, dtype=dtype, **options)
    layer.build(shape)
    return layer


def pass_through(layer, case):
    """The output for the case's images, and gradients by them and by the weights, in float32."""
    rng = np.random.default_rng(0)
    # All have few digits: what bfloat16 computes with is what float32 does.
    for weight in layer.weights:
        weight.assign(rng.integers(-9, 10, weight.shape) / 8)
    x = tf.Variable(rng.integers(-9, 10, CASES[case][-1]) / 8, dtype=layer.compute_dtype)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            y = layer(x)
            dy = np.random.default_rng(1).integers(-9, 10, y.shape) / 8
        variables = [x, *layer.trainable_variables]
        return y, *tape.gradient(y, variables, tf.cast(dy, y.dtype))

    return [tf.cast(each, tf.float32).numpy() for each in gradients()]


@pytest.mark.parametrize("case", CASES)
def test_in_bfloat16_they_round_as_kerass_do(case, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    ours = pass_through(make(convolutions, case, "mixed_bfloat16"), case)
    theirs = pass_through(make(keras.layers, case, "mixed_bfloat16"), case)
    exact = pass_through(make(keras.layers, case, "float32"), case)
    for got, other, expected in zip(ours, theirs, exact, strict=True):
        assert got.shape == expected.shape
        # Some processors round each sum to bfloat16, others results only.
        assert deviation(got, expected) < 2 * max(2**-9, deviation(other, expected))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("case", CASES)
def test_in_other_precisions_they_are_kerass_to_the_bit(case, dtype):
    ours = pass_through(make(convolutions, case, dtype), case)
    theirs = pass_through(make(keras.layers, case, dtype), case)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(got, expected)


# Operations that a CPU is slow at in bfloat16.
SLOW = {
    "products with strides": "Conv2DBackpropFilter",
    "strided depthwise": "DepthwiseConv2dNativeBackpropInput",
    "large depthwise": "DepthwiseConv2dNativeBackpropFilter",
}


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("case", SLOW)
def test_slow_operations_are_used_only_with_a_gpu(case, gpus, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["a GPU"] * gpus)
    layer = make(convolutions, case, "mixed_bfloat16")

    @tf.function
    def gradients(x):
        return tf.gradients(layer(x), [x, *layer.trainable_variables])

    images = tf.TensorSpec(CASES[case][-1], tf.bfloat16)
    operations = gradients.get_concrete_function(images).graph.get_operations()
    slow = [
        operation
        for operation in operations
        if operation.type == SLOW[case] and operation.outputs[0].dtype == tf.bfloat16
    ]
    assert len(slow) == gpus


def test_nets_of_keras_are_built_of_them():
    net = _keras.build("small", keras.applications.MobileNetV2, (32, 32, 3))
    kinds = {type(layer) for layer in net._flatten_layers() if "Conv" in type(layer).__name__}
    assert kinds == {convolutions.Conv2D, convolutions.DepthwiseConv2D}
