"""LuNet as in the paper's table 9, for training from scratch at 128x64. Features: 512.

With --head_name direct and --embedding_dim 128 it is the paper's whole network, which has 5.00M
parameters there and 4.99M here.
"""

import keras

from nets import _lunet

_STAGES = [
    [(32, 128)],
    [(32, 128), (32, 128), (64, 256)],
    [(64, 256), (64, 256)],
    [(64, 256), (64, 256), (128, 512)],
    [(128, 512), (128, 512)],
]
FROM_SCRATCH = True
LAYERS = r"stage\d|last"


def build(input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    return _lunet.build(input_shape, "lunet", stem=128, stages=_STAGES, last=(512, 128), hidden=512)
