"""DenseNet-121. Features: 1024."""

import keras
import numpy as np

from nets import _keras

APPLICATION = keras.applications.DenseNet121
# Of ImageNet, RGB in 0..1.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
LAYERS = r"conv\d_block"


def build(
    input_shape: tuple[int | None, int | None, int], pooling: str | None = "avg"
) -> keras.Model:
    return _keras.build(
        "densenet121",
        APPLICATION,
        input_shape,
        preprocess=lambda images: (images / 255.0 - _MEAN) / _DEVIATION,
        pooling=pooling,
    )
