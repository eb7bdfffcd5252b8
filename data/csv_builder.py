"""What the builders of CSVs share: the flags, looking through folders and lists, writing, telling.

A builder of a public data set is a file of its own: its docstring says how it is called, OFFICIAL
what was published of the data set, and build(root) finds the images. All are called alike:

    python -m data.market1501 --image_root Market-1501-v15.09.15 --directory market1501
"""

import argparse
import contextlib
import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
from common import UserError
from data import cameras, dataset
from runtime import files, json_files, terminal
from runtime.terminal import log

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
FOLDERS = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}  # Market-1501's
Rows = list[tuple[str, str]]  # pid, fid


class Table(NamedTuple):
    """The rows of a CSV with a header.

    Attributes:
        columns: their names: pid, fid, and what else is known of the images, such as camera.
        rows: a cell of each column.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def column(self, name: str) -> list[str] | None:
        """The cells of a column; None where there is none of that name."""
        if name not in self.columns:
            return None
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


Part = Rows | Table  # of a data set: what one CSV holds
Parts = Mapping[str, Part]  # by the names of the CSVs, without suffix


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


NOTHING_PUBLISHED = Official({})

# ------------------------------------------------------------------------- the command


def make_parser(doc: str) -> argparse.ArgumentParser:
    """The flags that all builders have; `doc` is the command's docstring."""
    parser = common.make_parser(doc)
    parser.prog = f"python -m data.{Path(sys.argv[0]).stem}"
    common.add_flag(
        parser,
        "image_root",
        required=True,
        help="Folder of the data set. The file ids in the CSVs are relative to it, so give it to "
        "train.py as --image_root.",
    )
    add_directory(parser)
    return parser


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add --directory."""
    parser.add_argument(
        "--directory",
        required=True,
        metavar="DIR",
        help="Directory to write the CSVs to. It is created if it does not exist; CSVs of the same names are replaced.",
    )


def parse_args(doc: str, argv: list[str] | None = None) -> argparse.Namespace:
    return make_parser(doc).parse_args(argv)


def run(doc: str, build: Callable[[str], Parts], official: Official) -> None:
    """The command of a builder; `doc` is its docstring."""
    common.run(lambda args: main(args, build, official), lambda: parse_args(doc))


def main(args: argparse.Namespace, build: Callable[[str], Parts], official: Official) -> None:
    terminal.setup_logging("data")
    write(args.directory, build(args.image_root), official)


def write(directory: str, parts: Parts, official: Official = NOTHING_PUBLISHED) -> None:
    """Write the CSVs, and tell what is in each and where it differs from what was published.

    They appear when all are complete: after an error, none of them has changed.
    """
    os.makedirs(directory, exist_ok=True)
    paths = {name: Path(directory, f"{name}.csv") for name in parts}
    with contextlib.ExitStack() as stack:
        for name, part in parts.items():
            partial = stack.enter_context(files.complete_file(paths[name]))
            _write(partial, part)
    for name, part in parts.items():
        found = count(part, official)
        print(f"{paths[name]}: {found}{_extras(part)}{_non_identities(part, official)}")
        published = official.figures.get(name)
        if published and published.cameras is None:
            found = found._replace(cameras=None)
        if published and found != published:
            log.warning(
                f"{paths[name]} differs from what was published: {published}. Another version, or not all of it?"
            )


def _write(path: Path, part: Part) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if isinstance(part, Table):
            writer.writerow(part.columns)
        writer.writerows(_rows(part))


def _rows(part: Part) -> Sequence[tuple[str, ...]]:
    return part.rows if isinstance(part, Table) else part


def count(part: Part, official: Official = NOTHING_PUBLISHED) -> Figures:
    """The figures of a part. Cameras are those of a column, or of the file names' pattern."""
    rows = _rows(part)
    pids = {row[0] for row in rows}.difference(official.non_identities)
    cameras_here = part.column("camera") if isinstance(part, Table) else None
    if official.pattern:
        keys = [cameras.pid_and_camera(official.pattern, row[1]) for row in rows]
        cameras_here = [key[1] for key in keys if key]
    if cameras_here is None:
        return Figures(len(rows), len(pids))
    return Figures(len(rows), len(pids), cameras=len(set(cameras_here)))


def _extras(part: Part) -> str:
    """How many values the other columns have, as the end of a line."""
    if not isinstance(part, Table):
        return ""
    counted = [name for name in ("group", "tracklet", "date") if name in part.columns]
    counts = [f", {len(set(part.column(name) or []))} {name}s" for name in counted]
    with_boxes = [", with boxes"] if "x1" in part.columns else []
    return "".join(counts + with_boxes)


