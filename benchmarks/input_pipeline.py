"""Images a second of the training's input, beside the original's way: every image on its own, in
float.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --photos 2000

Batches of 18 x 4 JPEGs of 128x64 pixels (of 100x50 to 160x80 with --mixed), drawn as in training,
become crops of 256x128 from 288x144, half of them mirrored. "for an accelerator" is what the host
does where a GPU takes the last step (augment.finish): read and decode whole batches.
"""

import argparse
import functools
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import common
from benchmarks._measure import medians
from data import pk_sampler
from runtime.tensorflow import import_tensorflow

P, K = 18, 4


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    common.add_flag(parser, "loading_threads")
    parser.add_argument(
        "--batches",
        type=common.positive_int,
        default=300,
        metavar="N",
        help="Number of batches in each measurement.",
    )
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=5,
        metavar="N",
        help="Number of measurements of each of the two ways. The median counts.",
    )
    parser.add_argument("--mixed", action="store_true", help="Load images of many sizes.")
    parser.add_argument(
        "--photos",
        type=common.non_negative_int,
        default=0,
        metavar="N",
        help="Number of photos to load instead. 20 different ones are copied as often as needed, to 1 MB each.",
    )
    return parser.parse_args(argv)


def make_photos(folder: Path, count: int) -> list[str]:
    """Write photos of 2000x3000 pixels: smooth, with the noise of a camera."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, (2000, 3000, 1))
    paths = [str(folder / f"{number}.jpg") for number in range(count)]
    for number, path in enumerate(paths):
        if number < 20:
            small = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
            smooth = np.asarray(small.resize((3000, 2000), Image.Resampling.BICUBIC))
            pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=88)
        else:
            shutil.copy(paths[number % 20], path)
    return paths


def images_a_second(stream, B: int, seconds: float) -> float:
    """Speed of a stream, without its first two batches."""
    iterator = iter(stream)
    for _ in range(2):
        next(iterator)
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < seconds:
        next(iterator)
        count += B
    return count / (time.perf_counter() - began)


def measure_photos(args: argparse.Namespace, augmentation) -> None:
    from data import images, resized

    B = P * K
    with tempfile.TemporaryDirectory() as folder:
        paths = make_photos(Path(folder), args.photos)
        size = statistics.mean(Path(path).stat().st_size for path in paths)
        print(f"{len(paths)} photos of 2000x3000 pixels, {size / 1e6:.2f} MB each")
        files = images.ImageFiles(paths)
        began = time.perf_counter()
        stored = resized.Stored(files, augmentation.resized)
        read = resized.reader(stored, Path(folder, "cache"), args.loading_threads)
        seconds = time.perf_counter() - began
        print(
            f"--cache resized wrote {stored.bytes / 1e6:,.0f} MB in {seconds:.1f} s, "
            f"{len(paths) / seconds:.0f} images/s"
        )
        began = time.perf_counter()
        resized.reader(stored, Path(folder, "cache"), args.loading_threads)
        print(
            f"--cache resized looked whether files have changed in {time.perf_counter() - began:.2f} s"
        )
        rows = np.random.default_rng(0).integers(0, len(paths), (10_000, B))
        ways = {
            "as they are": images.Loading(args.loading_threads),
            "--decode_scale auto": images.Loading(args.loading_threads, reduced=True),
            "--cache resized": images.Loading(args.loading_threads, stored=read),
        }
        streams = {
            name: images.training_batches(enumerate(rows), B, files, 0, augmentation, loading)
            for name, loading in ways.items()
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, stream in streams.items():
                found[name].append(images_a_second(stream, B, seconds=5))
    speeds = {name: statistics.median(each) for name, each in found.items()}
    print(f"{'':34}images/s  times as they are")
    for name, speed in speeds.items():
        print(f"{name:34}{speed:8,.0f}  {speed / speeds['as they are']:.2f}")


def make_images(folder: Path, count: int, mixed: bool) -> list[str]:
    """Write smooth random images with some noise; as files they are of about the size of photos of
    their kind, 3.5 KB.
    """
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{number}.jpg") for number in range(count)]
    for path in paths:
        height = int(rng.integers(100, 161)) if mixed else 128
        small = Image.fromarray(rng.integers(0, 256, (16, 8, 3), np.uint8))
        smooth = np.asarray(small.resize((height // 2, height), Image.BICUBIC))
        noisy = smooth + rng.integers(-8, 9, smooth.shape)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def original(batches, B: int, paths: list[str], augmentation, threads: int):
    """The original's pipeline: every image is read, decoded, resized in float, flipped and cropped
    on its own.
    """
    import tensorflow as tf

    from data import images

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = images.resize(image, augmentation.resized)
        image = tf.image.random_flip_left_right(image)
        return tf.image.random_crop(image, (*augmentation.net_size, 3))

    rows = tf.data.Dataset.from_generator(
        lambda: batches, output_signature=tf.TensorSpec([B], tf.int64)
    )
    names = tf.constant(paths)
    loaded = rows.unbatch().map(lambda row: load(names[row]), num_parallel_calls=threads)
    return loaded.batch(B, drop_remainder=True).prefetch(1)


def take(stream, count: int):
    """Returns: an iterator that has given `count` elements."""
    iterator = iter(stream)
    for _ in range(count):
        next(iterator)
    return iterator


def main(args: argparse.Namespace) -> None:
    import_tensorflow()
    from data import images
    from data.augment import Augmentation

    B = P * K
    augmentation = Augmentation(net_size=(256, 128), pre_crop_size=(288, 144), random_flip=True)
    if args.photos:
        measure_photos(args, augmentation)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(Path(folder), 1500, args.mixed)
        groups = np.split(np.arange(len(paths)), 100)

        def batches():
            return pk_sampler.batches(groups, P, K, seed=0, start=0, end=2**31 - 1)

        streams = {"original": original(batches(), B, paths, augmentation, args.loading_threads)}
        for cache in ("none", "encoded", "decoded"):
            for way, finished in (("on the CPU", True), ("for an accelerator", False)):
                loading = images.Loading(args.loading_threads, cache, finished)
                streams[f"{way}, --cache {cache}"] = images.training_batches(
                    enumerate(batches()), B, paths, 0, augmentation, loading
                )
        # A stream starts over for each measurement and has no more batches: nothing is loaded ahead
        # in another's time. Its end does not count: TensorFlow then waits for half a second now and
        # then.
        ways = {
            name: functools.partial(take, stream.take(args.batches), args.batches)
            for name, stream in streams.items()
        }
        seconds = medians(ways, args.rounds)
    print(f"{'':34}images/s  times the original")
    for name, each in seconds.items():
        print(f"{name:34}{args.batches * B / each:8,.0f}  {seconds['original'] / each:.2f}")


if __name__ == "__main__":
    common.run(main, parse_args)
