"""From image files to what a network sees: decode, resize, flip, crop.

Sizes are (height, width) in pixels. All randomness is drawn by `augmentations`, a pure function of (seed,
iteration); everything else is a pure function of the file.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

import common

_AUGMENTATIONS = 2  # the third stream of random numbers, after the two of data/pk_sampler.py

FIVE_CROPS = ("center", "top_left", "top_right", "bottom_left", "bottom_right")


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """The bytes of a JPEG, PNG, GIF, BMP or WebP file, whatever its name -> uint8 RGB [H, W, 3]; grey is expanded."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """TensorFlow 1's bilinear resize, which samples at i · old/new: uint8 or float [H, W, 3] -> float32 [*size, 3]."""
    return tf.raw_ops.ResizeBilinear(images=image[None], size=size, align_corners=False, half_pixel_centers=False)[0]


def flip(image: tf.Tensor) -> tf.Tensor:
    """Mirror left and right: [..., W, 3] -> the same shape."""
    return tf.reverse(image, axis=[-2])


def crop(image: tf.Tensor, top: tf.Tensor, left: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[H, W, 3] -> [*size, 3], from row `top` and column `left` on."""
    cropped = tf.slice(image, [top, left, 0], [*size, 3])
    cropped.set_shape([*size, 3])
    return cropped


def five_crops(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[..., H, W, 3] with H, W known -> [..., 5, *size, 3], in the order of FIVE_CROPS."""
    bottom, right = image.shape[-3] - size[0], image.shape[-2] - size[1]
    corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [image[..., top : top + size[0], left : left + size[1], :] for top, left in corners]
    return tf.stack(crops, axis=-4)


# ---------------------------------------------------------------------------------------------- training


def augmentations(
    seed: int, iteration: int, count: int, room: tuple[int, int], random_flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What is done to each image of one batch.

    Args:
      count: images in the batch, B.
      room: pixels by which the images are higher and wider than a crop; (0, 0) for no random crop.
      random_flip: whether half of the images, at random, are mirrored.

    Returns: flips bool [B], and corners int32 [B, 2], the top left pixel of each crop, from 0 to room.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration])
    flips = rng.random(count) < 0.5
    corners = rng.integers(0, room, size=(count, 2), endpoint=True, dtype=np.int32)
    return flips & random_flip, corners


def training_batches(
    batches: Iterable[np.ndarray],
    B: int,
    paths: Sequence[str],
    seed: int,
    start: int,
    net_size: tuple[int, int],
    pre_crop_size: tuple[int, int] | None,
    random_flip: bool,
    loading_threads: int,
) -> tf.data.Dataset:
    """Load and augment the images of each batch.

    Args:
      batches: int64 [B] each, row numbers of the images, from iteration `start` on; see data/pk_sampler.py.
      paths: the data set's image files.
      pre_crop_size: resize to this and take random crops of net_size; None resizes to net_size.
      loading_threads: images loaded in parallel; changes nothing in what comes out.

    Returns: a data set of (images float32 RGB 0..255 [B, *net_size, 3], row numbers int64 [B]).
    """
    size = pre_crop_size or net_size
    room = (size[0] - net_size[0], size[1] - net_size[1])
    paths = tf.constant(paths)

    def plan():
        for iteration, rows in enumerate(batches, start):
            yield rows, *augmentations(seed, iteration, len(rows), room, random_flip)

    def load(row, flipped, corner):
        image = resize(decode(tf.io.read_file(paths[row])), size)
        image = tf.cond(flipped, lambda: flip(image), lambda: image)
        return crop(image, corner[0], corner[1], net_size), row

    signature = tf.TensorSpec([B], tf.int64), tf.TensorSpec([B], tf.bool), tf.TensorSpec([B, 2], tf.int32)
    plans = tf.data.Dataset.from_generator(plan, output_signature=signature)
    images = plans.unbatch().map(load, num_parallel_calls=loading_threads).batch(B, drop_remainder=True)
    return images.with_options(_threads(loading_threads)).prefetch(2)


def _threads(loading_threads: int) -> tf.data.Options:
    """Threads of the pipeline's own: else waiting for a slow disk would take those that compute."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = loading_threads
    return options


# ---------------------------------------------------------------------------------------------- embedding


def variant_names(flip_augment: bool, crop_augment: str | None) -> list[str]:
    """Names of the variants of one image, A of them, in their order; the original's `augmentation_types`."""
    crops = {None: ("resize",), "center": ("center",), "avgpool": ("avgpool",), "five": FIVE_CROPS}[crop_augment]
    return [f"{side}_{crop}" for side in ("original", "original_flip")[: 1 + flip_augment] for crop in crops]


def variants(image: tf.Tensor, net_size: tuple[int, int], flip_augment: bool, crop_augment: str | None) -> tf.Tensor:
    """The variants of images that are embedded for them, in the order of variant_names.

    Args:
      image: float32 [..., H, W, 3], resized: to the pre_crop size with a crop_augment, else to net_size.
      flip_augment: also mirrored.
      crop_augment: "center" and "five" take crops of net_size; None and "avgpool" take the whole image.

    Returns: float32 [..., A, *size, 3], size being net_size but for "avgpool", which keeps that of the image.
    """
    sides = [image, flip(image)] if flip_augment else [image]
    if crop_augment in ("center", "five"):
        count = len(FIVE_CROPS) if crop_augment == "five" else 1
        return tf.concat([five_crops(side, net_size)[..., :count, :, :, :] for side in sides], axis=-4)
    return tf.stack(sides, axis=-4)


def test_batches(paths: Sequence[str], batch_size: int, loading_threads: int, size: tuple[int, int]) -> tf.data.Dataset:
    """The images of files, resized, in order: a data set of float32 [n, *size, 3], n at most batch_size."""

    def load(path):
        return resize(decode(tf.io.read_file(path)), size)

    images = tf.data.Dataset.from_tensor_slices(tf.constant(paths)).map(load, num_parallel_calls=loading_threads)
    return images.batch(batch_size).with_options(_threads(loading_threads)).prefetch(1)


def undecodable(paths: Sequence[str], loading_threads: int) -> set[int]:
    """Read and decode all images: the numbers of those that this does not work for."""

    def decodes(number, path):
        # With a result that nobody asks for, decoding would be optimised away.
        return number, tf.shape(decode(tf.io.read_file(path)))

    images = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), tf.constant(paths)))
    good = images.map(decodes, num_parallel_calls=loading_threads).ignore_errors()
    good = good.with_options(_threads(loading_threads))
    return set(range(len(paths))).difference(number.item() for number, _ in good.as_numpy_iterator())


@contextlib.contextmanager
def naming_bad_images(loading: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Turn the error about an image that cannot be decoded into one that names it.

    Args:
      loading: tells the paths that are being loaded when the error comes up.

    Raises: common.UserError instead of TensorFlow's error, where one of these images is to blame.
    """
    try:
        yield
    except tf.errors.OpError:
        for path in loading():
            try:
                decode(tf.io.read_file(path))
            except tf.errors.OpError as error:
                raise common.UserError(
                    f"the image {path} cannot be read: {common.reason(error)}. It should be a JPEG, PNG, GIF, BMP or "
                    "WebP file. Repair it or take its line out of the CSV; python -m data.check finds all such."
                ) from None
        raise
