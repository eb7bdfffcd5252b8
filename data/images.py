"""From image files to what a network sees: decode, resize, flip, crop.

Sizes are (height, width) in pixels. All randomness is drawn by `augmentations`, a pure function of
(seed, iteration); everything else is a pure function of the file.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import common

# The third stream of random numbers, after the two of data/pk_sampler.py: flips and corners, and
# what has its own.
_AUGMENTATIONS = 2
_COLORS, _HOLES = 1, 2

_MEAN_PIXEL = (123.68, 116.78, 103.94)  # of ImageNet, as nets/resnet_v1_50.py subtracts it
_ERASING_TRIES = 10

FIVE_CROPS = ("center", "top_left", "top_right", "bottom_left", "bottom_right")


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """The bytes of a JPEG, PNG, GIF, BMP or WebP file, whatever its name -> uint8 RGB [H, W, 3];
    grey is expanded.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """TensorFlow 1's bilinear resize, which samples at i · old/new: uint8 or float [H, W, 3] ->
    float32 [*size, 3].
    """
    return tf.raw_ops.ResizeBilinear(
        images=image[None], size=size, align_corners=False, half_pixel_centers=False
    )[0]


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


# ------------------------------------------------------------------------- training


class Augmentation(NamedTuple):
    """What is done to the images of a training; the flags of experiment.py tell what each means."""

    net_size: tuple[int, int]
    pre_crop_size: tuple[int, int] | None = None
    random_flip: bool = False
    pad_crop: int = 0
    color_jitter: float = 0.0
    random_erasing: float = 0.0

    @property
    def resized(self) -> tuple[int, int]:
        """The size that images are resized to, before they are padded and cropped."""
        return self.pre_crop_size or self.net_size

    @property
    def room(self) -> tuple[int, int]:
        """Pixels by which images are higher and wider than their crops."""
        return tuple(
            old + 2 * self.pad_crop - new
            for old, new in zip(self.resized, self.net_size, strict=True)
        )


def augmentations(
    seed: int, iteration: int, count: int, room: tuple[int, int], random_flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How each image of one batch is flipped and cropped.

    Args:
      count: images in the batch, B.
      room: pixels by which the images are higher and wider than a crop; (0, 0) for no random crop.
      random_flip: whether half of the images, at random, are mirrored.

    Returns: flips bool [B], and corners int32 [B, 2], the top left pixel of each crop, from 0 to
        room.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration])
    flips = rng.random(count) < 0.5
    corners = rng.integers(0, room, size=(count, 2), endpoint=True, dtype=np.int32)
    return flips & random_flip, corners


def color_factors(seed: int, iteration: int, count: int, strength: float) -> np.ndarray:
    """Factors of brightness, contrast and saturation for each image of one batch: float32 [B, 3], 1
    ± strength.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _COLORS])
    return rng.uniform(1 - strength, 1 + strength, (count, 3)).astype(np.float32)


def holes(
    seed: int, iteration: int, count: int, probability: float, size: tuple[int, int]
) -> np.ndarray:
    """What is erased of each image of one batch (Zhong et al. 2017, "Random Erasing Data
    Augmentation", algorithm 1).

    A rectangle of 0.02 to 0.4 of the image's area, 0.3 to 3.33 times as high as wide, anywhere
    within the image. One that does not fit is drawn again, up to _ERASING_TRIES times.

    Returns: int32 [B, 4], the first row and column of each rectangle and the first beyond it: the
      same where nothing is erased.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _HOLES])
    erased = rng.random(count) < probability
    area = rng.uniform(0.02, 0.4, (_ERASING_TRIES, count)) * size[0] * size[1]
    aspect = rng.uniform(0.3, 1 / 0.3, (_ERASING_TRIES, count))
    sides = np.maximum(np.rint(np.sqrt([area * aspect, area / aspect])), 1).astype(
        np.int32
    )  # heights and widths
    fits = (sides[0] < size[0]) & (sides[1] < size[1])
    sides = sides[:, fits.argmax(axis=0), np.arange(count)].T
    sides = np.where((erased & fits.any(axis=0))[:, None], sides, 0)
    corners = rng.integers(0, size - sides, endpoint=True, dtype=np.int32)
    return np.concatenate([corners, corners + sides], axis=1)


