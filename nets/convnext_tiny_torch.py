"""ConvNeXt-Tiny as in timm, arXiv:2201.03545. Features: 768."""

import keras

from nets import _torch
from network.convolutions import Conv2D, DepthwiseConv2D

_NAME = "convnext_tiny_torch"
_CHANNELS = (96, 192, 384, 768)
_BLOCKS = (3, 3, 9, 3)
_LAYER_SCALE = 1e-6
_SMALLEST = 32  # pixels: the stages halve the images five times
LAYERS = r"stages/\d/blocks/\d"


def build(input_shape: tuple[int | None, int | None, int], drop_path: float = 0.0) -> keras.Model:
    _torch.check_smallest(_NAME, input_shape, _SMALLEST)
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = _downsample(_torch.normalize(images), _CHANNELS[0], 4, f"{_NAME}.stem.0")
    x = _torch.layer_norm(x, f"{_NAME}.stem.1")
    number = 0
    for stage, (channels, count) in enumerate(zip(_CHANNELS, _BLOCKS, strict=True)):
        name = f"{_NAME}.stages.{stage}"
        if stage > 0:
            x = _torch.layer_norm(x, f"{name}.downsample.0")
            x = _downsample(x, channels, 2, f"{name}.downsample.1")
        for block in range(count):
            rate = drop_path * number / (sum(_BLOCKS) - 1)
            x = _block(x, rate, number, f"{name}.blocks.{block}")
            number += 1
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    x = _torch.layer_norm(x, f"{_NAME}.head.norm", dtype="float32")
    return keras.Model(images, x, name=_NAME)


def _downsample(x, channels: int, size: int, name: str):
    return Conv2D(channels, size, strides=size, kernel_initializer=_torch.normal(), name=name)(x)


def _block(x, drop_path: float, number: int, name: str):
    inner = DepthwiseConv2D(
        7, padding="same", depthwise_initializer=_torch.normal(), name=f"{name}.conv_dw"
    )(x)
    inner = _torch.layer_norm(inner, f"{name}.norm")
    inner = _torch.perceptron(inner, f"{name}.mlp")
    inner = _torch.layer_scale(inner, _LAYER_SCALE, name)
    return x + _torch.drop_path(inner, drop_path, number)
