"""Readers of weights: named tensors, of whatever kind of file.

One of them resizes position embeddings. A variable `pos_embed` is a grid, [h, w, C], with C numbers
for each patch of an image. Weights that were trained with images of another size have another grid.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import tensorflow as tf

_POSITIONS = "pos_embed"


class Reader(Protocol):
    """Named tensors, as of tf.train.load_checkpoint and keras_weights.Arrays."""

    def has_tensor(self, name: str) -> bool: ...
    def get_tensor(self, name: str): ...
    def get_variable_to_shape_map(self) -> dict[str, list[int]]: ...
    def get_variable_to_dtype_map(self) -> dict[str, tf.DType]: ...


class Fitted:
    """A Reader whose position embeddings have the sizes that variables want.

    Args:
        reader: of what is stored.
        variables: {name: variable} of what it is for.
    """

    def __init__(self, reader: Reader, variables: Mapping):
        self._reader = reader
        self._sizes: dict[str, tuple[int, int]] = {}
        shapes = reader.get_variable_to_shape_map()
        for name, variable in variables.items():
            # With --ema, names are those of averages.
            if variable.name == _POSITIONS and shapes.get(name, [])[2:] == [variable.shape[2]]:
                self._sizes[name] = variable.shape[:2]

    def has_tensor(self, name: str) -> bool:
        return self._reader.has_tensor(name)

    def get_tensor(self, name: str):
        tensor = self._reader.get_tensor(name)
        return resize(tensor, self._sizes[name]) if name in self._sizes else tensor

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        shapes = dict(self._reader.get_variable_to_shape_map())
        for name, size in self._sizes.items():
            shapes[name] = [*size, shapes[name][2]]
        return shapes

    def get_variable_to_dtype_map(self) -> dict[str, tf.DType]:
        return self._reader.get_variable_to_dtype_map()


def resize(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a grid of position embeddings as timm's resample_abs_pos_embed does.

    Args:
        grid: float32 [h, w, C].
        size: the new h and w.

    Returns:
        float32 [*size, C], interpolated bicubically and antialiased.
    """
    if grid.shape[:2] == tuple(size):
        return grid
    return tf.image.resize(grid, size, "bicubic", antialias=True).numpy()
