"""ConvNeXt-Tiny, layer norm throughout. Features: 768."""

import keras

from nets import _keras

APPLICATION = keras.applications.ConvNeXtTiny
LAYERS = r"stage_\d_block_\d"


def build(input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    return _keras.build("convnext_tiny", APPLICATION, input_shape)
