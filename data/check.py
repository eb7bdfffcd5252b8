"""Look through data sets before training on them: is every image there and readable, what is in the
sets, and do training and test keep apart?

    python -m data.check train.csv --image_root images
    python -m data.check train.csv query.csv gallery.csv --image_root images

The first CSV is the training set, the others are for tests. Prints a summary of each, and all
images, rows and pids that are not as they should be. The exit code is that of the worst kind of
problem (--help lists them), 0 if there are none. One file under two names (./a.jpg and a.jpg) is
one image; copies are found by their content.
"""

import argparse
import dataclasses
import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import common
from data import dataset, pictures
from data import pids as pid_checks
from data.dataset import Dataset
from runtime import terminal
from runtime.tensorflow import import_tensorflow

# Pids that are no persons in Market-1501.
NON_IDENTITIES = {"-1": "junk", "0000": "distractors", "0": "distractors"}


TURNED = "images that viewers turn or mirror, as EXIF says, and a network does not"
# The kinds of problems, the worst first, with the exit code of each.
EXIT_CODES = {
    "images that are missing": 10,
    "images that cannot be decoded": 11,
    "headers that do not name the columns pid and fid": 12,
    "images with more than one pid": 13,
    "copies of an image under another pid": 14,
    "images in both training and test": 15,
    "pids in both training and test": 16,
    "pids that look alike": 17,
    "pids that read like a missing value": 18,
    "rows that stand there more than once": 19,
    TURNED: 20,
    "boxes that are not within their image": 21,
}


class Image(NamedTuple):
    """What was found of one file."""

    size: tuple[int, int] | None  # height, width in pixels; None when it cannot be decoded
    digest: bytes  # of the file's bytes
    error: str | None  # why it cannot be decoded
    kind: str = ""  # JPEG, PNG and so on
    orientation: int = 1  # EXIF's; viewers turn or mirror the image if it is not 1
    moving: bool = False  # whether more pictures follow the first


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m data.check"
    codes = "; ".join(f"{code} {kind}" for kind, code in EXIT_CODES.items())
    parser.epilog = (
        "Exit codes: 0 no problems; 1 an error; 2 wrong flags; else the first of these kinds of problems that was "
        f"found, while all are listed: {codes}."
    )
    parser.add_argument(
        "datasets",
        nargs="+",
        type=common.readable_file,
        metavar="CSV",
        help="Data sets: CSVs of pid,fid. The first is the training set, the others are test sets; of a CSV with a "
        "column split, the rows of train are the training set.",
    )
    common.add_flag(parser, "image_root", required=True)
    common.add_flag(parser, "allow_any_path")
    parser.add_argument(
        "--batch_k",
        type=common.positive_int,
        default=4,
        metavar="K",
        help="Number of images of each pid in a batch of the training. Pids with fewer images are counted, "
        "because a batch repeats their images.",
    )
    common.add_flag(
        parser,
        "orientation",
        help="What a training does: turn and mirror images as EXIF says (exif), or take the pixels as they are stored: "
        "then images that viewers turn are a problem.",
    )
    common.add_flag(parser, "loading_threads")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    headers = []
    sets = []
    for path in args.datasets:
        images = dataset.load(path)
        dataset.check_paths(
            path, args.image_root, images.fids, args.allow_any_path, allow_links=False
        )
        fids = [os.path.normpath(fid) for fid in images.fids]
        images = dataclasses.replace(images, fids=fids)
        if has_header(images, args.image_root):
            headers.append(f"{path}, line 1: {images.pids[0]},{images.fids[0]}")
            images = images.select(np.arange(1, len(images)))
        sets += by_split(images)
    import_tensorflow()
    found = examine_all(joined(sets), args.image_root, args.loading_threads)
    for images in sets:
        of_set = {fid: found[fid] for fid in images.fids if fid in found}
        K = args.batch_k if images is sets[0] else None
        _print(f"{images.path}:", *summary(images, of_set, K), indent=2)
    for line in pid_checks.few_images(sets[0].pids, args.batch_k):
        print(f"For a training on {sets[0].path}: {line}")
    listed = problems(sets, found) | {"headers that do not name the columns pid and fid": headers}
    if args.orientation == "exif":
        listed[TURNED] = []
    kinds = [kind for kind in EXIT_CODES if listed[kind]]
    if not kinds:
        print("No problems.")
        return
    print("Problems:")
    for kind in kinds:
        _print(f"  {kind}: {len(listed[kind])}", *listed[kind], indent=4)
    sys.exit(EXIT_CODES[kinds[0]])


