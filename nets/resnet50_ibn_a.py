"""ResNet-50 with instance-batch norm, IBN-Net's version a. Features: 2048."""

import keras

from nets import _resnet_torch

LAYERS = r"layer\d"


def build(
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None = "avg",
    last_stride: int = 2,
) -> keras.Model:
    return _resnet_torch.build(
        input_shape,
        "resnet50_ibn_a",
        units=(3, 4, 6, 3),
        pooling=pooling,
        last_stride=last_stride,
        ibn_stages=3,
    )
