"""What the builders of the public data sets' CSVs share.

A builder is a file of its own: its docstring says how it is called, OFFICIAL what was published of
the data set, and build(root) finds the images. All are called alike:

    python -m data.market1501 --image_root Market-1501-v15.09.15 --directory market1501
"""

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import common
from common import UserError
from data import cameras, dataset
from runtime import files, terminal
from runtime.terminal import log

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
FOLDERS = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}  # Market-1501's
Rows = list[tuple[str, str]]  # pid, fid


class Figures(NamedTuple):
    """How much there is in a part of a data set."""

    images: int
    pids: int
    cameras: int | None = None  # None: not known, or there are none

    def __str__(self) -> str:
        with_cameras = "" if self.cameras is None else f", {self.cameras} cameras"
        return f"{self.images} images, {self.pids} pids{with_cameras}"


class Official(NamedTuple):
    """A data set as it was published.

    Attributes:
        figures: of each CSV, by its name without suffix.
        pattern: of the file names, a name of cameras.PATTERNS; "" where they tell no pid.
        non_identities: pids that stand for no identity; they are not counted as pids.
    """

    figures: dict[str, Figures]
    pattern: str = ""
    non_identities: tuple[str, ...] = ()


# ------------------------------------------------------------------------- the command


def parse_args(doc: str, argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(doc)
    parser.prog = f"python -m data.{Path(sys.argv[0]).stem}"
    common.add_flag(
        parser,
        "image_root",
        required=True,
        help="Folder of the data set. The file ids in the CSVs are relative to it, so give it to "
        "train.py as --image_root.",
    )
    parser.add_argument(
        "--directory",
        required=True,
        metavar="DIR",
        help="Directory to write the CSVs to. It is created if it does not exist; CSVs of the same names are replaced.",
    )
    return parser.parse_args(argv)


def run(doc: str, build: Callable[[str], dict[str, Rows]], official: Official) -> None:
    """The command of a builder; `doc` is its docstring."""
    common.run(lambda args: main(args, build, official), lambda: parse_args(doc))


def main(
    args: argparse.Namespace, build: Callable[[str], dict[str, Rows]], official: Official
) -> None:
    terminal.setup_logging("data")
    parts = build(args.image_root)
    os.makedirs(args.directory, exist_ok=True)
    for name, rows in parts.items():
        path = Path(args.directory, f"{name}.csv")
        _write(path, rows)
        found = count(rows, official)
        print(f"{path}: {found}{_non_identities(rows, official)}")
        published = official.figures.get(name)
        if published and published.cameras is None:
            found = found._replace(cameras=None)
        if published and found != published:
            log.warning(
                f"{path} differs from what was published: {published}. Another version, or not all of it?"
            )


def _write(path: Path, rows: Rows) -> None:
    with (
        files.complete_file(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def count(rows: Rows, official: Official) -> Figures:
    """The figures of a part."""
    pids = {pid for pid, _ in rows}.difference(official.non_identities)
    if not official.pattern:
        return Figures(len(rows), len(pids))
    keys = [cameras.pid_and_camera(official.pattern, fid) for _, fid in rows]
    return Figures(len(rows), len(pids), cameras=len({key[1] for key in keys if key}))


def _non_identities(rows: Rows, official: Official) -> str:
    """How many images show no identity, as the end of a line."""
    images_of = Counter(pid for pid, _ in rows)
    pids = [pid for pid in official.non_identities if images_of[pid]]
    return "".join(f", {images_of[pid]} images of pid {pid}" for pid in pids)


# ------------------------------------------------------------------------- rows


def from_folders(
    root: str, official: Official, folders: dict[str, str] = FOLDERS
) -> dict[str, Rows]:
    """The rows of data sets that have a folder for each part and the pid in the file name.

    They are sorted by file name. Other files in a folder, such as Thumbs.db, are skipped; images
    whose names do not match the data set's pattern are skipped with a warning. Training sets are
    without the pids that stand for no identity.

    Raises:
        UserError for a folder that is missing or without an image of the data set.
    """
    parts = {}
    for name, folder in folders.items():
        rows = _from_folder(root, folder, official)
        if name.endswith("train"):
            rows = [(pid, fid) for pid, fid in rows if pid not in official.non_identities]
        parts[name] = rows
    return parts


def _from_folder(root: str, folder: str, official: Official) -> Rows:
    require(root, folder)
    names = sorted(os.listdir(os.path.join(root, folder)))
    rows, misnamed = [], []
    for name in names:
        if not name.lower().endswith(IMAGES) or name.startswith("."):
            continue
        fid = f"{folder}/{name}"
        key = cameras.pid_and_camera(official.pattern, fid)
        if key is None:
            misnamed.append(fid)
        else:
            rows.append((key[0], fid))
    expected = cameras.PATTERNS[official.pattern].words
    if not rows:
        raise UserError(
            f"{os.path.join(root, folder)} has no image whose name begins with {expected}: among {len(names)} files "
            f"{common.first_few(names)}. Give the --image_root of the data set."
        )
    if misnamed:
        log.warning(
            f"{len(misnamed)} images are left out: their names do not begin with {expected}: "
            f"{common.first_few(misnamed)}"
        )
    return rows


def from_list(root: str, name: str, folder: str, official: Official) -> Rows:
    """The rows of a text file that lists images of `folder`, one a line, with the pid in the file
    name.

    Raises:
        UserError for a list that is missing, names that do not match the data set's pattern, and
        images that do not exist.
    """
    rows = []
    for path, *_ in read_list(root, name):
        key = cameras.pid_and_camera(official.pattern, path)
        if key is None:
            expected = cameras.PATTERNS[official.pattern].words
            raise UserError(
                f"{name}: a file name should begin with {expected}. Received: {path!r}. Is it the original list?"
            )
        rows.append((key[0], f"{folder}/{path}"))
    return listed(root, name, rows)


def require(root: str, name: str) -> None:
    """Raises: UserError unless the folder of the data set has a file or folder `name`."""
    if not os.path.exists(os.path.join(root, name)):
        inside = common.first_few(sorted(os.listdir(root))) or "nothing"
        raise UserError(
            f"there is no {name} in --image_root {root}, which holds {inside}. Give the folder of the data set, "
            "unpacked and with its original names."
        )


def read_list(root: str, name: str, columns: int | None = None) -> list[list[str]]:
    """The words of each line of a text file in the folder of the data set, without blank lines.

    Raises:
        UserError when there is no such file, or for the first line without that many columns.
    """
    require(root, name)
    path = os.path.join(root, name)
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.split() for line in file if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text. Is it the original?") from None
    for words in lines:
        if columns is not None and len(words) != columns:
            raise UserError(
                f"a line of {path} should have {columns} columns. Received: {' '.join(words)!r}. Is it the original?"
            )
    return lines


def listed(root: str, source: str, rows: Iterable[tuple[str, str]]) -> Rows:
    """The rows that were taken from the file `source`.

    Raises:
        UserError when there are none, or for the images among them that do not exist.
    """
    rows = list(rows)
    if not rows:
        raise UserError(
            f"{os.path.join(root, source)} lists no image for one of the parts. Is it the original file?"
        )
    dataset.check_images(source, root, [fid for _, fid in rows])
    return rows


def split_classes(
    root: str, source: str, rows: Iterable[tuple[str, str]], last_for_training: int
) -> dict[str, Rows]:
    """Train and test as metric learning has them: the classes 1 to last_for_training, and all
    others.

    Raises:
        UserError as listed does, and for a class that is no number.
    """
    parts = {"train": [], "test": []}
    for pid, fid in rows:
        if not pid.isdecimal():
            raise UserError(
                f"{source}: the class of {fid} should be a number. Received: {pid!r}. Is it the original?"
            )
        parts["train" if int(pid) <= last_for_training else "test"].append((pid, fid))
    return {name: listed(root, source, part) for name, part in parts.items()}