def _print(*lines: str, indent: int) -> None:
    """The first line, and the others with an indent."""
    print(*map(common.visible, lines), sep="\n" + " " * indent)


def has_header(images: Dataset, image_root: str) -> bool:
    """Whether the first row names columns: it names no file, and no other row has its pid or a file
    name without suffix, as it has.
    """
    pid, fid = images.pids[0], images.fids[0]
    if (
        len(images) == 1
        or os.path.splitext(fid)[1]
        or os.path.isfile(os.path.join(image_root, fid))
    ):
        return False
    return pid not in images.pids[1:] and all(
        os.path.splitext(other)[1] for other in images.fids[1:]
    )


def by_split(images: Dataset) -> list[Dataset]:
    """A data set for each of its splits, the training set first; a single one without splits."""
    if images.splits is None:
        return [images]
    return [
        dataclasses.replace(dataset.part(images, split), path=f"{images.path} ({split})")
        for split in dataset.SPLITS
        if split in images.splits
    ]


def joined(sets: Sequence[Dataset]) -> Dataset:
    """The rows of all sets: pids, fids and boxes."""
    together = dataset.join(sets, join_pids=True)
    return Dataset(together.pids, together.fids, boxes=together.boxes)


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
    from data import decoding

    try:
        with open(path, "rb") as file:
            encoded = file.read()
    except OSError as error:
        return Image(None, path.encode(), common.reason(error))
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    fault = decoding.fault(encoded)
    if fault:
        return Image(None, digest, fault)
    try:
        header = pictures.read_header(encoded)
    except ValueError as error:  # a training would take it, but no report could show it
        return Image(None, digest, str(error))
    size = header.height, header.width
    return Image(size, digest, None, header.kind, header.orientation, header.moving)


# ------------------------------------------------------------------------- what is told


def summary(images: Dataset, found: dict[str, Image], K: int | None) -> list[str]:
    """What is in a data set, line by line.

    Args:
        found: what was found of the files that are there, by fid.
        K: images of each pid in a batch; None for a test set, of which no batch is made.
    """
    images_of = Counter(images.pids)
    counts = np.array(list(images_of.values()))
    lines = [
        f"{len(images)} rows, {len(images_of)} pids",
        f"images of a pid: {counts.min()} to {counts.max()}, median {np.median(counts):g}",
    ]
    if K is not None:
        few = [pid for pid, count in images_of.items() if count < K]
        names = f" ({common.first_few(few)})" if few else ""
        lines.append(f"pids with fewer than {K} images: {len(few)}{names}")
    lines += _sizes(found)
    if K is not None and (len(images_of) == 1 or counts.max() == 1):
        lines.append("one pid, or one image of each: not for a training set")
    for pid, kind in NON_IDENTITIES.items():
        if pid in images_of:
            lines.append(
                f"{images_of[pid]} images of pid {pid}, {kind} in Market-1501: not for a training set"
            )
    copies = sum(len(fids) - 1 for fids in _copies(found))
    lines.append(f"images that are copies of another: {copies}")
    return lines + _columns(images)


def _columns(images: Dataset) -> list[str]:
    """What the columns beside pid and fid hold."""
    lines = []
    for name in ("cameras", "groups", "tracklets"):
        column = getattr(images, name)
        if column is not None:
            counts = Counter(value for value in column if value)
            lines.append(f"{name}: {len(counts)} ({common.first_few(sorted(counts))})")
    if images.boxes is not None:
        boxes = images.boxes[images.boxes.any(axis=1)]
        line = f"boxes: {len(boxes)} of {len(images)} rows"
        if len(boxes):
            widths, heights = (boxes[:, 2:] - boxes[:, :2]).T
            line += f", height {heights.min()} to {heights.max()}, width {widths.min()} to {widths.max()} pixels"
        lines.append(line)
    return lines


