"""EfficientNetV2-B0, small and quick, with stochastic depth in training. Features: 1280."""

import keras

from nets import _keras

APPLICATION = keras.applications.EfficientNetV2B0
LAYERS = r"block\d"


def build(
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None = "avg",
    last_stride: int = 2,
) -> keras.Model:
    return _keras.build(
        "efficientnet_v2_b0",
        APPLICATION,
        input_shape,
        pooling=pooling,
        strides={"block6a_dwconv2": last_stride},
    )
