"""Look through a data set before training on it: is every image there and readable, and what is in
the set?

    python -m data.check train.csv --image_root images

Prints a summary, and all images and rows that are not as they should be. Ends with exit code 1 if
there are such: images that are missing or cannot be decoded, one image under two pids, rows that
stand there twice.
"""

import argparse
import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import common
from data import dataset
from runtime.tensorflow import import_tensorflow


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
        help="Of the training: pids with fewer images are counted, since they repeat images within a batch.",
    )
    common.add_flag(parser, "loading_threads")
    return parser.parse_args(argv)


def examine(path: str) -> Image:
    """Read and decode one file, as a training does."""
    import tensorflow as tf

    from data import images

    try:
        with open(path, "rb") as file:
            encoded = file.read()
    except OSError as error:
        return Image(None, path.encode(), common.reason(error))
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    try:
        height, width, _ = images.decode(tf.constant(encoded)).shape
    except tf.errors.OpError as error:
        return Image(None, digest, common.reason(error))
    return Image((height, width), digest, None)


def report(
    pids: Sequence[str], fids: Sequence[str], found: dict[str, Image], K: int
) -> tuple[list[str], list[str]]:
    """The summary of a data set and its problems, line by line; `found` has the images that are
    there.
    """
    images_of = Counter(pids)
    counts = np.array(list(images_of.values()))
    few = [pid for pid, count in images_of.items() if count < K]
    sizes = Counter(image.size for image in found.values() if image.size)
    summary = [
        f"{len(fids)} rows, {len(images_of)} pids",
        f"images of a pid: {counts.min()} to {counts.max()}, median {np.median(counts):g}",
        f"pids with fewer than {K} images: {len(few)}{_names(few)}",
    ]
    if sizes:
        heights, widths = zip(*sizes, strict=True)
        common_sizes = ", ".join(
            f"{h}x{w} ({count} times)" for (h, w), count in sizes.most_common(3)
        )
        summary.append(
            f"height {min(heights)} to {max(heights)}, width {min(widths)} to {max(widths)} pixels"
        )
        summary.append(f"most frequent sizes (height x width): {common_sizes}")
    if len(images_of) == 1 or counts.max() == 1:
        summary.append("one pid, or one image of each: not for a training set")
    for pid, what in (("-1", "junk"), ("0000", "distractors"), ("0", "distractors")):
        if pid in images_of:
            summary.append(
                f"{images_of[pid]} images of pid {pid}, {what} in Market-1501: not for a training set"
            )

    pids_of, same = defaultdict(set), defaultdict(set)
    for pid, fid in zip(pids, fids, strict=True):
        pids_of[fid].add(pid)
        if fid in found:
            same[found[fid].digest].add(fid)
    copies = [sorted(group) for group in same.values() if len(group) > 1]
    across = [group for group in copies if len(set().union(*(pids_of[fid] for fid in group))) > 1]
    summary.append(f"images that are copies of another: {sum(len(group) - 1 for group in copies)}")

    missing = [fid for fid in dict.fromkeys(fids) if fid not in found]
    broken = [f"{fid} ({image.error})" for fid, image in found.items() if image.error]
    twice = [
        ",".join(row) for row, count in Counter(zip(pids, fids, strict=True)).items() if count > 1
    ]
    contradictory = [fid for fid, of in pids_of.items() if len(of) > 1]
    problems = {
        "images that are missing": missing,
        "images that cannot be decoded": broken,
        "rows that stand there more than once": twice,
        "images with more than one pid": contradictory,
        "copies of an image under another pid": [" = ".join(group) for group in across],
    }
    return summary, [
        "\n    ".join([f"{what}: {len(items)}", *items])
        for what, items in problems.items()
        if items
    ]


def _names(items: Iterable[str]) -> str:
    return f" ({common.first_few(list(items))})" if items else ""


def main(args: argparse.Namespace) -> None:
    pids, fids = dataset.load(args.dataset)
    dataset.check_paths(args.dataset, args.image_root, fids, args.allow_any_path)
    paths = {fid: os.path.join(args.image_root, fid) for fid in fids}
    paths = {fid: path for fid, path in paths.items() if os.path.isfile(path)}
    import_tensorflow()
    found, watched = {}, sys.stderr.isatty()
    with ThreadPoolExecutor(args.loading_threads) as pool:
        for fid, image in zip(paths, pool.map(examine, paths.values()), strict=True):
            found[fid] = image
            if watched and (len(found) % 100 == 0 or len(found) == len(paths)):
                end = "\n" if len(found) == len(paths) else ""
                print(
                    f"\rLooked at {len(found)} of {len(paths)} images",
                    end=end,
                    file=sys.stderr,
                    flush=True,
                )

    summary, problems = report(pids, fids, found, args.batch_k)
    print(f"{args.dataset}:", *summary, sep="\n  ")
    if problems:
        print("Problems:", *problems, sep="\n  ")
        sys.exit(1)
    print("No problems.")


if __name__ == "__main__":
    common.run(main, parse_args)