def _non_identities(part: Part, official: Official) -> str:
    """How many images show no identity, as the end of a line."""
    images_of = Counter(row[0] for row in _rows(part))
    pids = [pid for pid in official.non_identities if images_of[pid]]
    return "".join(f", {images_of[pid]} images of pid {pid}" for pid in pids)


# ------------------------------------------------------------------------- columns from file names

# What a regular expression may find in a file id, by the name of its column and of its flag.
FROM_NAMES = {
    "camera": "The camera of an image: a regular expression with one group, searched for in the file id.",
    "date": "When an image was taken: a regular expression with one group, searched for in the file id. The numbers "
    "in it are compared from left to right, so the year should come first.",
    "group": "The group of an image, for figures by group: a regular expression with one group, searched for in the "
    "file id.",
}


def one_group(text: str) -> str:
    """A flag type: a regular expression with one group."""
    try:
        groups = common.group_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"should be a regular expression, but {error}. Received: {text}"
        ) from None
    if groups != 1:
        raise argparse.ArgumentTypeError(
            f"should be a regular expression with one group in parentheses. Received: {text}"
        )
    return text


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the flags of FROM_NAMES."""
    for name, text in FROM_NAMES.items():
        parser.add_argument(f"--{name}", type=one_group, metavar="REGEX", help=text)


def columns_from_names(args: argparse.Namespace, fids: list[str]) -> dict[str, list[str]]:
    """The columns that the flags of add_columns ask for.

    Raises:
        UserError as `found_in` does.
    """
    return {
        name: found_in(fids, getattr(args, name), f"--{name}")
        for name in FROM_NAMES
        if getattr(args, name)
    }


def found_in(fids: list[str], regex: str, flag: str) -> list[str]:
    """What the one group of a regular expression finds in each fid.

    Raises:
        UserError with the number and the first few of the fids in which it finds nothing.
    """
    pattern = re.compile(regex)
    matches = [pattern.search(fid) for fid in fids]
    values = [match[1] if match and match[1] else "" for match in matches]
    without = [fid for fid, value in zip(fids, values, strict=True) if not value]
    if without:
        raise UserError(
            f"{flag} {regex} finds nothing in {len(without)} of the {len(fids)} file ids: {common.first_few(without)}. "
            "Give a regular expression that fits all of them."
        )
    return values


def with_columns(pids: list[str], fids: list[str], more: Mapping[str, list[str]]) -> Table:
    """A table of pid, fid and more columns, by their names."""
    rows = list(zip(pids, fids, *more.values(), strict=True))
    return Table(("pid", "fid", *more), rows)


def in_order(part: Table) -> Table:
    """The rows sorted by their fids."""
    return part._replace(rows=sorted(part.rows, key=lambda row: row[1]))


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
    names = _files_in(root, folder)
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


def _files_in(root: str, folder: str) -> list[str]:
    """The names in a folder of the data set that are no folders, sorted.

    Raises:
        UserError for a folder that is missing, and for names that a CSV, which is UTF-8, cannot have.
    """
    require(root, folder)
    with os.scandir(os.path.join(root, folder)) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_dir())
    check_utf8(names, os.path.join(root, folder))
    return names


def check_utf8(names: list[str], folder: str) -> None:
    """Raises: UserError for names of files in a folder that a CSV, which is UTF-8, cannot have."""
    foreign = [name for name in names if not common.is_utf8(name)]
    if foreign:
        raise UserError(
            f"{len(foreign)} of the {len(names)} file names in {folder} are not UTF-8: "
            f"{common.first_few(foreign)}. Rename the files, for example with convmv -f latin1 -t utf8 --notest."
        )


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


def first_of(root: str, *names: str) -> str:
    """The first of several names that the folder of the data set has.

    Raises:
        UserError where it has none of them, as `require` does.
    """
    here = [name for name in names if os.path.exists(os.path.join(root, name))]
    if not here:
        require(root, names[0])
    return here[0]


def read_list(
    root: str,
    name: str,
    columns: int | None = None,
    skipped: int = 0,
    separator: str | None = None,
) -> list[list[str]]:
    """The words of each line of a text file in the folder of the data set, without blank lines.

    Args:
        columns: how many words each line should have.
        skipped: lines before the first that counts.
        separator: between words; None for space.

    Raises:
        UserError when there is no such file, or for the first line without that many columns.
    """
    require(root, name)
    path = os.path.join(root, name)
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip().split(separator) for line in file if line.strip()][skipped:]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text. Is it the original?") from None
    for words in lines:
        if columns is not None and len(words) != columns:
            raise UserError(
                f"a line of {path} should have {columns} columns. Received: {' '.join(words)!r}. Is it the original?"
            )
    return [[word.strip() for word in words] for words in lines]


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file from elsewhere holds.

    Raises:
        UserError for a file that cannot be read, or is no JSON.
    """
    try:
        return json_files.read(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}. Check the path and its permissions."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}. Is it the original?") from None


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
