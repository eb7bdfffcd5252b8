"""The golden images, what the original made of them, and its resize written out."""

import numpy as np
import tensorflow as tf
from paths import GOLDEN

from data import images

NUMBERS = np.load(GOLDEN / "images_golden.npz")
FILES = sorted(path.name for path in (GOLDEN / "images").iterdir())
PATHS = [str(GOLDEN / "images" / name) for name in FILES]
NET, PRE = (64, 32), (72, 36)  # sizes that the numbers are of


def load(name):
    return images.decode(tf.io.read_file(str(GOLDEN / "images" / name)))


def exact(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def reference_resize(image, size):
    """TensorFlow 1's bilinear rule: sample at i · old/new, clamp at the border."""
    image = image.astype(np.float64)
    for axis, new in enumerate(size):
        old = image.shape[axis]
        at = np.arange(new) * old / new
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image
