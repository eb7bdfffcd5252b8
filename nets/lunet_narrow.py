"""A narrow LuNet that trains from scratch in a minute or two on two CPU cores. Features: 256.

It is made for small images, 48x48 or 64x32: the first max-pool follows the first convolution,
because the full resolution takes the most time.
"""

import keras

from nets import _lunet

_STAGES = [[], [(16, 64)], [(16, 64), (32, 128)], [(32, 128), (32, 128)]]
FROM_SCRATCH = True
LAYERS = r"stage\d|last"


def build(input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    return _lunet.build(
        input_shape, "lunet_narrow", stem=32, stages=_STAGES, last=(128, 64), hidden=256
    )
