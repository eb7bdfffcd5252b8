"""From image files to tensors: read, resize, cache, and batches of them by tf.data.

Sizes are (height, width) in pixels. An image is a pure function of its file and its box; what is
drawn for it comes from data/augment.py.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import augment, patience
from data.augment import Augmentation
from data.dataset import ImageFiles, distinct_files
from data.decoding import decode, orientation, reduced_box, reduction, turn

# For functions of tf.data. Only loops over tensors need AutoGraph, which reads the source of all
# that is called for a second.
_as_it_is = tf.autograph.experimental.do_not_convert


def resize(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """TensorFlow 1's bilinear resize, which samples at i · old/new.

    uint8 or float [H, W, 3] -> float32 [*size, 3].
    """
    return tf.raw_ops.ResizeBilinear(
        images=image[None], size=size, align_corners=False, half_pixel_centers=False
    )[0]


def cut_out(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The part of an image that is meant: uint8 [H, W, 3] -> [h, w, 3].

    Args:
        box: int32 [4], as of data.dataset.Dataset.

    Raises:
        tf.errors.InvalidArgumentError for a box that is not within the image.
    """
    left, top, right, bottom = tf.unstack(box)
    return tf.cond(
        right > 0,
        lambda: tf.slice(image, [top, left, 0], [bottom - top, right - left, 3]),
        lambda: image,
    )


@_as_it_is
def _pixels(
    encoded: tf.Tensor, box: tf.Tensor | None, upright: bool, at_least: tuple[int, int] | None
) -> tf.Tensor:
    """The bytes of an image file -> the part that is meant, turned if upright: uint8 [h, w, 3].

    Args:
        at_least: the size that it is to be resized to, where a JPEG may be decoded smaller.
    """
    turned = orientation(encoded) if upright else tf.constant(1)
    ratio = None
    if at_least is not None:
        ratio = reduction(encoded, box, turned, at_least)
        box = None if box is None else reduced_box(box, ratio)
    image = decode(encoded, ratio)
    if box is not None:
        image = cut_out(image, box)
    return turn(image, turned) if upright else image


def _as_files(images: ImageFiles | Sequence[str]) -> ImageFiles:
    return images if isinstance(images, ImageFiles) else ImageFiles(images)


# ------------------------------------------------------------------------- training


class Loading(NamedTuple):
    """How images are loaded.

    Attributes:
        threads: images loaded in parallel; changes nothing in what comes out.
        cache: what is held in memory: "none", "encoded" (the files) or "decoded" (the images).
        finished: False where an accelerator takes the last step, augment.finish.
        reduced: whether large JPEGs are decoded smaller, as data.decoding.reduction says.
        stored: the function of data.resized.reader, where images are on disk, resized.
    """

    threads: int = 8
    cache: str = "none"
    finished: bool = True
    reduced: bool = False
    stored: Callable[[tf.Tensor], tf.Tensor] | None = None


def on_accelerator() -> bool:
    """Whether there is an accelerator to take the last step of loading."""
    return bool(tf.config.list_logical_devices("GPU"))


class Reader(NamedTuple):
    """How the images of a data set are read.

    Attributes:
        plan: from rows, int [n], to what `read` needs of them: arrays [n, ...] by their names.
        read: from the same of one image, as tensors, to the image, uint8 [H, W, 3].
    """

    plan: Callable[[np.ndarray], dict[str, np.ndarray]]
    read: Callable[[dict[str, tf.Tensor]], tf.Tensor]

    def of(self, row: int) -> tf.Tensor:
        """One image, as a training reads it."""
        plan = self.plan(np.array([row]))
        return self.read({name: tf.constant(values[0]) for name, values in plan.items()})


def reader(
    images: ImageFiles | Sequence[str], loading: Loading, size: tuple[int, int] | None = None
) -> Reader:
    """Read the images that are to be cached, now. Those that are mirrored are read as they are.

    Paths and boxes come with the plan of each batch: as tensors, those of a million images would
    take a hundred megabytes more.

    Args:
        images: N of them, or the paths of N files.
        size: that they are to be resized to; needed where large JPEGs are decoded smaller.

    Raises:
        pictures.UnreadableError for an image that is to be cached and cannot be read.
    """
    images = _as_files(images)
    at_least = size if loading.reduced else None
    if loading.stored is not None:
        read_stored = loading.stored
        return Reader(lambda rows: {"row": rows}, lambda file: read_stored(file["row"]))
    if loading.cache == "decoded":

        def load(path, box=None):
            pixels = _pixels(tf.io.read_file(path), box, images.upright, at_least)
            return tf.io.serialize_tensor(pixels)

        held, places = images, np.arange(len(images))
        if images.mirrored is not None:  # copies share their pixels
            held, places = distinct_files([images])
        held_pixels = _hold(held, load, loading)
        return Reader(
            lambda rows: {"place": places[rows]},
            lambda file: _parsed_pixels(held_pixels[file["place"]]),
        )
    if loading.cache == "encoded":
        # Several boxes of a file share its bytes.
        paths, places = np.unique(np.asarray(images.paths, dtype=object), return_inverse=True)
        held = _hold(ImageFiles(paths), tf.io.read_file, loading)

        def plan_files(rows):
            return {"place": places[rows]}

        def read_file(file):
            return held[file["place"]]
    else:

        def plan_files(rows):
            return {"path": images.select(rows).paths}

        def read_file(file):
            return tf.io.read_file(file["path"])

    def plan(rows):
        boxes = {} if images.boxes is None else {"box": images.boxes[rows]}
        return plan_files(rows) | boxes

    def read(file):
        return _pixels(read_file(file), file.get("box"), images.upright, at_least)

    return Reader(plan, read)


