"""What --rotation, --gray, --blur and --trivial_augment do to a batch of images.

Images are float32 RGB 0..255 [B, H, W, 3], and so is what is returned. Each image has its own
parameters; which ones are drawn, data/augment.py knows.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

GRAY = (0.299, 0.587, 0.114)  # of red, green and blue; ITU-R BT.601, as in Pillow


def gray(images: tf.Tensor) -> tf.Tensor:
    """The brightness of each pixel: [B, H, W, 1]."""
    return tf.reduce_sum(images * GRAY, axis=-1, keepdims=True)


def some_gray(images: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Without color where chosen, bool [B]."""
    make_gray = {1: lambda images: tf.repeat(gray(images), 3, axis=-1)}
    return by_group(images, tf.cast(chosen, tf.int32), make_gray)


def by_group(
    images: tf.Tensor, groups: tf.Tensor, functions: dict[int, Callable], *parameters: tf.Tensor
) -> tf.Tensor:
    """Let each image go through the function of its group only.

    Args:
        groups: int32 [B], from 0 to the largest key of functions; those of other groups stay.
        functions: from the images of a group, [n, H, W, 3] with n from 0 to B, and their
            parameters, [n, ...].
        parameters: [B, ...] each.
    """
    count = max(functions) + 1
    split = [tf.dynamic_partition(values, groups, count) for values in (images, *parameters)]
    parts = [
        functions[group](*of_group) if group in functions else of_group[0]
        for group, of_group in enumerate(zip(*split, strict=True))
    ]
    order = tf.argsort(groups, stable=True)  # of the parts' images
    together = tf.gather(tf.concat(parts, axis=0), tf.argsort(order))
    return tf.ensure_shape(together, images.shape)


# ------------------------------------------------------------------------- geometry


