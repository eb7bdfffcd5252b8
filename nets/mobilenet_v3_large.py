"""MobileNetV3-Large, the lightest. Features: 960."""

import keras

from nets import _keras

APPLICATION = keras.applications.MobileNetV3Large
LAYERS = r"expanded_conv_(\d+_)?"


def build(
    input_shape: tuple[int | None, int | None, int], pooling: str | None = "avg"
) -> keras.Model:
    return _keras.build("mobilenet_v3_large", APPLICATION, input_shape, pooling=pooling)
