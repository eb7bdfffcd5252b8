"""What the nets of PyTorch share: its normalization of images, convolutions, norms, perceptrons.

Layers bear the names of PyTorch's modules, so that network/torch_weights.py finds their weights.
"""

import keras
import numpy as np

from common import UserError
from network.convolutions import Conv2D, DepthwiseConv2D
from network.layers import BatchNorm, DropPath, gelu

# Of ImageNet, for pixels in 0..1: what torchvision and timm train with.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def normalize(images):
    """Pixels in 0..255 -> what the weights of torchvision and timm expect."""
    return (images / 255.0 - _MEAN) / _DEVIATION


def check_smallest(name: str, input_shape: tuple[int | None, int | None, int], side: int) -> None:
    """Raises: UserError for images with less than `side` pixels in height or width."""
    height, width, _ = input_shape
    if min(height or side, width or side) < side:
        raise UserError(
            f"{name} takes images of at least {side}x{side}. Received: {height}x{width}. Give a larger "
            "--net_input_height and --net_input_width."
        )


def conv(x, filters: int, size: int, stride: int, name: str):
    """A convolution without bias, padded by size // 2 on each side."""
    x, padding = _padded(x, size, stride)
    return Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=_he(),
        name=name,
    )(x)


def depthwise_conv(x, size: int, stride: int, name: str):
    """As conv, for each channel on its own."""
    x, padding = _padded(x, size, stride)
    return DepthwiseConv2D(
        size,
        strides=stride,
        padding=padding,
        use_bias=False,
        depthwise_initializer=keras.initializers.RandomNormal(stddev=(2 / size**2) ** 0.5),
        name=name,
    )(x)


def batch_norm(x, name: str):
    return BatchNorm(decay=0.9, epsilon=1e-5, name=name)(x)


def max_pool(x):
    """3x3 with stride 2, of values that are not negative: padding with 0 changes no maximum."""
    x = keras.layers.ZeroPadding2D(1)(x)
    return keras.layers.MaxPooling2D(3, strides=2)(x)


def layer_norm(x, name: str, dtype=None):
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name, dtype=dtype)(x)


def dense(x, units: int, name: str):
    return keras.layers.Dense(units, kernel_initializer=normal(), name=name)(x)


def perceptron(x, name: str):
    """[..., C] -> [..., C], over a hidden layer of 4 C."""
    channels = x.shape[-1]
    x = keras.layers.Activation(gelu)(dense(x, 4 * channels, f"{name}.fc1"))
    return dense(x, channels, f"{name}.fc2")


class _LayerScale(keras.layers.Layer):
    """[..., C] times a factor of each channel that is learned."""

    def __init__(self, initial: float, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape):
        # Not gamma, as PyTorch has it: torch_weights.py takes that for the weight of a norm.
        self.layer_scale = self.add_weight(
            name="layer_scale",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial),
        )

    def call(self, inputs):
        return inputs * self.layer_scale


def layer_scale(x, initial: float | None, name: str):
    """x times learned factors that start at `initial`; x itself where that is None."""
    return x if initial is None else _LayerScale(initial, name=name)(x)


def drop_path(x, rate: float, number: int):
    """Stochastic depth for what a block adds; see DropPath."""
    return DropPath(rate, number)(x) if rate else x


def normal():
    """As timm draws kernels of transformers and ConvNeXt."""
    return keras.initializers.RandomNormal(stddev=0.02)


def _padded(x, size: int, stride: int):
    """TensorFlow's "same" pads an even image at its end only where the stride is above 1."""
    if stride == 1 or size == 1:
        return x, "same"
    return keras.layers.ZeroPadding2D(size // 2)(x), "valid"


def _he():
    """He and others, 2015, by the number of outputs, as torchvision has it."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )
