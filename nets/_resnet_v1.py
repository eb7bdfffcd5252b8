"""ResNet v1 as TF-slim builds it: batch norm after each convolution, stride in the last unit."""

import keras
import numpy as np

from network.convolutions import Conv2D
from network.layers import BatchNorm

# The RGB mean of ImageNet; the pretrained weights expect that it is subtracted.
_MEAN = np.array([123.68, 116.78, 103.94], np.float32)
_HE = {"scale": 2.0, "mode": "fan_in", "distribution": "truncated_normal"}


def build(
    input_shape: tuple[int | None, int | None, int],
    name: str,
    units: tuple[int, int, int, int],
    pooling: str | None,
    last_stride: int,
) -> keras.Model:
    """Build a net of the contract. Its features are [B, 2048].

    Args:
        name: of the scope of all variables.
        units: number of units in each of the four blocks.
        pooling: of the contract.
        last_stride: of the contract; it stands at the end of the third block.
    """
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = _conv(images - _MEAN, 64, 7, stride=2, name=f"{name}.conv1")
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for block, (depth, count) in enumerate(zip((64, 128, 256, 512), units, strict=True), start=1):
        for unit in range(1, count + 1):
            # The last block keeps its resolution.
            stride = (2, 2, last_stride, 1)[block - 1] if unit == count else 1
            x = _bottleneck(x, depth, stride, name=f"{name}.block{block}.unit_{unit}.bottleneck_v1")
    if pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    return keras.Model(images, x, name=name)


def _bottleneck(x, depth, stride, name):
    if x.shape[-1] == 4 * depth:
        shortcut = x if stride == 1 else keras.layers.MaxPooling2D(1, strides=stride)(x)
    else:
        shortcut = _conv(x, 4 * depth, 1, stride, f"{name}.shortcut", relu=False)
    x = _conv(x, depth, 1, 1, f"{name}.conv1")
    x = _conv(x, depth, 3, stride, f"{name}.conv2")
    x = _conv(x, 4 * depth, 1, 1, f"{name}.conv3", relu=False)
    return keras.layers.ReLU()(shortcut + x)


def _conv(x, filters, size, stride, name, relu=True):
    padding = "same"
    if stride > 1 and size > 1:
        # The same on each side, whatever the image size; TensorFlow's "same" pads an even size at
        # its end only.
        x = keras.layers.ZeroPadding2D(((size - 1) // 2, size // 2))(x)
        padding = "valid"
    convolution = Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(**_HE),
        name=name,
    )
    x = convolution(x)
    x = BatchNorm(decay=0.9, epsilon=1e-5, name=f"{name}.BatchNorm")(x)
    return keras.layers.ReLU()(x) if relu else x
