"""From image files to tensors: read, resize, cache, and batches of them by tf.data.

Sizes are (height, width) in pixels. An image is a pure function of its file; what is drawn for it
comes from data/augment.py.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import common
from data import augment, pictures
from data.augment import Augmentation
from data.decoding import decode, fault


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """TensorFlow 1's bilinear resize, which samples at i · old/new.

    uint8 or float [H, W, 3] -> float32 [*size, 3].
    """
    return tf.raw_ops.ResizeBilinear(
        images=image[None], size=size, align_corners=False, half_pixel_centers=False
    )[0]


# ------------------------------------------------------------------------- training


class Loading(NamedTuple):
    """How images are loaded.

    Attributes:
        threads: images loaded in parallel; changes nothing in what comes out.
        cache: what is held in memory: "none", "encoded" (the files) or "decoded" (the images).
        finished: False where an accelerator takes the last step, augment.finish.
    """

    threads: int = 8
    cache: str = "none"
    finished: bool = True


def on_accelerator() -> bool:
    """Whether there is an accelerator to take the last step of loading."""
    return bool(tf.config.list_logical_devices("GPU"))


def reader(paths: Sequence[str], loading: Loading) -> Callable[[tf.Tensor], tf.Tensor]:
    """Read the images that are to be cached, now.

    Args:
        paths: str [N].

    Returns:
        a function from a row, an int tensor, to the image, uint8 [H, W, 3].
    Raises:
        common.UserError for an image that is to be cached and cannot be read.
    """
    files = tf.constant(paths)
    if loading.cache == "none":
        return lambda row: decode(tf.io.read_file(files[row]))

    def load(path):
        encoded = tf.io.read_file(path)
        return encoded if loading.cache == "encoded" else tf.io.serialize_tensor(decode(encoded))

    loaded = tf.data.Dataset.from_tensor_slices(files)
    loaded = loaded.map(load, num_parallel_calls=loading.threads).batch(len(paths))
    with explain_bad_images(lambda: paths):
        held = loaded.with_options(_own_threads(loading.threads)).get_single_element()
    if loading.cache == "encoded":
        return lambda row: decode(held[row])
    return lambda row: tf.ensure_shape(tf.io.parse_tensor(held[row], tf.uint8), [None, None, 3])


def training_batches(
    batches: Iterable[tuple[int, np.ndarray]],
    B: int,
    paths: Sequence[str],
    seed: int,
    augmentation: Augmentation,
    loading: Loading,
    shards: Sequence[slice] = (slice(None),),
) -> tf.data.Dataset:
    """Load and augment the images of each batch.

    Args:
        batches: the number of each iteration and the rows of its batch, int64 [B]; see
            data/pk_sampler.py.
        paths: the data set's image files, str [N].
        seed: of the augmentation.
        shards: parts of the batch, one for each replica, equally long.

    Returns:
        a data set with one element for each shard of each batch, in order: the images of the shard,
        b of them, and the rows of the whole batch, int64 [B]. The images are float32 RGB 0..255 [b,
        *net_size, 3] or, where loading is not to finish them, what augment.finish takes: decoded
        pixels. Images that are larger than they are resized to are then made that size first,
        rounded to whole gray levels.
    """
    read = reader(paths, loading)
    b = len(range(B)[shards[0]])

    def plan():
        for iteration, rows in batches:
            drawn = augment.draws(seed, iteration, B, augmentation) | {"rows": rows}
            for shard in shards:
                # Each image brings its part of the whole batch's rows along.
                yield {name: values[shard] for name, values in drawn.items()}, rows.reshape(b, -1)

    def load_one(drawn, rows):
        image = read(drawn.pop("rows"))
        image = _resize_small_as_float(image, augmentation.resized)
        drawn["images"] = augment.pad_and_crop(
            image, drawn["flips"], drawn["corners"], augmentation
        )
        return drawn, rows

    def load_all(drawn, rows):
        pixels, sizes = _read_pixels(read, drawn.pop("rows"), b, augmentation.resized)
        return drawn | {"pixels": pixels, "sizes": sizes}, tf.reshape(rows, [B])

    def finish(drawn, rows):
        return augment.finish(drawn, augmentation), tf.reshape(rows, [B])

    example = augment.draws(seed, 0, b, augmentation) | {"rows": np.zeros(b, np.int64)}
    specs = {name: tf.TensorSpec(values.shape, values.dtype) for name, values in example.items()}
    signature = specs, tf.TensorSpec([b, B // b], tf.int64)
    plans = tf.data.Dataset.from_generator(plan, output_signature=signature)
    if loading.finished:
        # Small pieces of memory are soon in use again: large float images are made one by one.
        loaded = plans.unbatch().map(load_one, num_parallel_calls=loading.threads)
        loaded = loaded.batch(b, drop_remainder=True).map(finish)
    else:
        loaded = plans.map(load_all, num_parallel_calls=loading.threads)
    return loaded.with_options(_own_threads(loading.threads)).prefetch(2 * len(shards))


def _resize_small_as_float(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resize in the least time: uint8 [H, W, 3] -> float32 [*size, 3].

    What is enlarged takes less time when it is float already; large images would only be copied.
    """
    small = tf.size(image) < 3 * math.prod(size)
    return tf.cond(
        small, lambda: resize(tf.cast(image, tf.float32), size), lambda: resize(image, size)
    )


