"""Nets of keras.applications under the contract of nets/__init__.py, with the fused batch norm of
layers.py.
"""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from common import UserError
from network.layers import BatchNorm

_SMALLEST = 32  # pixels; with less, maps would be left without any


class _LayerScale(keras.layers.Layer):
    """x · gamma. ConvNeXt's own gives its weight no name, so that Keras numbers it by what was
    built before.
    """

    def __init__(self, init_values: float, projection_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.initial, self.channels = init_values, projection_dim

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(self.channels,),
            initializer=keras.initializers.Constant(self.initial),
        )

    def call(self, inputs):
        return inputs * self.gamma


class _DepthwiseConv(keras.layers.Conv2D):
    """A convolution with a group for each channel, its kernel [height, width, 1, C].

    Keras runs groups on the CPU through XLA, which takes long to compile and stands in the way of
    export.
    """

    def convolution_op(self, inputs, kernel):
        return tf.nn.depthwise_conv2d(
            inputs,
            tf.transpose(kernel, [0, 1, 3, 2]),
            strides=[1, *self.strides, 1],
            padding=self.padding.upper(),
        )


def _gelu(x):
    """TensorFlow's own has an operation, erfc, that ONNX has not."""
    return 0.5 * x * (1 + tf.math.erf(x * 0.5**0.5))


def build(
    name: str,
    application: Callable,
    input_shape: tuple[int | None, int | None, int],
    preprocess: Callable | None = None,
    pooling: str | None = "avg",
    strides: Mapping[str, int] | None = None,
) -> keras.Model:
    """The net of the contract; features [B, C] are Keras' own without the top, averaged over the
    map.

    Args:
        name: of the net's file, and scope of its variables: what Keras calls conv1_bn is
            <name>.conv1_bn here.
        application: of keras.applications, such as ResNet50.
        preprocess: what its weights want done to images of 0..255. None: the application does it
            itself.
        pooling: of the contract.
        strides: those of convolutions that have another than in Keras, by name.

    Raises: UserError for images of less than 32 pixels in height or width.
    """
    if min(side or _SMALLEST for side in input_shape[:2]) < _SMALLEST:
        height, width, _ = input_shape
        raise UserError(
            f"{name} takes images of at least {_SMALLEST}x{_SMALLEST}. Received: {height}x{width}. Give a larger "
            "--net_input_height and --net_input_width."
        )

    def ours(layer):
        """A layer of Keras' as we have it: named for good, batch norm fused, both ends in float32."""
        options = layer.get_config()
        if not isinstance(layer, keras.layers.Layer):  # a plain operation, without weights
            return type(layer).from_config(options)
        if layer.name in (strides or {}):
            options["strides"] = strides[layer.name]
        # ConvNeXt's last layer has no name of its own.
        options["name"] = f"{name}.{_without_number(layer, 'layer_normalization')}"
        if isinstance(layer, keras.layers.BatchNormalization):
            return BatchNorm(
                layer.momentum, layer.epsilon, name=options["name"], dtype=layer.dtype_policy
            )
        if isinstance(layer, keras.layers.Normalization):
            # Its constants stand outside of the graph, where ONNX takes them for inputs.
            mean, deviation = np.array(options["mean"]), np.sqrt(options["variance"])
            scale, offset = (1 / deviation).tolist(), (-mean / deviation).tolist()
            return keras.layers.Rescaling(scale, offset, name=options["name"], dtype="float32")
        # Pixels and features have more digits than half precision. Both are small next to the maps
        # between them.
        if isinstance(layer, keras.layers.Rescaling) or len(layer.output.shape) == 2:
            options["dtype"] = "float32"
        if (
            isinstance(layer, keras.layers.Activation)
            and layer.activation is keras.activations.gelu
        ):
            options["activation"] = _gelu
        kind = type(layer)
        if kind.__name__ == "LayerScale":
            kind = _LayerScale
        elif isinstance(layer, keras.layers.Conv2D) and layer.groups == layer.filters > 1:
            kind = _DepthwiseConv
        return kind.from_config(options)

    def without_mask(
        layer, *args, mask=None, **kwargs
    ):  # Keras' batch norm takes one, ours does not
        return layer(*args, **kwargs)

    original = application(
        include_top=False, weights=None, pooling=pooling, input_shape=input_shape
    )
    body = keras.models.clone_model(
        original, clone_function=ours, call_function=without_mask, recursive=True
    )
    images = keras.Input(input_shape, dtype="float32", name="images")
    return keras.Model(images, body(preprocess(images) if preprocess else images), name=name)


def _without_number(layer, auto_name):
    return auto_name if layer.name.startswith(auto_name) else layer.name