def draws(
    seed: int, iteration: int, count: int, augmentation: Augmentation
) -> dict[str, np.ndarray]:
    """All that is drawn for one batch, each from a stream of its own: flips, corners, and what else
    is asked for.
    """
    flips, corners = augmentations(
        seed, iteration, count, augmentation.room, augmentation.random_flip
    )
    drawn = {"flips": flips, "corners": corners}
    if augmentation.color_jitter:
        drawn["colors"] = color_factors(seed, iteration, count, augmentation.color_jitter)
    if augmentation.random_erasing:
        drawn["holes"] = holes(
            seed, iteration, count, augmentation.random_erasing, augmentation.net_size
        )
    return drawn


def recolor(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Change brightness, then contrast (against the image's mean grey), then saturation (against
    each pixel's grey).

    Args:
      images: float32 [B, H, W, 3], 0..255, as what is returned.
      factors: float32 [B, 3], as from color_factors.
    """
    brightness, contrast, saturation = tf.unstack(factors[:, :, None, None, None], axis=1)
    images = tf.clip_by_value(images * brightness, 0, 255)
    mean = tf.reduce_mean(_grey(images), axis=(1, 2), keepdims=True)
    images = tf.clip_by_value(mean + (images - mean) * contrast, 0, 255)
    grey = _grey(images)
    return tf.clip_by_value(grey + (images - grey) * saturation, 0, 255)


def _grey(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(images * [0.299, 0.587, 0.114], axis=-1, keepdims=True)


def erase(images: tf.Tensor, rectangles: tf.Tensor) -> tf.Tensor:
    """Fill a rectangle (see holes), int32 [B, 4], of each image, float32 [B, H, W, 3], with
    ImageNet's mean pixel.
    """
    top, left, bottom, right = tf.unstack(rectangles[:, :, None], axis=1)
    y, x = tf.range(images.shape[1]), tf.range(images.shape[2])
    inside = ((top <= y) & (y < bottom))[:, :, None] & ((left <= x) & (x < right))[:, None, :]
    return tf.where(inside[..., None], tf.constant(_MEAN_PIXEL), images)


def augment(
    image: tf.Tensor, flipped: tf.Tensor, corner: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Resize, pad, flip and crop one image: uint8 [H, W, 3] -> float32 [*net_size, 3]."""
    size = augmentation.resized
    # What is enlarged is resized in less time when it is float already; large images would only be
    # copied.
    small = tf.size(image) < 3 * math.prod(size)
    image = tf.cond(
        small, lambda: resize(tf.cast(image, tf.float32), size), lambda: resize(image, size)
    )
    if augmentation.pad_crop:
        image = tf.pad(image, [[augmentation.pad_crop] * 2] * 2 + [[0, 0]])
    top, left = corner[0], tf.where(flipped, augmentation.room[1] - corner[1], corner[1])
    image = crop(image, top, left, augmentation.net_size)
    return tf.cond(flipped, lambda: flip(image), lambda: image)


def augment_batch(
    pixels: tf.Tensor,
    sizes: tf.Tensor,
    flips: tf.Tensor,
    corners: tf.Tensor,
    augmentation: Augmentation,
) -> tf.Tensor:
    """What `augment` does, for all images of a batch at once and whatever their sizes: the way of
    an accelerator.

    Args:
      pixels: uint8 [n, 3], those of all images, one image after the other.
      sizes: int32 [B, 2], the images' heights and widths.
      flips, corners: bool [B] and int32 [B, 2], as from augmentations.

    Returns: float32 [B, *net_size, 3].
    """

    def taps(axis, mirrored):
        # Between which two rows or columns of its image each one of the crop lies, and how far: [B,
        # length] each.
        old, new = sizes[:, axis, None], augmentation.resized[axis]
        at = corners[:, axis, None] - augmentation.pad_crop + tf.range(augmentation.net_size[axis])
        at = tf.where(mirrored, new - 1 - at, at)
        scaled = tf.cast(at, tf.float32) * (tf.cast(old, tf.float32) / new)
        low = tf.clip_by_value(tf.cast(scaled, tf.int32), 0, old - 1)
        return (
            low,
            tf.minimum(low + 1, old - 1),
            scaled - tf.cast(low, tf.float32),
            (at >= 0) & (at < new),
        )

    top, bottom, down, y_inside = taps(0, False)
    left, right, across, x_inside = taps(1, flips[:, None])
    first = tf.cumsum(tf.reduce_prod(sizes, axis=1), exclusive=True)[:, None]

    def line(y):
        start = (first + y * sizes[:, 1, None])[:, :, None]
        before = tf.cast(tf.gather(pixels, start + left[:, None, :]), tf.float32)
        after = tf.cast(tf.gather(pixels, start + right[:, None, :]), tf.float32)
        return before + (after - before) * across[:, None, :, None]

    upper, lower = line(top), line(bottom)
    images = upper + (lower - upper) * down[:, :, None, None]
    if augmentation.pad_crop:
        images = tf.where((y_inside[:, :, None] & x_inside[:, None, :])[..., None], images, 0.0)
    return images


def on_accelerator() -> bool:
    """Whether there is an accelerator to take the last step of loading."""
    return bool(tf.config.list_logical_devices("GPU"))


def finish(batch: dict[str, tf.Tensor], augmentation: Augmentation) -> tf.Tensor:
    """The last step of loading a batch. Returns: float32 RGB 0..255 [B, *net_size, 3].

    Args:
      batch: an element of training_batches(..., finished=False).
    """
    images = batch.get("images")
    if images is None:
        images = augment_batch(
            batch["pixels"], batch["sizes"], batch["flips"], batch["corners"], augmentation
        )
    if "colors" in batch:
        images = recolor(images, batch["colors"])
    if "holes" in batch:
        images = erase(images, batch["holes"])
    return images


def reader(
    paths: Sequence[str], cache: str, loading_threads: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns: a function from an image's row number, an int tensor, to the image, uint8 [H, W, 3].

    Args:
      cache: "none" reads and decodes the file each time. "encoded" reads all files now and decodes
        each time; "decoded" reads and decodes all now.

    Raises: common.UserError for an image that cannot be read now.
    """
    paths = tf.constant(paths)
    if cache == "none":
        return lambda row: decode(tf.io.read_file(paths[row]))

    def load(path):
        encoded = tf.io.read_file(path)
        return encoded if cache == "encoded" else tf.io.serialize_tensor(decode(encoded))

    held = tf.data.Dataset.from_tensor_slices(paths).map(load, num_parallel_calls=loading_threads)
    held = held.batch(len(paths)).with_options(_threads(loading_threads))
    with naming_bad_images(lambda: [path.decode() for path in paths.numpy()]):
        held = held.get_single_element()
    if cache == "encoded":
        return lambda row: decode(held[row])
    return lambda row: tf.ensure_shape(tf.io.parse_tensor(held[row], tf.uint8), [None, None, 3])


def training_batches(
    batches: Iterable[np.ndarray],
    B: int,
    paths: Sequence[str],
    seed: int,
    start: int,
    augmentation: Augmentation,
    loading_threads: int,
    cache: str = "none",
    shards: Sequence[slice] = (slice(None),),
    finished: bool = True,
) -> tf.data.Dataset:
    """Load and augment the images of each batch.

    Args:
      batches: int64 [B] each, row numbers of the images, from iteration `start` on; see
          data/pk_sampler.py.
      paths: the data set's image files.
      loading_threads: images loaded in parallel; changes nothing in what comes out.
      cache: what is held in memory: "none", "encoded" or "decoded"; see reader.
      shards: parts of the batch, one for each replica, equally long.
      finished: False where an accelerator takes the last step, `finish`. It is then given the
        decoded pixels: images that are larger than they are resized to are made that size first,
        rounded to whole grey levels.

    Returns: a data set with one element for each shard of each batch, in order: the images of the
      shard, b of them, and the row numbers of the whole batch, int64 [B]. The images are float32
      RGB 0..255 [b, *net_size, 3] or, where not finished, what `finish` takes.
    """
    read = reader(paths, cache, loading_threads)
    b = len(range(B)[shards[0]])

    def plan():
        for iteration, rows in enumerate(batches, start):
            drawn = draws(seed, iteration, B, augmentation) | {"rows": rows}
            for shard in shards:
                # Each image brings its part of the whole batch's rows along.
                yield {name: values[shard] for name, values in drawn.items()}, rows.reshape(b, -1)

    def load_one(drawn, rows):
        drawn["images"] = augment(
            read(drawn.pop("rows")), drawn["flips"], drawn["corners"], augmentation
        )
        return drawn, rows

    def load_pixels(drawn, rows):
        part = drawn.pop("rows")
        pixels = tf.TensorArray(tf.uint8, b, element_shape=[None, 3], infer_shape=False)
        shapes = tf.TensorArray(tf.int32, b, element_shape=[3])
        for i in tf.range(b):
            tf.autograph.experimental.set_loop_options(
                parallel_iterations=1
            )  # whole batches are, and at less cost
            image = read(part[i])
            if tf.size(image) > 3 * math.prod(augmentation.resized):
                image = tf.cast(tf.round(resize(image, augmentation.resized)), tf.uint8)
            pixels = pixels.write(i, tf.reshape(image, [-1, 3]))
            shapes = shapes.write(i, tf.shape(image))
        return drawn | {"pixels": pixels.concat(), "sizes": shapes.stack()[:, :2]}, tf.reshape(
            rows, [B]
        )

    def finish_batch(drawn, rows):
        return finish(drawn, augmentation), tf.reshape(rows, [B])

    example = draws(seed, start, b, augmentation) | {"rows": np.zeros(b, np.int64)}
    signature = {
        name: tf.TensorSpec(values.shape, values.dtype) for name, values in example.items()
    }
    signature = signature, tf.TensorSpec([b, B // b], tf.int64)
    plans = tf.data.Dataset.from_generator(plan, output_signature=signature)
    if finished:
        # Small pieces of memory are soon in use again: large float images are made one by one.
        loaded = plans.unbatch().map(load_one, num_parallel_calls=loading_threads)
        loaded = loaded.batch(b, drop_remainder=True).map(finish_batch)
    else:
        loaded = plans.map(load_pixels, num_parallel_calls=loading_threads)
    return loaded.with_options(_threads(loading_threads)).prefetch(2 * len(shards))


def _threads(loading_threads: int) -> tf.data.Options:
    """Threads of the pipeline's own: else waiting for a slow disk would take those that compute."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = loading_threads
    return options


# ------------------------------------------------------------------------- embedding


def variant_names(flip_augment: bool, crop_augment: str | None) -> list[str]:
    """Names of the variants of one image, A of them, in their order; the original's
    `augmentation_types`.
    """
    crops = {None: ("resize",), "center": ("center",), "avgpool": ("avgpool",), "five": FIVE_CROPS}[
        crop_augment
    ]
    return [
        f"{side}_{crop}"
        for side in ("original", "original_flip")[: 1 + flip_augment]
        for crop in crops
    ]


def variants(
    image: tf.Tensor, net_size: tuple[int, int], flip_augment: bool, crop_augment: str | None
) -> tf.Tensor:
    """The variants of images that are embedded for them, in the order of variant_names.

    Args:
      image: float32 [..., H, W, 3], resized: to the pre_crop size with a crop_augment, else to
          net_size.
      flip_augment: also mirrored.
      crop_augment: "center" and "five" take crops of net_size; None and "avgpool" take the whole
          image.

    Returns: float32 [..., A, *size, 3], size being net_size but for "avgpool", which keeps that of
        the image.
    """
    sides = [image, flip(image)] if flip_augment else [image]
    if crop_augment in ("center", "five"):
        count = len(FIVE_CROPS) if crop_augment == "five" else 1
        return tf.concat(
            [five_crops(side, net_size)[..., :count, :, :, :] for side in sides], axis=-4
        )
    return tf.stack(sides, axis=-4)


def test_batches(
    paths: Sequence[str], batch_size: int, loading_threads: int, size: tuple[int, int]
) -> tf.data.Dataset:
    """The images of files, resized, in order: a data set of float32 [n, *size, 3], n at most
    batch_size.
    """

    def load(path):
        return resize(decode(tf.io.read_file(path)), size)

    images = tf.data.Dataset.from_tensor_slices(tf.constant(paths)).map(
        load, num_parallel_calls=loading_threads
    )
    return images.batch(batch_size).with_options(_threads(loading_threads)).prefetch(1)


def undecodable(paths: Sequence[str], loading_threads: int) -> set[int]:
    """Read and decode all images: the numbers of those that this does not work for."""

    def decodes(number, path):
        # With a result that nobody asks for, decoding would be optimised away.
        return number, tf.shape(decode(tf.io.read_file(path)))

    images = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), tf.constant(paths)))
    good = images.map(decodes, num_parallel_calls=loading_threads).ignore_errors()
    good = good.with_options(_threads(loading_threads))
    return set(range(len(paths))).difference(
        number.item() for number, _ in good.as_numpy_iterator()
    )


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