def _parsed_pixels(serialized: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.parse_tensor(serialized, tf.uint8), [None, None, 3])


def _hold(images: ImageFiles, load: Callable, loading: Loading) -> tf.Tensor:
    """What `load` makes of each image: strings [N]."""
    boxes = () if images.boxes is None else (tf.constant(images.boxes, tf.int32),)
    loaded = tf.data.Dataset.from_tensor_slices((_paths(images), *boxes))
    loaded = loaded.map(load, num_parallel_calls=loading.threads).batch(len(images))
    loaded = loaded.with_options(_own_threads(loading.threads))
    return patience.patiently(loaded.get_single_element, lambda: images)


def _paths(images: ImageFiles) -> tf.Tensor:
    return tf.constant(np.asarray(images.paths, dtype=object))


def training_batches(
    batches: Iterable[tuple[int, np.ndarray]],
    B: int,
    images: ImageFiles | Sequence[str],
    seed: int,
    augmentation: Augmentation,
    loading: Loading,
    shards: Sequence[slice] = (slice(None),),
) -> tf.data.Dataset:
    """Load and augment the images of each batch.

    Args:
        batches: the number of each iteration and the rows of its batch, int64 [B]; see
            data/pk_sampler.py.
        images: those of the data set, N of them, or the paths of their files.
        seed: of the augmentation.
        shards: parts of the batch, one for each replica, equally long.

    Returns:
        a data set with one element for each shard of each batch, in order: the images of the shard,
        b of them, and the rows of the whole batch, int64 [B]. The images are float32 RGB 0..255 [b,
        *net_size, 3] or, where loading is not to finish them, what augment.finish takes: decoded
        pixels. Images that are larger than they are resized to are then made that size first,
        rounded to whole gray levels.
    """
    images = _as_files(images)
    read_by = reader(images, loading, augmentation.needed)
    b = len(range(B)[shards[0]])

    def plan():
        for iteration, rows in batches:
            drawn = augment.draws(seed, iteration, B, augmentation)
            if images.mirrored is not None:
                drawn["flips"] = drawn["flips"] ^ images.mirrored[rows]
            files = read_by.plan(rows)
            for shard in shards:
                # Each image brings its part of the whole batch's rows along.
                yield _part(files, shard), _part(drawn, shard), rows.reshape(b, -1)

    @_as_it_is
    def load_one(file, drawn, rows):
        image = _part_of(read_by.read(file), drawn.pop("parts", None))
        image = _resize_small_as_float(image, augmentation.resized)
        drawn["images"] = augment.pad_and_crop(
            image, drawn["flips"], drawn["corners"], augmentation
        )
        return drawn, rows

    def load_all(files, drawn, rows):
        if "parts" in drawn:
            files["part"] = drawn.pop("parts")

        def read(file):
            return _part_of(read_by.read(file), file.get("part"))

        pixels, sizes = _read_pixels(read, files, b, augmentation.resized)
        return drawn | {"pixels": pixels, "sizes": sizes}, tf.reshape(rows, [B])

    @_as_it_is
    def finish(drawn, rows):
        return augment.finish(drawn, augmentation), tf.reshape(rows, [B])

    specs = [
        {name: tf.type_spec_from_value(tf.constant(values)) for name, values in example.items()}
        for example in (
            read_by.plan(np.zeros(b, np.int64)),
            augment.draws(seed, 0, b, augmentation),
        )
    ]
    signature = *specs, tf.TensorSpec([b, B // b], tf.int64)
    plans = tf.data.Dataset.from_generator(plan, output_signature=signature)
    if loading.finished:
        # Small pieces of memory are soon in use again: large float images are made one by one.
        loaded = plans.unbatch().map(load_one, num_parallel_calls=loading.threads)
        loaded = loaded.batch(b, drop_remainder=True).map(finish)
    else:
        loaded = plans.map(load_all, num_parallel_calls=loading.threads)
    return loaded.with_options(_own_threads(loading.threads)).prefetch(2 * len(shards))


def _part_of(image: tf.Tensor, part: tf.Tensor | None) -> tf.Tensor:
    return image if part is None else augment.take_part(image, part)


def _part(arrays: dict[str, np.ndarray], part: slice) -> dict[str, np.ndarray]:
    return {name: values[part] for name, values in arrays.items()}


def _resize_small_as_float(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resize in the least time: uint8 [H, W, 3] -> float32 [*size, 3].

    What is enlarged takes less time when it is float already; large images would only be copied.
    """
    small = tf.size(image) < 3 * math.prod(size)
    return tf.cond(
        small, lambda: resize(tf.cast(image, tf.float32), size), lambda: resize(image, size)
    )


def _read_pixels(
    read: Callable, files: dict[str, tf.Tensor], count: int, largest: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Read `count` images, of which a Reader's plan is given; those of more pixels than `largest` become that size.

    Returns:
        pixels uint8 [n, 3], one image after the other, and sizes int32 [count, 2].
    """
    pixels = tf.TensorArray(tf.uint8, count, element_shape=[None, 3], infer_shape=False)
    shapes = tf.TensorArray(tf.int32, count, element_shape=[3])
    for i in tf.range(count):
        # Whole batches are loaded in parallel, and at less cost.
        tf.autograph.experimental.set_loop_options(parallel_iterations=1)
        image = read({name: values[i] for name, values in files.items()})
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


# A path or the bytes of a file, and the part of the image that is meant.
_TEXT_AND_BOX = [tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32)]


@functools.cache  # so that it is traced once, however many pipelines there are
def make_loader(
    size: tuple[int, int], upright: bool = False, reduced: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Make a function from the path of a file and a box to the image, resized: float32 [*size, 3].

    Args:
        upright: whether to turn images as EXIF says.
        reduced: whether large JPEGs are decoded smaller, as data.decoding.reduction says.
    """

    decode_file = make_decoder(size, upright, reduced)

    @tf.function(input_signature=_TEXT_AND_BOX, autograph=False)
    def load(path, box):
        return decode_file(tf.io.read_file(path), box)

    return load


@functools.cache
def make_decoder(
    size: tuple[int, int], upright: bool = False, reduced: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """As make_loader, from the bytes of a file in place of its path."""

    @tf.function(input_signature=_TEXT_AND_BOX, autograph=False)
    def load(encoded, box):
        pixels = _pixels(encoded, box, upright, size if reduced else None)
        return tf.ensure_shape(resize(pixels, size), [*size, 3])

    return load


def load_few(images: ImageFiles, load: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> list:
    """What a function of make_loader makes of each image, without the cost of a pipeline."""

    def load_all():
        pairs = zip(images.paths, _boxes(images), strict=True)
        return [load(tf.constant(path), tf.constant(box)) for path, box in pairs]

    return patience.patiently(load_all, lambda: images)


def _boxes(images: ImageFiles) -> np.ndarray:
    """int32 [N, 4], also where all of each image is meant."""
    return np.zeros((len(images), 4), np.int32) if images.boxes is None else images.boxes


def test_batches(
    images: ImageFiles | Sequence[str],
    batch_size: int,
    threads: int,
    size: tuple[int, int],
    reduced: bool = False,
) -> Iterator[tf.Tensor]:
    """Images, resized, in order.

    Args:
        images: N of them, or the paths of N files.
        reduced: as of make_loader.

    Yields:
        float32 [n, *size, 3], n at most batch_size.

    Raises:
        pictures.UnreadableError for an image that cannot be read.
    """
    images = _as_files(images)
    # tf.data sets memory aside for a whole batch, which may be more than there are images.
    batch_size = max(1, min(batch_size, len(images)))
    load = make_loader(size, images.upright, reduced)

    def batches_from(start):
        rest = images.select(slice(start, None))
        files = tf.data.Dataset.from_tensor_slices((_paths(rest), _boxes(rest)))
        loaded = files.map(load, num_parallel_calls=threads).batch(batch_size)
        return iter(loaded.with_options(_own_threads(threads)).prefetch(1))

    def files_of(start):
        return images.select(slice(start, start + batch_size))

    return patience.resumed(batches_from, range(0, len(images), batch_size), files_of)


# ------------------------------------------------------------------------- bad images


def decodable(images: ImageFiles | Sequence[str], threads: int) -> np.ndarray:
    """Read, decode and cut out all images. Returns: whether they are images, bool [N].

    Raises:
        pictures.UnreadableError for a file that cannot be read: it may be a good image.
    """
    images = _as_files(images)

    @_as_it_is
    def decode_one(row, path, box):
        # With a result that nobody asks for, decoding would be optimized away.
        return row, tf.shape(cut_out(decode(tf.io.read_file(path)), box))

    columns = np.arange(len(images)), _paths(images), _boxes(images)
    files = tf.data.Dataset.from_tensor_slices(columns)
    files = files.map(decode_one, num_parallel_calls=threads).ignore_errors()
    good = np.zeros(len(images), bool)
    for row, _ in files.with_options(_own_threads(threads)).as_numpy_iterator():
        good[row] = True
    for row in np.flatnonzero(~good):
        good[row] = patience.bad_image(images.select([row])) is None
    return good
