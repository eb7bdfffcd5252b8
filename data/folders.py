"""Write the CSV of images that lie in one folder per identity.

    python -m data.folders --image_root photos --directory csvs
    python -m data.folders --image_root photos --directory csvs --split
    python -m data.folders --image_root photos --directory csvs --pid_level 2 --camera 'cam(\\d+)'

all.csv has a row for each image. With --split there are also train.csv, query.csv and gallery.csv.
"""

import argparse
import os
from collections import Counter

import common
from common import UserError
from data import csv_builder, split
from runtime import terminal
from runtime.terminal import log

IMAGES = (*csv_builder.IMAGES, ".gif", ".webp", ".tif", ".tiff", ".avif")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = csv_builder.make_parser(__doc__)
    parser.prog = "python -m data.folders"
    pid = parser.add_mutually_exclusive_group()
    pid.add_argument(
        "--pid_level",
        type=common.positive_int,
        metavar="N",
        help="How many folders, from image_root on, name the identity: with 2, fruit/kiwi/shelf/1.jpg shows "
        "fruit/kiwi. Needed where some images lie deeper than in one folder per identity.",
    )
    pid.add_argument(
        "--pid",
        type=csv_builder.one_group,
        metavar="REGEX",
        help="The identity, instead of a folder: a regular expression with one group, searched for in the file id.",
    )
    csv_builder.add_columns(parser)
    split.add_switch(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    terminal.setup_logging("data.folders")
    fids = find_images(args.image_root)
    if args.pid:
        pids = csv_builder.found_in(fids, args.pid, "--pid")
    else:
        fids, pids = pids_of_folders(args.image_root, fids, args.pid_level)
    columns = csv_builder.columns_from_names(args, fids)
    table = csv_builder.with_columns(pids, fids, columns)
    parts = split.parts_of(table, args.split)
    csv_builder.write(args.directory, parts)
    split.warn_of_earlier(args.directory, parts)


def find_images(root: str) -> list[str]:
    """The images in a folder and all folders in it: their paths from there on, with /, sorted.

    Hidden files and folders are skipped. So are files of other kinds, which are told. Links to
    folders are followed.

    Raises:
        UserError where there is no image, and for file names that are not UTF-8.
    """
    fids = []
    others: Counter[str] = Counter()
    seen = set()
    elsewhere = []
    top = os.path.realpath(root)
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads in a circle, or to a folder that was looked through
            log.warning(f"{folder} is left out: it is a link to {real}, which is in {root}, too.")
            folders.clear()
            continue
        seen.add(real)
        if not (real + os.sep).startswith(top.rstrip(os.sep) + os.sep):
            elsewhere.append(folder)
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        inside = os.path.relpath(folder, root)
        for name in names:
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in IMAGES:
                fids.append(os.path.normpath(os.path.join(inside, name)).replace(os.sep, "/"))
            else:
                others[suffix or "none"] += 1
    kinds = ", ".join(f"{count} of suffix {suffix}" for suffix, count in others.most_common())
    if not fids:
        raise UserError(
            f"--image_root {root} has no image: no file in it, or in its folders, ends in {', '.join(IMAGES)}. "
            f"Received: {kinds or 'no files'}."
        )
    csv_builder.check_utf8(fids, root)
    if elsewhere:
        log.warning(
            f"Links lead out of {root}: {common.first_few(elsewhere)}. The other commands need --allow_any_path for "
            "what is there."
        )
    if others:
        log.info(f"Files that are no images are skipped: {kinds}.")
    return sorted(fids)


def pids_of_folders(root: str, fids: list[str], level: int | None) -> tuple[list[str], list[str]]:
    """The images in folders, and the identity of each: the names of its first `level` folders.

    Images in fewer folders are left out, with a warning.

    Args:
        level: None for 1, where no image lies deeper.

    Raises:
        UserError where no image lies deep enough, or where the level has to be given.
    """
    folders_of = {fid: fid.split("/")[:-1] for fid in fids}
    deepest = max(fids, key=lambda fid: len(folders_of[fid]))
    depth = len(folders_of[deepest])
    if depth < (level or 1):
        folders = f"at least {level} folders" if level and level > 1 else "at least one folder"
        raise UserError(
            f"the images of --image_root {root} should lie in {folders}: folders tell the identity. "
            f"Received: {deepest}. Give one folder per identity, a smaller --pid_level, or --pid with a regular "
            "expression."
        )
    if level is None and depth > 1:
        counts = [
            len({tuple(folders[:n]) for folders in folders_of.values() if len(folders) >= n})
            for n in range(1, depth + 1)
        ]
        readings = [
            f"--pid_level {n} ({count} identities, such as {'/'.join(folders_of[deepest][:n])})"
            for n, count in enumerate(counts, 1)
        ]
        raise UserError(
            f"which folder is the identity? {deepest} lies in {depth}. Give {' or '.join(readings)}."
        )
    level = level or 1
    kept = [fid for fid in fids if len(folders_of[fid]) >= level]
    if len(kept) < len(fids):
        outside = [fid for fid in fids if len(folders_of[fid]) < level]
        log.warning(
            f"{len(outside)} images are left out, because they are in no folder of an identity: "
            f"{common.first_few(outside)}"
        )
    return kept, ["/".join(folders_of[fid][:level]) for fid in kept]


if __name__ == "__main__":
    common.run(main, parse_args)
