"""ResNet-50 v1 of TF-slim, the net of the paper's TriNet. Features: 2048."""

import keras

from nets import _resnet_v1

LAYERS = r"block\d"


def build(
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None = "avg",
    last_stride: int = 2,
) -> keras.Model:
    return _resnet_v1.build(
        input_shape, "resnet_v1_50", units=(3, 4, 6, 3), pooling=pooling, last_stride=last_stride
    )