def _read_pixels(
    read: Callable, rows: tf.Tensor, count: int, largest: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Read `count` images; those of more pixels than `largest` become that size.

    Returns:
        pixels uint8 [n, 3], one image after the other, and sizes int32 [count, 2].
    """
    pixels = tf.TensorArray(tf.uint8, count, element_shape=[None, 3], infer_shape=False)
    shapes = tf.TensorArray(tf.int32, count, element_shape=[3])
    for i in tf.range(count):
        # Whole batches are loaded in parallel, and at less cost.
        tf.autograph.experimental.set_loop_options(parallel_iterations=1)
        image = read(rows[i])
        if tf.size(image) > 3 * math.prod(largest):
            image = tf.cast(tf.round(resize(image, largest)), tf.uint8)
        pixels = pixels.write(i, tf.reshape(image, [-1, 3]))
        shapes = shapes.write(i, tf.shape(image))
    return pixels.concat(), shapes.stack()[:, :2]


def _own_threads(count: int) -> tf.data.Options:
    """Give the pipeline its own thread pool, so that a slow disk does not block compute threads."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = count
    return options


# ------------------------------------------------------------------------- embedding


def make_loader(size: tuple[int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Make a function from the path of a file to its image, resized: float32 [*size, 3]."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def load(path):
        return tf.ensure_shape(resize(decode(tf.io.read_file(path)), size), [*size, 3])

    return load


def test_batches(
    paths: Sequence[str], batch_size: int, threads: int, size: tuple[int, int]
) -> tf.data.Dataset:
    """The images of files, resized, in order.

    Returns:
        a data set of float32 [n, *size, 3], n at most batch_size.
    """

    images = tf.data.Dataset.from_tensor_slices(tf.constant(paths))
    images = images.map(make_loader(size), num_parallel_calls=threads).batch(batch_size)
    return images.with_options(_own_threads(threads)).prefetch(1)


# ------------------------------------------------------------------------- bad images


def decodable(paths: Sequence[str], threads: int) -> np.ndarray:
    """Read and decode all images. Returns: whether this works, bool [N]."""

    def decode_one(row, path):
        # With a result that nobody asks for, decoding would be optimized away.
        return row, tf.shape(decode(tf.io.read_file(path)))

    images = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), tf.constant(paths)))
    images = images.map(decode_one, num_parallel_calls=threads).ignore_errors()
    good = np.zeros(len(paths), bool)
    for row, _ in images.with_options(_own_threads(threads)).as_numpy_iterator():
        good[row] = True
    return good


@contextlib.contextmanager
def explain_bad_images(loading: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Turn the error about an image that cannot be decoded into one that names it.

    Args:
        loading: returns the paths that are being loaded when the error comes up.

    Raises:
        common.UserError instead of TensorFlow's error, where one of these images is to blame.
    """
    try:
        yield
    except tf.errors.OpError:
        for path in loading():
            why = _fault_of_file(path)
            if why:
                raise pictures.unreadable(path, why) from None
        raise


def _fault_of_file(path: str) -> str | None:
    try:
        encoded = tf.io.read_file(path)
    except tf.errors.OpError as error:
        return common.reason(error)
    return fault(encoded.numpy())
