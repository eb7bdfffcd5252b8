"""ResNet-50 as in torchvision and timm. Features: 2048."""

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
        "resnet50_torch",
        units=(3, 4, 6, 3),
        pooling=pooling,
        last_stride=last_stride,
    )
