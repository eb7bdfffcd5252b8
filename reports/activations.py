"""Where a network looks: how strongly each place of an image drives the net's last map.

    from reports.activations import Activations
    maps = Activations("exp")(["a.jpg", "b.png"])  # float32 [2, h, w], 0..1

The strength of a place is the length of its C numbers in the last [h, w, C] that a layer of the net
gives, before it becomes features. torchreid draws it like that, after Zagoruyko and Komodakis,
Paying More Attention to Attention, arXiv:1612.03928, section 3.1.
"""

import dataclasses
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from common import UserError
from data import images as image_data
from data.dataset import ImageFiles
from experiment import args_json
from network import embedder, model

_IMAGES_AT_A_TIME = 32
_LOADING_THREADS = 8


class Activations:
    """The activation maps of an experiment's network, with its newest checkpoint.

    Raises:
        UserError: as embedder.load does, and for a net without maps.
    """

    def __init__(self, experiment_root: str | os.PathLike):
        flags = args_json.architecture(experiment_root, given={})
        # Of the whole image, resized to the size of the training, so that a map fits onto it.
        self._size = flags.net_size
        self._upright = flags.upright
        self._reduced = flags.reduced
        _, network = embedder.load(experiment_root, flags)
        maps = last_maps(model.net_of(network))
        if maps is None:
            raise UserError(
                f"the net of {experiment_root}, {flags.model_name}, has no layer that gives maps [h, w, C]: it cannot "
                "be said where it looks. Leave --activations out."
            )
        self._maps = maps

    def __call__(self, images: Sequence[str] | ImageFiles) -> np.ndarray:
        """The maps of N images, N >= 1.

        Args:
            images: paths of files, also with boxes.

        Returns:
            float32 [N, h, w], each from 0 to 1, or all 0 where it is the same everywhere.

        Raises:
            UserError: a file cannot be decoded; its name is given.
        """
        if not isinstance(images, ImageFiles):
            images = ImageFiles([os.fspath(path) for path in images])
        images = dataclasses.replace(images, upright=self._upright)
        strengths = []
        for pixels in image_data.test_batches(
            images, _IMAGES_AT_A_TIME, _LOADING_THREADS, self._size, self._reduced
        ):
            maps = tf.cast(self._maps(pixels, training=False), tf.float32)
            strengths.append(tf.norm(maps, axis=-1).numpy())
        return _stretched(np.concatenate(strengths))


def _stretched(strengths: np.ndarray) -> np.ndarray:
    """Shift and scale each of [N, h, w] to 0..1."""
    lowest = strengths.min(axis=(1, 2), keepdims=True)
    span = strengths.max(axis=(1, 2), keepdims=True) - lowest
    return np.divide(strengths - lowest, span, out=np.zeros_like(strengths), where=span > 0)


def last_maps(net: keras.Model) -> keras.Model | None:
    """The part of a net up to its last maps.

    Maps of a single place, such as a mean over all places, do not count. The tokens of a vision
    transformer do, as a map of its patches.

    Args:
        net: one of nets/, from images [B, H, W, 3].

    Returns:
        A model from the same images to the maps [B, h, w, C]; None if there are none.
    """
    operations = list(net.operations)
    # Of the patches of a vision transformer: h, w, C.
    grid = next((tuple(each.shape) for each in net.weights if each.name == "pos_embed"), None)
    for before, operation in reversed(list(zip(operations, operations[1:], strict=False))):
        if isinstance(operation, keras.Model):
            # The application in nets/_keras.py; of all models within nets, only it follows `before`.
            inner = last_maps(operation)
            if inner is not None:
                return keras.Model(net.input, inner(before.output))
        shape = operation.output.shape
        if len(shape) == 4 and shape[1:3] != (1, 1):
            return keras.Model(net.input, operation.output)
        if grid and shape[1:] == (1 + grid[0] * grid[1], grid[2]):
            patches = keras.layers.Reshape(grid)(operation.output[:, 1:])
            return keras.Model(net.input, patches)
    return None
