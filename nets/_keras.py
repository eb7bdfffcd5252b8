"""Nets of keras.applications by the contract of nets/__init__.py, with the fused batch norm."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from nets._torch import check_smallest
from network import convolutions
from network.layers import BatchNorm, gelu

_SMALLEST = 32  # pixels; the last maps of a smaller image would be empty


class _LayerScale(keras.layers.Layer):
    """x · gamma.

    ConvNeXt's own gives its weight no name, so that Keras numbers it by what was built before.
    """

    def __init__(self, init_values: float, projection_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.initial = init_values
        self.channels = projection_dim

    def build(self, input_shape):  # noqa: ARG002, as Keras calls it
        self.gamma = self.add_weight(
            name="gamma",
            shape=(self.channels,),
            initializer=keras.initializers.Constant(self.initial),
        )

    def call(self, inputs):
        return inputs * self.gamma


class _DepthwiseConv(keras.layers.Conv2D):
    """A convolution with a group for each channel; its kernel is [height, width, 1, C].

    On the CPU, Keras runs groups through XLA, which takes long to compile and cannot be exported.
    """

    def convolution_op(self, inputs, kernel):
        return convolutions.depthwise_conv2d(
            inputs, tf.transpose(kernel, [0, 1, 3, 2]), self.strides, self.padding.upper()
        )


def build(
    name: str,
    application: Callable,
    input_shape: tuple[int | None, int | None, int],
    preprocess: Callable | None = None,
    pooling: str | None = "avg",
    strides: Mapping[str, int] | None = None,
) -> keras.Model:
    """Build a net of the contract. Its features are Keras' own without the top, averaged.

    Args:
        name: of the net's file, and scope of its variables: what Keras calls conv1_bn is
            <name>.conv1_bn here.
        application: a function of keras.applications, such as ResNet50.
        preprocess: what its weights want done to images of 0..255. None: the application does it
            itself.
        pooling: of the contract.
        strides: of convolutions, by their names in Keras, where they differ from Keras'.

    Raises:
        UserError: images have less than 32 pixels in height or width.
    """
    check_smallest(name, input_shape, _SMALLEST)
    original = application(
        include_top=False, weights=None, pooling=pooling, input_shape=input_shape
    )
    net = keras.models.clone_model(
        original,
        clone_function=lambda layer: _convert(layer, name, strides or {}),
        call_function=_call_without_mask,
        recursive=True,
    )
    images = keras.Input(input_shape, dtype="float32", name="images")
    features = net(preprocess(images) if preprocess else images)
    return keras.Model(images, features, name=name)


def _convert(layer, name: str, strides: Mapping[str, int]):
    """Our version of one of Keras' layers: named for good, batch norm fused, ends in float32."""
    options = layer.get_config()
    if not isinstance(layer, keras.layers.Layer):  # a plain operation, without weights
        return type(layer).from_config(options)
    # ConvNeXt's last layer has no name of its own: Keras numbers it.
    unnumbered = "layer_normalization"
    own_name = unnumbered if layer.name.startswith(unnumbered) else layer.name
    options["name"] = f"{name}.{own_name}"
    if isinstance(layer, keras.layers.BatchNormalization):
        return BatchNorm(
            layer.momentum, layer.epsilon, name=options["name"], dtype=layer.dtype_policy
        )
    if isinstance(layer, keras.layers.Normalization):
        return _rescaling(options)
    if layer.name in strides:
        options["strides"] = strides[layer.name]
    # Pixels and features have more digits than half precision has. Both are small next to the maps
    # between them.
    if isinstance(layer, keras.layers.Rescaling) or len(layer.output.shape) == 2:
        options["dtype"] = "float32"
    if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.gelu:
        options["activation"] = gelu
    kind = type(layer)
    if kind.__name__ == "LayerScale":
        kind = _LayerScale
    elif isinstance(layer, keras.layers.Conv2D) and layer.groups == layer.filters > 1:
        kind = _DepthwiseConv
    elif kind in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
        kind = getattr(convolutions, kind.__name__)
    return kind.from_config(options)


def _rescaling(options: Mapping) -> keras.layers.Rescaling:
    """A Normalization, whose constants stand outside of the graph: ONNX takes them for inputs."""
    mean = np.array(options["mean"])
    deviation = np.sqrt(options["variance"])
    return keras.layers.Rescaling(
        (1 / deviation).tolist(),
        (-mean / deviation).tolist(),
        name=options["name"],
        dtype="float32",
    )


def _call_without_mask(layer, *args, **options):
    """Keras' batch norm takes a mask, ours does not."""
    options.pop("mask", None)
    return layer(*args, **options)
