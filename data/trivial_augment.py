"""TrivialAugment (Müller and Hutter, ICCV 2021, arXiv:2103.10158): one operation on each image, drawn
from 14 with its strength, both uniformly.

The operations and their ranges are those of RandAugment, the space "RA" of the paper.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import distortions

LEVELS = 31  # of strength, the first of which changes nothing
_COLORS = {
    "autocontrast": lambda images, _: distortions.autocontrast(images),
    "equalize": lambda images, _: distortions.equalize(images),
    "solarize": distortions.solarize,
    "posterize": distortions.posterize,
    "color": distortions.saturation,
    "contrast": distortions.contrast,
    "brightness": distortions.brightness,
    "sharpness": distortions.sharpness,
}
_GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = ("identity", *_COLORS, *_GEOMETRY)

_MOST_DEGREES = 30
_MOST_SHEAR = 0.3
_MOST_SHIFT = 10 / 32  # of the side: 10 pixels of CIFAR's images
_MOST_CHANGE = 0.9  # of the factor 1
_MOST_BITS_LESS = 4


class Drawn(NamedTuple):
    """What is done to each image of a batch.

    Attributes:
        operations: places in OPERATIONS, int32 [B].
        strengths: 0 to 1, but -1 to 1 for those that have two directions, float [B].
    """

    operations: np.ndarray
    strengths: np.ndarray


def draw(rng: np.random.Generator, count: int, probability: float) -> Drawn:
    """Draw an operation for each of `count` images.

    Args:
        probability: that an image has one, 0..1; 1 in the paper. The others have the identity.
    """
    chosen = rng.random(count) < probability
    operations = rng.integers(len(OPERATIONS), size=count, dtype=np.int32)
    strengths = rng.integers(LEVELS, size=count) / (LEVELS - 1)
    signs = rng.choice([-1, 1], count)
    one_way = np.isin(operations, [OPERATIONS.index(name) for name in ("solarize", "posterize")])
    strengths = np.where(one_way, strengths, strengths * signs)
    return Drawn(np.where(chosen, operations, 0), strengths)


def geometry(drawn: Drawn, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles [B], shears [B, 2] and shifts [B, 2] as distortions.inverse_affine takes them."""
    of = {name: np.where(_is(drawn, name), drawn.strengths, 0) for name in _GEOMETRY}
    shears = _MOST_SHEAR * np.stack([of["shear_x"], of["shear_y"]], axis=1)
    shifts = np.stack([of["translate_x"] * size[1], of["translate_y"] * size[0]], axis=1)
    return _MOST_DEGREES * of["rotate"], shears, _MOST_SHIFT * shifts


def amounts(drawn: Drawn) -> np.ndarray:
    """The parameter of each image's operation on colors: float32 [B]; any number for the others."""
    values = 1 + _MOST_CHANGE * drawn.strengths
    values = np.where(_is(drawn, "solarize"), 256 * (1 - drawn.strengths), values)
    bits = 8 - np.rint(_MOST_BITS_LESS * drawn.strengths)
    return np.where(_is(drawn, "posterize"), bits, values).astype(np.float32)


def _is(drawn: Drawn, name: str) -> np.ndarray:
    return drawn.operations == OPERATIONS.index(name)


def recolor(images: tf.Tensor, operations: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Do the operations on colors; those of geometry are left to distortions.warp.

    Args:
        images: float32 [B, H, W, 3], 0..255, as what is returned.
        operations: int32 [B], as of Drawn. amounts: float32 [B], as from `amounts`.
    """
    last_color = len(_COLORS)
    groups = tf.where(operations <= last_color, operations, 0)
    functions = dict(enumerate(_COLORS.values(), start=1))
    return distortions.by_group(images, groups, functions, amounts)
