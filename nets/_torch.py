"""What the nets of PyTorch share: its normalization of images, convolutions and batch norm.

Layers bear the names of PyTorch's modules, so that network/torch_weights.py finds their weights.
"""

import keras
import numpy as np

from network.layers import BatchNorm

# Of ImageNet, for pixels in 0..1: what torchvision and timm train with.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def normalize(images):
    """Pixels in 0..255 -> what the weights of torchvision and timm expect."""
    return (images / 255.0 - _MEAN) / _DEVIATION


def conv(x, filters: int, size: int, stride: int, name: str):
    """A convolution without bias, padded by size // 2 on each side."""
    x, padding = _padded(x, size, stride)
    return keras.layers.Conv2D(
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
    return keras.layers.DepthwiseConv2D(
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
