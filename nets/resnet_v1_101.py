"""ResNet-101 v1 of TF-slim. Features: 2048."""

import keras

from nets import _resnet_v1

LAYERS = r"block\d"


def build(
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None = "avg",
    last_stride: int = 2,
) -> keras.Model:
    return _resnet_v1.build(
        input_shape, "resnet_v1_101", units=(3, 4, 23, 3), pooling=pooling, last_stride=last_stride
    )
