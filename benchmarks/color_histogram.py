"""Colour histograms of images as embeddings: what can be had without learning, to compare a network
with.

    python -m benchmarks.color_histogram --dataset query.csv --image_root market --filename query.h5

Colours are counted in six stripes, from head to foot, of the middle half of the image, where the
person is. The file holds `emb` float32 [N, 384] in the order of the CSV, as embed.py writes it. Its
euclidean distance is the Hellinger distance of the histograms, times a constant.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

import common
from common import UserError
from data import dataset
from runtime import files

STRIPES = 6
BINS = 4  # of red, of green and of blue: 64 colours. Of 4, 8 and 16, in RGB and HSV, this did best on data.synthetic


def color_histogram(image: np.ndarray) -> np.ndarray:
    """Roots of the shares of the 64 colours in each stripe: uint8 RGB [H, W, 3] -> float32 [6 *
    64].

    Squares add up to 1/6 in each stripe, and so to 1; stripes of images with less than six rows may
    be empty, all 0.
    """
    height, width, _ = image.shape
    middle = image[:, width // 4 : width - width // 4].astype(np.int64) * BINS // 256
    color = (middle[..., 0] * BINS + middle[..., 1]) * BINS + middle[..., 2]
    stripe = np.arange(height)[:, None] * STRIPES // height
    counts = np.bincount((stripe * BINS**3 + color).ravel(), minlength=STRIPES * BINS**3).reshape(
        STRIPES, -1
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.sqrt(shares / STRIPES).astype(np.float32).ravel()


def color_histograms(paths: Sequence[str]) -> np.ndarray:
    """Of each of the image files: float32 [N, 6 * 64]. Raises: UserError for a file that is no
    image.
    """
    embs = np.empty((len(paths), STRIPES * BINS**3), np.float32)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                embs[row] = color_histogram(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError) as error:  # Pillow raises the latter for a broken PNG
            raise UserError(
                f"{path} cannot be read as an image ({error}). Replace it or leave it out."
            ) from None
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

    _, fids = dataset.load(args.dataset)
    dataset.check_images(args.dataset, args.image_root, fids, args.allow_any_path)
    embs = color_histograms([os.path.join(args.image_root, fid) for fid in fids])
    with (
        files.complete_file(args.filename) as partial,
        h5py.File(partial, "w", locking=False) as file,
    ):
        file["emb"] = embs
    print(
        f"Wrote the colour histograms, {embs.shape[0]} of {embs.shape[1]} numbers, to {args.filename}."
    )


if __name__ == "__main__":
    common.run(main, parse_args)
