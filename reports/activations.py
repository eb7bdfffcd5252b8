"""Where a network looks: how strongly each place of an image drives the net's last map, before it
becomes features.

    from reports.activations import Activations
    maps = Activations("exp")(["a.jpg", "b.png"])  # float32 [2, h, w], 0..1

The strength of a place is the length of its C numbers in the last [h, w, C] that a layer of the net
gives; so torchreid draws it, after Zagoruyko and Komodakis, Paying More Attention to Attention,
arXiv:1612.03928, section 3.1.
"""

import os
from collections.abc import Sequence

import numpy as np

from common import UserError
from embed import Embedder


class Activations:
    """The activation maps of an experiment's network, of its newest checkpoint.

    Raises: common.UserError as Embedder does, and for a net without maps.
    """

    def __init__(self, experiment_root: str | os.PathLike):
        # Of the whole image, resized: so a map fits onto it.
        self._embedder = Embedder(experiment_root)
        from network import model  # after TensorFlow, which Embedder imports without its notes

        self._maps = last_maps(model.body(self._embedder.network))
        if self._maps is None:
            raise UserError(
                f"the net of {experiment_root}, {self._embedder.flags.model_name}, has no layer that gives maps "
                "[h, w, C]: it cannot be said where it looks. Leave --activations out."
            )

    def __call__(self, paths: Sequence[str]) -> np.ndarray:
        """Of N image files, N >= 1: float32 [N, h, w], each from 0 to 1, or all 0 where it is the
        same everywhere.

        Raises: common.UserError for a file that cannot be decoded, with its name.
        """
        import tensorflow as tf

        from data import images as image_data

        paths, strengths = [os.fspath(path) for path in paths], []
        with image_data.naming_bad_images(lambda: paths):
            for images in image_data.test_batches(paths, 32, 8, self._embedder.size):
                maps = tf.cast(self._maps(images, training=False), tf.float32)
                strengths.append(tf.norm(maps, axis=-1).numpy())
        return _stretched(np.concatenate(strengths))


def _stretched(strengths: np.ndarray) -> np.ndarray:
    """Each of [N, h, w] shifted and scaled to 0..1."""
    lowest = strengths.min(axis=(1, 2), keepdims=True)
    span = strengths.max(axis=(1, 2), keepdims=True) - lowest
    return np.divide(strengths - lowest, span, out=np.zeros_like(strengths), where=span > 0)


def last_maps(net):
    """A Keras model from the images [B, H, W, 3] of a net, one of nets/, to the last maps [B, h, w,
    C] in it, or None.

    Maps of a single place, such as a mean over all places, do not count.
    """
    import keras

    operations = list(net.operations)
    for before, operation in reversed(list(zip(operations, operations[1:], strict=False))):
        if isinstance(
            operation, keras.Model
        ):  # the application in nets/_keras.py, the only one that follows `before`
            return keras.Model(net.input, last_maps(operation)(before.output))
        shape = operation.output.shape
        if len(shape) == 4 and shape[1:3] != (1, 1):
            return keras.Model(net.input, operation.output)
    return None