def _sizes(found: dict[str, Image]) -> list[str]:
    sizes = Counter(image.size for image in found.values() if image.size)
    if not sizes:
        return []
    heights, widths = zip(*sizes, strict=True)
    kinds = Counter(image.kind for image in found.values() if image.size)
    moving = sum(image.moving for image in found.values())
    turned = sum(image.orientation != 1 for image in found.values())
    frequent = [f"{h}x{w} ({count} times)" for (h, w), count in sizes.most_common(3)]
    return [
        f"height {min(heights)} to {max(heights)}, width {min(widths)} to {max(widths)} pixels",
        f"most frequent sizes (height x width): {', '.join(frequent)}",
        f"kinds of files: {', '.join(f'{kind} ({count})' for kind, count in kinds.most_common())}",
        *([f"moving images, of which the first picture counts: {moving}"] if moving else []),
        *(
            [f"images that are turned or mirrored with --orientation exif: {turned}"]
            if turned
            else []
        ),
    ]


def problems(sets: Sequence[Dataset], found: dict[str, Image]) -> dict[str, list[str]]:
    """What is not as it should be: for each of EXIT_CODES that is no header, what it is true of.

    Args:
        sets: the training set, and those for tests.
        found: what was found of the files that are there, by fid.
    """
    everything = joined(sets)
    names = everything.names()
    pids_of = defaultdict(set)  # of each box, and of each whole image
    for pid, name in zip(everything.pids, names, strict=True):
        pids_of[name].add(pid)
    across_pids = [
        fids
        for fids in _copies(found)
        if len(set().union(*(pids_of.get(fid, ()) for fid in fids))) > 1
    ]
    fids = dict.fromkeys(everything.fids)
    return {
        "images that are missing": [fid for fid in fids if fid not in found],
        "images that cannot be decoded": [
            f"{fid} ({image.error})" for fid, image in found.items() if image.error
        ],
        "images with more than one pid": [name for name, pids in pids_of.items() if len(pids) > 1],
        "copies of an image under another pid": [" = ".join(fids) for fids in across_pids],
        "images in both training and test": _shared_images(sets, found),
        "pids in both training and test": _shared_pids(sets),
        "pids that look alike": pid_checks.look_alikes(everything.pids),
        "pids that read like a missing value": pid_checks.read_like_missing(everything.pids),
        "rows that stand there more than once": [
            ",".join(row) for images in sets for row in _repeated_rows(images)
        ],
        TURNED: [
            f"{fid} (orientation {image.orientation})"
            for fid, image in found.items()
            if image.orientation != 1
        ],
        "boxes that are not within their image": _boxes_beyond(everything, found),
    }


def _boxes_beyond(images: Dataset, found: dict[str, Image]) -> list[str]:
    """The boxes that are not within their image, each once."""
    if images.boxes is None:
        return []
    beyond = []
    for row, (_, _, right, bottom) in enumerate(images.boxes.tolist()):
        image = found.get(images.fids[row])
        if image is None or image.size is None:
            continue
        height, width = image.size
        if right > width or bottom > height:
            beyond.append(f"{images.name(row)} (of {height}x{width})")
    return list(dict.fromkeys(beyond))


def _shared_pids(sets: Sequence[Dataset]) -> list[str]:
    """The pids of the training set that others have, with the names of these."""
    shared = []
    tests = [(images.path, set(images.pids)) for images in sets[1:]]
    for pid in dict.fromkeys(sets[0].pids):
        paths = [path for path, pids in tests if pid in pids]
        if paths:
            shared.append(f"{pid} ({', '.join(paths)})")
    return shared


def _shared_images(sets: Sequence[Dataset], found: dict[str, Image]) -> list[str]:
    """The images of the training set that others have, by name or by content."""
    names = set(sets[0].names())
    # A copy is told by its file: boxes of one file are no copies.
    by_digest = {found[fid].digest: fid for fid in sets[0].fids if fid in found and fid in names}
    shared = []
    for images in sets[1:]:
        for name in dict.fromkeys(images.names()):
            if name in names:
                shared.append(f"{name} ({images.path})")
            elif name in found and found[name].digest in by_digest:
                shared.append(f"{by_digest[found[name].digest]} = {name} ({images.path})")
    return shared


def _repeated_rows(images: Dataset) -> list[tuple[str, str]]:
    rows = Counter(zip(images.pids, images.names(), strict=True))
    return [row for row, count in rows.items() if count > 1]


def _copies(found: dict[str, Image]) -> list[list[str]]:
    """The sorted fids of each image of which there are several."""
    same = defaultdict(list)
    for fid, image in found.items():
        same[image.digest].append(fid)
    return [sorted(fids) for fids in same.values() if len(fids) > 1]


if __name__ == "__main__":
    common.run(main, parse_args)
