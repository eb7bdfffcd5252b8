"""Color histograms of images as embeddings: what there is without learning, to compare a network
with.

    python -m benchmarks.color_histogram --dataset query.csv --image_root market --filename query.h5

Colors are counted in six stripes, from head to foot, of the middle half of the image, where the
person is. The file holds `emb` float32 [N, 384] in the order of the CSV, as embed.py writes it. Its
euclidean distance is the Hellinger distance of the histograms, times a constant.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np

import common
from data import dataset
from data.pictures import open_image
from runtime import files

STRIPES = 6
# Of red, of green and of blue: 64 colors. Of 4, 8 and 16, in RGB and HSV, this did best on
# data.synthetic.
BINS = 4


def color_histogram(image: np.ndarray) -> np.ndarray:
    """Roots of the shares of the 64 colors in each stripe: uint8 RGB [H, W, 3] -> float32 [6 * 64].

    Squares add up to 1/6 in each stripe, and so to 1; stripes of images with less than six rows may
    be empty, all 0.
    """
    height, width, _ = image.shape
    middle = image[:, width // 4 : width - width // 4]
    red, green, blue = np.moveaxis(middle.astype(np.int64) * BINS // 256, -1, 0)
    color = (red * BINS + green) * BINS + blue
    stripe = np.arange(height)[:, None] * STRIPES // height
    place = stripe * BINS**3 + color
    counts = np.bincount(place.ravel(), minlength=STRIPES * BINS**3).reshape(STRIPES, -1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.sqrt(shares / STRIPES).astype(np.float32).ravel()


def color_histograms(paths: Sequence[str]) -> np.ndarray:
    """The histogram of each image file: float32 [N, 6 * 64].

    Raises: UserError for a file that is no image.
    """
    embs = np.empty((len(paths), STRIPES * BINS**3), np.float32)
    for row, path in enumerate(paths):
        embs[row] = color_histogram(np.asarray(open_image(path)))
    return embs


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m benchmarks.color_histogram"
    common.add_flag(parser, "dataset")
    common.add_flag(parser, "image_root", required=True)
    common.add_flag(parser, "allow_any_path")
    parser.add_argument(
        "--filename",
        required=True,
        type=common.writeable_file,
        metavar="HDF5",
        help="Where to write the embeddings.",
    )
    args = parser.parse_args(argv)
    if os.path.exists(args.filename) and os.path.samefile(args.filename, args.dataset):
        parser.error(
            f"argument --filename: should not be the --dataset, which it would replace. Received: {args.filename}"
        )
    return args


def main(args: argparse.Namespace) -> None:
    import h5py

    images = dataset.load(args.dataset)
    dataset.check_images(args.dataset, args.image_root, images.fids, args.allow_any_path)
    embs = color_histograms(images.paths(args.image_root))
    with (
        files.complete_file(args.filename) as partial,
        h5py.File(partial, "w", locking=False) as file,
    ):
        file["emb"] = embs
    count, size = embs.shape
    print(f"Wrote the color histograms, {count} of {size} numbers, to {args.filename}.")


if __name__ == "__main__":
    common.run(main, parse_args)
