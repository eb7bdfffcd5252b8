"""ResNet-50 as Keras has it: biases, stride in a block's first 1x1 convolution. Features: 2048."""

import keras
import numpy as np

from nets import _keras

APPLICATION = keras.applications.ResNet50
# Of ImageNet, in the order that the weights expect.
_BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
LAYERS = r"conv\d_block"


def build(
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None = "avg",
    last_stride: int = 2,
) -> keras.Model:
    return _keras.build(
        "resnet50",
        APPLICATION,
        input_shape,
        preprocess=lambda images: images[..., ::-1] - _BGR_MEAN,
        pooling=pooling,
        strides={"conv5_block1_0_conv": last_stride, "conv5_block1_1_conv": last_stride},
    )