def warp(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Rotate, shear and shift; bilinear, with black where there is no image.

    Args:
        matrices: float32 [B, 6], as from `inverse_affine`: the pixel (x, y) of the result is the
            point (a x + b y + c, d x + e y + f) of the image.
    """
    changed = tf.reduce_any(matrices != tf.constant(_UNCHANGED), axis=1)
    return by_group(images, tf.cast(changed, tf.int32), {1: _warp}, matrices)


_UNCHANGED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _warp(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.pad(matrices, [[0, 0], [0, 2]]),  # no perspective
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def inverse_affine(
    size: tuple[int, int],
    angles: np.ndarray,
    shears: np.ndarray | None = None,
    shifts: np.ndarray | None = None,
) -> np.ndarray:
    """Matrices for `warp` that first shift, then shear, then rotate about the middle.

    Args:
        size: height and width of the images.
        angles: in degrees, counterclockwise, [B].
        shears: of x and y, [B, 2]: rows move by shear x times their distance from the middle, to the
            right below it, columns by shear y; None: 0.
        shifts: in pixels, to the right and down, [B, 2]; None: 0.

    Returns:
        float32 [B, 6].
    """
    count = len(angles)
    shears = np.zeros((count, 2)) if shears is None else shears
    shifts = np.zeros((count, 2)) if shifts is None else shifts
    radians = np.radians(angles)
    cos, sin = np.cos(radians), np.sin(radians)
    # From the result back to the image: y points down.
    rotate = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)
    ones = np.ones(count)
    shear = np.array([[ones, -shears[:, 0]], [-shears[:, 1], ones]]).transpose(2, 0, 1)
    linear = shear @ rotate
    middle = (np.array(size[::-1]) - 1) / 2
    offset = middle - linear @ middle - shifts
    return np.concatenate([linear, offset[:, :, None]], axis=2).reshape(-1, 6).astype(np.float32)


# ------------------------------------------------------------------------- blur


def blur(images: tf.Tensor, sigmas: tf.Tensor) -> tf.Tensor:
    """Blur by a Gaussian. At the borders its weights within the image count.

    Args:
        sigmas: in pixels, float32 [B]; 0 leaves an image as it is.
    """
    return by_group(images, tf.cast(sigmas > 0, tf.int32), {1: _blur}, sigmas)


def _blur(images: tf.Tensor, sigmas: tf.Tensor) -> tf.Tensor:
    down = _gaussians(sigmas, images.shape[1])
    across = _gaussians(sigmas, images.shape[2])
    n = tf.shape(images)[0]
    rows = tf.reshape(images, [n, images.shape[1], images.shape[2] * 3])
    blurred = tf.reshape(tf.linalg.matmul(down, rows), tf.shape(images))
    return tf.linalg.matmul(across[:, None], blurred)


def _gaussians(sigmas: tf.Tensor, length: int) -> tf.Tensor:
    """The weight of each place for each: [n] -> [n, length, length], rows of sum 1."""
    place = tf.range(length, dtype=tf.float32)
    squares = tf.square(place[:, None] - place)
    return tf.nn.softmax(-squares / (2 * tf.square(sigmas[:, None, None])))


# ------------------------------------------------------------------------- color


def brightness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Times factors, float32 [B]."""
    return tf.clip_by_value(images * _of_images(factors), 0, 255)


def contrast(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """The distance from the image's mean gray, times factors, float32 [B]."""
    mean = tf.reduce_mean(gray(images), axis=(1, 2), keepdims=True)
    return tf.clip_by_value(mean + (images - mean) * _of_images(factors), 0, 255)


def saturation(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """The distance from each pixel's gray, times factors, float32 [B]."""
    of_pixels = gray(images)
    return tf.clip_by_value(of_pixels + (images - of_pixels) * _of_images(factors), 0, 255)


def sharpness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """The distance from a smoothed image, times factors, float32 [B].

    A pixel of that is the mean of 3×3, where it counts for 5 of 13; those at the border stay.
    """
    H, W = images.shape[1:3]
    y, x = tf.range(H)[:, None], tf.range(W)
    inside = (y > 0) & (y < H - 1) & (x > 0) & (x < W - 1)
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = (tf.pad(sums, [[0, 0], [1, 1], [1, 1], [0, 0]]) + 4 * images) / 13
    smooth = tf.where(inside[:, :, None], smooth, images)
    return tf.clip_by_value(smooth + (images - smooth) * _of_images(factors), 0, 255)


def posterize(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keep the upper bits of each number, float32 [B] of 1 to 8; 8 leaves an image as it is."""
    step = _of_images(2 ** (8 - bits))
    return tf.where(step > 1, tf.floor(images / step) * step, images)


def solarize(images: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """Turn over what is not below a threshold, float32 [B]: x becomes 255 - x."""
    return tf.where(images < _of_images(thresholds), images, 255 - images)


def autocontrast(images: tf.Tensor) -> tf.Tensor:
    """Stretch each channel from its lowest and highest number to 0 and 255."""
    lowest = tf.reduce_min(images, axis=(1, 2), keepdims=True)
    highest = tf.reduce_max(images, axis=(1, 2), keepdims=True)
    stretched = (images - lowest) * 255 / tf.maximum(highest - lowest, 1e-6)
    return tf.where(highest > lowest, stretched, images)


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Make the numbers of each channel, rounded, about equally frequent; as in Pillow."""
    n, pixels = tf.shape(images)[0], images.shape[1] * images.shape[2]
    channels = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [n * 3, pixels])
    levels = tf.cast(tf.clip_by_value(tf.round(channels), 0, 255), tf.int32)
    places = levels + 256 * tf.range(n * 3)[:, None]
    ones = tf.ones(tf.shape(places)[:1] * pixels, tf.int32)
    counts = tf.math.unsorted_segment_sum(ones, tf.reshape(places, [-1]), n * 3 * 256)
    counts = tf.reshape(counts, [n * 3, 256])
    below = tf.cumsum(counts, axis=1, exclusive=True)
    of_highest = tf.gather(counts, tf.reduce_max(levels, axis=1), batch_dims=1)
    step = ((pixels - of_highest) // 255)[:, None]
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    changed = tf.cast(tf.gather(table, levels, batch_dims=1), tf.float32)
    changed = tf.where(step > 0, changed, channels)
    changed = tf.reshape(changed, [n, 3, images.shape[1], images.shape[2]])
    return tf.transpose(changed, [0, 2, 3, 1])


def _of_images(values: tf.Tensor) -> tf.Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return values[:, None, None, None]
