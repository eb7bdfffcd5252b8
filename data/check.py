"""Look through a data set before training on it: is every image there and readable, and what is in
the set?

    python -m data.check train.csv --image_root images

Prints a summary, and all images and rows that are not as they should be. Ends with exit code 1 if
there are any: images that are missing or cannot be decoded, one image under two pids, rows that
stand there twice.
"""

import argparse
import hashlib
import os
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import common
from data import dataset
from data.dataset import Dataset
from runtime import terminal
from runtime.tensorflow import import_tensorflow

# Pids that are no persons in Market-1501.
NON_IDENTITIES = {"-1": "junk", "0000": "distractors", "0": "distractors"}


class Image(NamedTuple):
    """What was found of one file."""

    size: tuple[int, int] | None  # height, width in pixels; None when it cannot be decoded
    digest: bytes  # of the file's bytes
    error: str | None  # why it cannot be decoded


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m data.check"
    parser.add_argument(
        "dataset", type=common.readable_file, metavar="CSV", help="Lines of pid,fid without header."
    )
    common.add_flag(parser, "image_root", required=True)
    common.add_flag(parser, "allow_any_path")
    parser.add_argument(
        "--batch_k",
        type=common.positive_int,
        default=4,
        metavar="K",
        help="That of the training. Pids with fewer images are counted, since they repeat images within a batch.",
    )
    common.add_flag(parser, "loading_threads")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    images = dataset.load(args.dataset)
    dataset.check_paths(args.dataset, args.image_root, images.fids, args.allow_any_path)
    import_tensorflow()
    found = examine_all(images, args.image_root, args.loading_threads)
    print(f"{args.dataset}:", *summary(images, found, args.batch_k), sep="\n  ")
    listed = [
        "\n    ".join([f"{title}: {len(items)}", *items])
        for title, items in problems(images, found).items()
        if items
    ]
    if listed:
        print("Problems:", *listed, sep="\n  ")
        sys.exit(1)
    print("No problems.")


# ------------------------------------------------------------------------- files


def examine_all(images: Dataset, image_root: str, threads: int) -> dict[str, Image]:
    """What was found of each file that is there, by its fid."""
    paths = dict(zip(images.fids, images.paths(image_root), strict=True))
    paths = {fid: path for fid, path in paths.items() if os.path.isfile(path)}
    found = {}
    with ThreadPoolExecutor(threads) as pool, terminal.bar(len(paths), "img") as bar:
        for fid, image in zip(paths, pool.map(examine, paths.values()), strict=True):
            found[fid] = image
            bar.update()
    return found


def examine(path: str) -> Image:
    """Read and decode one file, as a training does."""
    import tensorflow as tf

    from data.images import decode

    try:
        with open(path, "rb") as file:
            encoded = file.read()
    except OSError as error:
        return Image(None, path.encode(), common.reason(error))
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    try:
        height, width, _ = decode(tf.constant(encoded)).shape
    except tf.errors.OpError as error:
        return Image(None, digest, common.reason(error))
    return Image((height, width), digest, None)


# ------------------------------------------------------------------------- what is told


def summary(images: Dataset, found: dict[str, Image], K: int) -> list[str]:
    """What is in a data set, line by line.

    Args:
        found: what was found of the files that are there, by fid.
    """
    images_of = Counter(images.pids)
    counts = np.array(list(images_of.values()))
    few = [pid for pid, count in images_of.items() if count < K]
    names = f" ({common.first_few(few)})" if few else ""
    lines = [
        f"{len(images)} rows, {len(images_of)} pids",
        f"images of a pid: {counts.min()} to {counts.max()}, median {np.median(counts):g}",
        f"pids with fewer than {K} images: {len(few)}{names}",
        *_sizes(found),
    ]
    if len(images_of) == 1 or counts.max() == 1:
        lines.append("one pid, or one image of each: not for a training set")
    for pid, kind in NON_IDENTITIES.items():
        if pid in images_of:
            lines.append(
                f"{images_of[pid]} images of pid {pid}, {kind} in Market-1501: not for a training set"
            )
    copies = sum(len(fids) - 1 for fids in _copies(found))
    lines.append(f"images that are copies of another: {copies}")
    return lines


def _sizes(found: dict[str, Image]) -> list[str]:
    sizes = Counter(image.size for image in found.values() if image.size)
    if not sizes:
        return []
    heights, widths = zip(*sizes, strict=True)
    frequent = [f"{h}x{w} ({count} times)" for (h, w), count in sizes.most_common(3)]
    return [
        f"height {min(heights)} to {max(heights)}, width {min(widths)} to {max(widths)} pixels",
        f"most frequent sizes (height x width): {', '.join(frequent)}",
    ]


def problems(images: Dataset, found: dict[str, Image]) -> dict[str, list[str]]:
    """What is not as it should be: a title for each kind, and what it is true of."""
    rows = list(zip(images.pids, images.fids, strict=True))
    pids_of = defaultdict(set)
    for pid, fid in rows:
        pids_of[fid].add(pid)
    across_pids = [
        fids for fids in _copies(found) if len(set().union(*(pids_of[fid] for fid in fids))) > 1
    ]
    return {
        "images that are missing": [fid for fid in pids_of if fid not in found],
        "images that cannot be decoded": [
            f"{fid} ({image.error})" for fid, image in found.items() if image.error
        ],
        "rows that stand there more than once": [
            ",".join(row) for row, count in Counter(rows).items() if count > 1
        ],
        "images with more than one pid": [fid for fid, pids in pids_of.items() if len(pids) > 1],
        "copies of an image under another pid": [" = ".join(fids) for fids in across_pids],
    }


def _copies(found: dict[str, Image]) -> list[list[str]]:
    """The sorted fids of each image of which there are several."""
    same = defaultdict(list)
    for fid, image in found.items():
        same[image.digest].append(fid)
    return [sorted(fids) for fids in same.values() if len(fids) > 1]


if __name__ == "__main__":
    common.run(main, parse_args)
