"""MobileNet v1 of TF-slim, width 1.0. Features: 1024.

It takes any input size; 224 in its name is that of its ImageNet weights.
"""

import keras

from network.convolutions import Conv2D, DepthwiseConv2D
from network.layers import BatchNorm

_NAME = "MobilenetV1"
# (stride, channels) of the separable convolutions Conv2d_1 to Conv2d_13
_SEPARABLE = (
    [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)]
    + [(1, 512)] * 5
    + [(2, 1024), (1, 1024)]
)

LAYERS = r"Conv2d_\d+"


def build(
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None = "avg",
    last_stride: int = 2,
) -> keras.Model:
    images = keras.Input(input_shape, dtype="float32", name="images")
    # TF-slim's own training scales to -1..1, the original triplet-reid to 0..1, which its
    # checkpoints want.
    x = images / 255.0
    x = _conv(Conv2D, x, f"{_NAME}.Conv2d_0", filters=32, kernel_size=3, strides=2)
    for index, (stride, channels) in enumerate(_SEPARABLE, start=1):
        name = f"{_NAME}.Conv2d_{index}"
        stride = last_stride if index == 12 else stride
        x = _conv(DepthwiseConv2D, x, f"{name}_depthwise", kernel_size=3, strides=stride)
        x = _conv(Conv2D, x, f"{name}_pointwise", filters=channels, kernel_size=1)
    if pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    return keras.Model(images, x, name=_NAME)


def _conv(layer, x, name, **options):
    is_depthwise = layer is DepthwiseConv2D
    initializer = "depthwise_initializer" if is_depthwise else "kernel_initializer"
    options[initializer] = keras.initializers.TruncatedNormal(stddev=0.09)
    x = layer(padding="same", use_bias=False, name=name, **options)(x)
    x = BatchNorm(decay=0.9, epsilon=1e-3, name=f"{name}.BatchNorm")(x)
    return keras.layers.Activation("relu6")(x)
