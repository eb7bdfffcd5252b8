"""What augmentation does to images, and what it costs.

    python -m benchmarks.augmentation                                  # milliseconds for an image
    python -m benchmarks.augmentation --picture docs/augmentation.png

The time is that of loading a batch of 64 decoded images of 256x128 for a network of that size, less
that of loading it without augmentation. The picture has a row for each flag: an image, and what becomes
of it in several iterations.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import common
from benchmarks._measure import medians
from runtime.tensorflow import import_tensorflow

B, BATCHES, SIZE = 64, 4, (256, 128)
COLUMNS, SHOWN, GAP, TEXT = 10, (160, 80), 6, 236

# Flags as they are shown, and what they are in Augmentation.
KINDS: dict[str, dict] = {
    "--flip_augment": {"random_flip": True},
    "--crop_augment": {"pre_crop_size": (288, 144)},
    "--pad_crop 10": {"pad_crop": 10},
    "--random_resized_crop 0.3": {"least_area": 0.3, "aspect": 1.33},
    "--rotation 15": {"rotation": 15.0},
    "--color_jitter 0.3": {"color_jitter": 0.3},
    "--gray 0.5": {"gray": 0.5},
    "--blur 1": {"blur": 1.0},
    "--random_erasing 0.5": {"random_erasing": 0.5},
    "--trivial_augment 1": {"trivial_augment": 1.0},
}
_SEED = 2938  # with which nine draws of TrivialAugment are nine operations
MIRRORED = "--flip_makes_new_pid"  # shows the copy


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--picture",
        type=common.writeable_file,
        metavar="PNG",
        help="Draw the picture into this file, and measure nothing.",
    )
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=9,
        metavar="N",
        help="Number of measurements of each flag. The median counts.",
    )
    return parser.parse_args(argv)


def batches(files, fields: dict, rows: list[int], iterations: int, cache: str = "none"):
    """Images of these rows, as the network sees them: a data set of one batch an iteration."""
    from data import images
    from data.augment import Augmentation

    return images.training_batches(
        ((iteration, np.array(rows)) for iteration in range(iterations)),
        len(rows),
        files,
        seed=_SEED,
        augmentation=Augmentation(SIZE, **fields),
        loading=images.Loading(2, cache),
    )


# ------------------------------------------------------------------------- the picture


def draw(path: str) -> Image.Image:
    """The rows of all flags for the image of a file."""
    from data.dataset import ImageFiles

    files = ImageFiles([path, path], mirrored=np.array([False, True]))
    rows = {name: _images(files, fields, 0, COLUMNS - 1) for name, fields in KINDS.items()}
    rows[MIRRORED] = _images(files, {}, 1, 1)
    (plain,) = _images(files, {}, 0, 1)
    height, width = SHOWN
    size = TEXT + COLUMNS * (width + GAP), len(rows) * (height + GAP)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    for row, (name, images) in enumerate(rows.items()):
        top = row * (height + GAP)
        pen.text((8, top + height // 2 - 10), name, "black", font)
        for column, image in enumerate([plain, *images]):
            picture.paste(image, (TEXT + column * (width + GAP), top))
    return picture


def _images(files, fields: dict, row: int, count: int) -> list[Image.Image]:
    stream = batches(files, fields, [row], count)
    pixels = np.concatenate([batch for batch, _ in stream.as_numpy_iterator()])
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return [Image.fromarray(each).resize(SHOWN[::-1], Image.Resampling.LANCZOS) for each in pixels]


# ------------------------------------------------------------------------- the time


def take_all(stream) -> None:
    """Load all batches of a stream."""
    for batch, _ in stream:
        batch.numpy()


def measure(paths: list[str], rounds: int) -> dict[str, float]:
    """Seconds for an image of each flag, and under "" without any."""
    kinds = {"": {}, **KINDS}
    ways = {
        name: functools.partial(
            take_all, batches(paths, fields, list(range(B)), BATCHES, cache="decoded")
        )
        for name, fields in kinds.items()
    }
    return {name: seconds / B / BATCHES for name, seconds in medians(ways, rounds).items()}


def main(args: argparse.Namespace) -> None:
    import_tensorflow()
    from data import synthetic

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{number}.png")) for number in range(1 if args.picture else B)]
        for number, path in enumerate(paths):
            person = Image.fromarray(synthetic.draw_image(0, 4 + number, 1, 0))
            person.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(path)
        if args.picture:
            draw(paths[0]).quantize(256).save(args.picture, optimize=True)
            return
        seconds = measure(paths, args.rounds)
    without = seconds.pop("")
    print(f"{'without augmentation':28}{without * 1e3:8.2f} ms/image")
    for name, of_kind in seconds.items():
        print(f"{name:28}{(of_kind - without) * 1e3:+8.2f}")


if __name__ == "__main__":
    common.run(main, parse_args)
