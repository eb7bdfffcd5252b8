"""Data sets: CSVs of pid,fid and more columns, and the image files that they name."""

import dataclasses
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from common import UserError, first_few, suggestion
from data import fids as file_names
from data import table
from runtime import terminal
from runtime.terminal import log

# A file system in a network answers late: where each answer took 0.5 ms, 32 threads were 27 times as
# fast as one. On a local disk they are as fast as one.
_THREADS = 32
_CHUNK = 256  # files that a thread looks for at a time
# A folder is listed where so many of its files are wanted, and as far as it has at most so many times
# as many. A list takes less time than that many questions.
_MANY = 16

T = TypeVar("T")
U = TypeVar("U")

SPLITS = ("train", "query", "gallery", "val")
Box = tuple[int, int, int, int]  # x1, y1, x2, y2
WHOLE: Box = (0, 0, 0, 0)  # the box of an image of which all is meant

_TEXT = ("pids", "fids", "cameras", "splits", "groups", "tracklets")


class Joined(Sequence[str]):
    """Names in a folder, as paths that are made when they are asked for: a million take memory.

    Args:
        folder: which they are relative to.
        names: str [N], an object array.
    """

    def __init__(self, folder: str | os.PathLike, names: np.ndarray):
        self._folder = folder
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, rows):
        """One path for an int; an object array of them for int [n] or a slice."""
        names = self._names[rows]
        if isinstance(names, str):
            return os.path.join(self._folder, names)
        return _joined(self._folder, names)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:  # noqa: ARG002, NumPy's
        return self[:]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Where the pixels of N images are.

    Attributes:
        paths: str [N], of the files.
        boxes: int32 [N, 4], the part of each file that is meant, as of a Dataset; None for all.
        upright: whether pixels are turned as EXIF says, once the box is cut out.
        mirrored: bool [N], which are mirrored after that; None for none.
        cameras: str [N], "" where it is not known; None where they do not matter.
    """

    paths: Sequence[str]
    boxes: np.ndarray | None = None
    upright: bool = False
    mirrored: np.ndarray | None = None
    cameras: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: Sequence[int] | np.ndarray | slice) -> "ImageFiles":
        """Some of the images. rows: int [n] or a slice."""
        paths = self.paths if isinstance(self.paths, Joined) else np.asarray(self.paths, object)
        paths = paths[rows]
        boxes = None if self.boxes is None else self.boxes[rows]
        mirrored = None if self.mirrored is None else self.mirrored[rows]
        cameras = None if self.cameras is None else self.cameras[rows]
        return ImageFiles(paths, boxes, self.upright, mirrored, cameras)

    def is_mirrored(self, row: int) -> bool:
        """Whether an image is mirrored."""
        return self.mirrored is not None and bool(self.mirrored[row])

    def box(self, row: int) -> Box | None:
        """The box of an image; None for all of it."""
        if self.boxes is None or not self.boxes[row].any():
            return None
        x1, y1, x2, y2 = self.boxes[row].tolist()
        return x1, y1, x2, y2


def distinct_files(parts: Sequence[ImageFiles]) -> tuple[ImageFiles, np.ndarray]:
    """The images of all parts, each once.

    Returns:
        the images, and which of them each image of the parts is, int64 [N].
    """
    paths = np.concatenate([np.asarray(files.paths, dtype=object) for files in parts])
    boxes = None
    if any(files.boxes is not None for files in parts):
        boxes = np.concatenate([_or(files.boxes, [WHOLE] * len(files)) for files in parts])
    cameras = None
    if any(files.cameras is not None for files in parts):
        cameras = np.concatenate([_or(files.cameras, [""] * len(files)) for files in parts])
    names = with_boxes(paths, boxes)
    keys = names if cameras is None else zip(names, cameras, strict=True)
    rows: dict[Any, int] = {}
    places = [rows.setdefault(key, len(rows)) for key in keys]
    _, firsts = np.unique(places, return_index=True)
    upright = any(files.upright for files in parts)
    files = ImageFiles(paths, boxes, upright, cameras=cameras)
    return files.select(firsts), np.array(places)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images, N of them, in the order of their CSV.

    The columns of text become object arrays: a row takes the memory of its own text, however long
    the text of another row is. A column that the CSV does not have is None.

    Attributes:
        pids, fids: str [N].
        path: the CSV, or several joined by ", "; "" for a data set that has none.
        cameras: str [N], none empty.
        boxes: int32 [N, 4], x1, y1, x2, y2 in pixels of the image as it is stored, x2 and y2 the
            first beyond the box; the part of the file that is meant. WHOLE where all of it is.
        splits: str [N], of SPLITS.
        groups: str [N], none empty: what figures are told apart by, and batches can be.
        tracklets: str [N]; "" for an image that is in none.
        sets: int32 [N], which of several CSVs each row is of, from 0; None for rows of one.
        mirrored: bool [N], which rows are the mirrored copies of with_mirrored; None for none. It
            is no column of a CSV.
        upright: whether images are turned as EXIF says; it is no column.
    """

    pids: np.ndarray
    fids: np.ndarray
    path: str = ""
    _: dataclasses.KW_ONLY
    cameras: np.ndarray | None = None
    boxes: np.ndarray | None = None
    splits: np.ndarray | None = None
    groups: np.ndarray | None = None
    tracklets: np.ndarray | None = None
    sets: np.ndarray | None = None
    mirrored: np.ndarray | None = None
    upright: bool = False

    def __post_init__(self):
        for name, column in self.columns().items():
            column = np.asarray(column, dtype=_dtype(name))
            object.__setattr__(self, name, column)  # it is frozen for all others

    def __len__(self) -> int:
        return len(self.pids)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that there are, by the names of the attributes."""
        others = ("path", "upright")
        names = [field.name for field in dataclasses.fields(self) if field.name not in others]
        columns = {name: getattr(self, name) for name in names}
        return {name: column for name, column in columns.items() if column is not None}

    def select(self, rows: np.ndarray | slice) -> "Dataset":
        """Some of the images. rows: int [n], in any order, bool [N], or a slice."""
        chosen = {name: column[rows] for name, column in self.columns().items()}
        return dataclasses.replace(self, **chosen)

    def paths(self, image_root: str | os.PathLike | Sequence[str]) -> np.ndarray:
        """The image files: str [N], an object array.

        Args:
            image_root: the directory that fids are relative to, or one for each of several sets.
        """
        if isinstance(image_root, str | os.PathLike):
            return _joined(image_root, self.fids)
        sets = np.zeros(len(self), np.int32) if self.sets is None else self.sets
        pairs = zip(sets.tolist(), self.fids, strict=True)
        return np.array([os.path.join(image_root[i], fid) for i, fid in pairs], dtype=object)

    def files(self, image_root: str | os.PathLike | Sequence[str]) -> ImageFiles:
        """Where the pixels are. image_root: as for paths."""
        paths = (
            Joined(image_root, self.fids)
            if isinstance(image_root, str | os.PathLike)
            else self.paths(image_root)
        )
        return ImageFiles(paths, self.boxes, self.upright, self.mirrored)

    def name(self, row: int) -> str:
        """What an image is called; see names."""
        return self.select(slice(row, row + 1)).names()[0]

    def names(self) -> np.ndarray:
        """What each image is called where fids may come twice: str [N], an object array.

        The fid, with `#x1,y1,x2,y2` after it for a box, `#mirrored` after that for a mirrored copy,
        and with `1:`, `2:` and so on before it for a row of several sets.
        """
        names = with_boxes(self.fids, self.boxes)
        if self.mirrored is not None:
            pairs = zip(names, self.mirrored.tolist(), strict=True)
            named = [f"{name}#mirrored" if mirrored else name for name, mirrored in pairs]
            names = np.array(named, dtype=object)
        if self.sets is None:
            return names
        pairs = zip(self.sets.tolist(), names, strict=True)
        return np.array([f"{number + 1}:{name}" for number, name in pairs], dtype=object)


def _dtype(column: str) -> type:
    if column in _TEXT:
        return object
    return bool if column == "mirrored" else np.int32


def with_mirrored(images: Dataset) -> Dataset:
    """All images, and after them a mirrored copy of each, as an image of another pid.

    The pid 7 has the copies `7 mirrored`.

    Raises:
        UserError where there is a pid of that name.
    """
    pids = np.array([f"{pid} mirrored" for pid in images.pids], dtype=object)
    taken = sorted(set(pids).intersection(images.pids))
    if taken:
        raise UserError(
            f"--flip_makes_new_pid calls the mirrored images of a pid so, but {images.path} has these pids already: "
            f"{first_few(taken)}. Rename them, or leave the flag out."
        )
    doubled = images.select(np.tile(np.arange(len(images)), 2))
    mirrored = np.arange(len(doubled)) >= len(images)
    return dataclasses.replace(doubled, pids=np.concatenate([images.pids, pids]), mirrored=mirrored)


def _or(column: np.ndarray | None, otherwise: Sequence) -> np.ndarray:
    return np.asarray(otherwise) if column is None else column


def _joined(folder: str | os.PathLike, names: np.ndarray) -> np.ndarray:
    """os.path.join for all names: str [N], an object array."""
    if os.sep != "/":
        return np.array([os.path.join(folder, name) for name in names], dtype=object)
    start = os.path.join(folder, "")
    paths = [name if name.startswith("/") else start + name for name in names]
    return np.array(paths, dtype=object)


def with_boxes(names: Sequence[str], boxes: np.ndarray | None) -> np.ndarray:
    """Names of files, each with `#x1,y1,x2,y2` after it where a box is meant: str [N]."""
    if boxes is None:
        return np.asarray(names, dtype=object)
    pairs = zip(names, boxes.tolist(), strict=True)
    named = [f"{name}#{','.join(map(str, box))}" if any(box) else name for name, box in pairs]
    return np.array(named, dtype=object)


def parse_box(text: str) -> Box:
    """The box that `x1,y1,x2,y2` stands for. Raises: ValueError, with why, if it is none."""
    parts = text.split(",")
    try:
        x1, y1, x2, y2 = (int(part) for part in parts)
    except ValueError:
        x1 = y1 = x2 = y2 = 0
    if not (0 <= x1 < x2 < 2**31 and 0 <= y1 < y2 < 2**31):
        raise ValueError(
            f"should be whole pixels x1,y1,x2,y2 with 0 <= x1 < x2 and 0 <= y1 < y2. Received: {text[:100]}"
        )
    return x1, y1, x2, y2


def labels_of(names: Sequence[str]) -> np.ndarray:
    """Number the distinct names in their sorted order, from 0 on: int64 [N]."""
    import pandas

    labels, _ = pandas.factorize(np.asarray(names, dtype=object), sort=True)
    return labels


# ------------------------------------------------------------------------- reading


def load(path: str | os.PathLike, split: str | None = None) -> Dataset:
    """Read a data set: a CSV without header, one `pid,fid` a row, or a CSV with header or a Parquet
    file, which may have the columns camera, x1, y1, x2, y2, split, group and tracklet, too.

    data/table.py has the rule that tells a header. Text is kept as it is written: leading zeros
    matter. Other columns are not used; of those that look like a typo a warning tells.

    Args:
        split: of SPLITS: take only its rows, where the file has a column split.

    Returns:
        a data set of at least one image.
    Raises:
        UserError for a missing, unreadable or empty file, and for the first row with a wrong number
        of columns, a NUL in its fid, a box that is none, an unknown split, or an empty camera or
        group.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(
            f"cannot read the data set {path}: {error.strerror}. Give an existing CSV of pid,fid."
        ) from None
    rows = table.read(path, content)
    pids, fids = rows.columns["pid"], rows.columns["fid"]
    if not len(pids):
        raise UserError(
            f"the data set {path} is empty. It should have one line pid,fid for every image."
        )
    _check_names(path, rows)
    _check_filled(path, rows, "camera")
    _check_filled(path, rows, "group")
    images = Dataset(
        pids,
        fids,
        path,
        cameras=rows.columns.get("camera"),
        boxes=_boxes(path, rows),
        splits=_splits(path, rows),
        groups=rows.columns.get("group"),
        tracklets=rows.columns.get("tracklet"),
    )
    return images if split is None else part(images, split)


def part(images: Dataset, split: str) -> Dataset:
    """The rows of a split; all where the data set has no splits.

    Raises:
        UserError where no row is of the split.
    """
    if images.splits is None:
        return images
    chosen = images.splits == split
    if not chosen.any():
        there = ", ".join(dict.fromkeys(images.splits))
        raise UserError(
            f"{images.path} has no row whose split is {split}, but {there}. Give a CSV that has some, or take the "
            "column split out to use all rows."
        )
    return images.select(chosen)


def load_sets(paths: Sequence[str], split: str, join_pids: bool = False) -> Dataset:
    """The rows of a split of several files, as one data set; see `load` and `join`.

    A warning tells which pids are in several files, where they are not joined.
    """
    sets = [load(path, split) for path in paths]
    shared = shared_pids(sets) if len(sets) > 1 and not join_pids else []
    if shared:
        log.warning(
            f"{len(shared)} pids are in several data sets, and count as different identities in each: "
            f"{first_few(shared)}. With --join_pids they are one."
        )
    return join(sets, join_pids)


def join(sets: Sequence[Dataset], join_pids: bool = False) -> Dataset:
    """All rows of several data sets, one set after the other; a single one stays what it is.

    A column is kept where all sets have it; boxes and tracklets also where only some do. A group or
    camera of one name is the same in all sets.

    Args:
        join_pids: one pid in two sets is one identity. Otherwise pids become `1:pid`, `2:pid` and
            so on, by their set.
    """
    if len(sets) == 1:
        return sets[0]
    columns = {name: [images.columns().get(name) for images in sets] for name in _TEXT}
    if not join_pids:
        columns["pids"] = [
            np.array([f"{number}:{pid}" for pid in images.pids], dtype=object)
            for number, images in enumerate(sets, 1)
        ]
    if any(images.tracklets is not None for images in sets):
        columns["tracklets"] = [_or(images.tracklets, [""] * len(images)) for images in sets]
    boxes = None
    if any(images.boxes is not None for images in sets):
        boxes = np.concatenate([_or(images.boxes, [WHOLE] * len(images)) for images in sets])
    complete = {
        name: np.concatenate(parts)
        for name, parts in columns.items()
        if all(part is not None for part in parts)
    }
    numbers = np.repeat(np.arange(len(sets), dtype=np.int32), [len(images) for images in sets])
    path = ", ".join(images.path for images in sets)
    return Dataset(path=path, boxes=boxes, sets=numbers, **complete)


def pids_by_file(images: Dataset, join_pids: bool) -> list[np.ndarray]:
    """The pids as they are written in each file of a data set of load_sets: str [n] each.

    Args:
        join_pids: as load_sets was given it. What is joined counts as one file.
    """
    if images.sets is None or join_pids:
        return [images.pids]
    written = np.array([pid.partition(":")[2] for pid in images.pids], dtype=object)
    return [written[images.sets == number] for number in np.unique(images.sets)]


def shared_pids(sets: Sequence[Dataset]) -> list[str]:
    """The pids that are in several sets: "0001 (row 1 of a.csv, row 7 of b.csv)"; the first rows."""
    places: dict[str, list[str]] = {}
    for images in sets:
        for row, pid in _first_rows(images.pids).items():
            places.setdefault(pid, []).append(f"row {row + 1} of {images.path}")
    return [f"{pid} ({', '.join(found)})" for pid, found in places.items() if len(found) > 1]


def _first_rows(pids: np.ndarray) -> dict[int, str]:
    """The first row of each pid."""
    import pandas

    rows = np.flatnonzero(~pandas.Series(pids, dtype=object).duplicated().to_numpy())
    return dict(zip(rows.tolist(), pids[rows], strict=True))


def _check_names(path: str, rows: table.Table) -> None:
    """Raises: UserError for the first fid with a NUL, which no file has in its name."""
    for row, fid in enumerate(rows.columns["fid"]):
        if "\0" in fid:
            raise UserError(
                f"{path}, {rows.place(row)}: the fid holds a NUL, which no name of a file does. Received: {fid!r}. "
                "Save the file as text in UTF-8."
            )


def _check_filled(path: str, rows: table.Table, name: str) -> None:
    column = rows.columns.get(name)
    empty = [] if column is None else np.flatnonzero(column == "")
    if len(empty):
        raise UserError(
            f"{path}, {rows.place(empty[0])}: {name} is empty, as in {len(empty)} rows. Received: "
            f"{_row(rows, empty[0])!r}. Give one to every row, such as unknown, or take the column out."
        )


def _row(rows: table.Table, row: int) -> str:
    return ",".join(str(column[row]) for column in rows.columns.values())


def _splits(path: str, rows: table.Table) -> np.ndarray | None:
    column = rows.columns.get("split")
    if column is None:
        return None
    import pandas

    unknown = np.flatnonzero(~pandas.Series(column, dtype=object).isin(SPLITS).to_numpy())
    if len(unknown):
        value = column[unknown[0]]
        raise UserError(
            f"{path}, {rows.place(unknown[0])}: split should be one of {', '.join(SPLITS)}. Received: {value!r}."
            f"{suggestion(value, SPLITS)} Correct it; rows of no use can be left out."
        )
    return column


def _boxes(path: str, rows: table.Table) -> np.ndarray | None:
    if "x1" not in rows.columns:
        return None
    import pandas

    text = np.stack([rows.columns[name] for name in table.BOX], axis=1).astype(object)
    whole = ((text == "") | pandas.isna(text)).all(axis=1)
    numbers = pandas.to_numeric(text.ravel(), errors="coerce").astype(np.float64)
    numbers = numbers.reshape(text.shape)
    numbers[whole] = WHOLE
    fits = (numbers == np.rint(numbers)).all(axis=1) & (numbers >= 0).all(axis=1)
    fits &= (numbers[:, :2] < numbers[:, 2:]).all(axis=1) & (numbers < 2**31).all(axis=1)
    wrong = np.flatnonzero(~fits & ~whole)
    if len(wrong):
        row = wrong[0]
        raise UserError(
            f"{path}, {rows.place(row)}: x1,y1,x2,y2 should be whole pixels, 0 <= x1 < x2 and 0 <= y1 < y2, or all be "
            f"empty for the whole image. Received: {','.join(map(str, text[row]))!r} for {rows.columns['fid'][row]}. "
            "Correct the box, or remove the row."
        )
    return numbers.astype(np.int32)


# ------------------------------------------------------------------------- image files


def check_paths(
    dataset: str,
    image_root: str,
    fids: Sequence[str],
    allow_any_path: bool,
    allow_links: bool = True,
) -> None:
    """Check that all images are below image_root.

    Args:
        dataset: what the message calls the data set.
        allow_any_path: allow images that are elsewhere.
        allow_links: allow links in image_root that lead elsewhere.

    Raises:
        UserError with the number and the first few of the images that are elsewhere.
    """
    if allow_any_path:
        return
    outside = [fid for fid in fids if _leads_out(fid)]
    if outside:
        raise UserError(
            f"{len(outside)} of the {len(fids)} images of {dataset} are not below --image_root {image_root}: "
            f"{first_few(outside)}. Give a folder that holds all images, or --allow_any_path if these are meant."
        )
    if allow_links:
        return
    below = os.path.join(os.path.realpath(image_root), "")
    real_paths = file_names.real_paths(fids, image_root)
    linked = [
        f"{fid} -> {path}"
        for fid, path in zip(fids, real_paths, strict=True)
        if not path.startswith(below)
    ]
    if linked:
        raise UserError(
            f"links lead {len(linked)} of the {len(fids)} images of {dataset} out of --image_root {image_root}: "
            f"{first_few(linked)}. Give a folder that holds all images, or --allow_any_path if these are meant."
        )


def _leads_out(fid: str) -> bool:
    if os.path.isabs(fid):
        return True
    return os.pardir in fid and os.path.normpath(fid).split(os.sep)[0] == os.pardir


def check_images(
    dataset: str,
    image_root: str,
    fids: Sequence[str],
    allow_any_path: bool = False,
    allow_links: bool = True,
) -> None:
    """Check that all images are files below image_root. On a terminal a line shows the progress.

    Raises:
        UserError as check_paths does, and with the number and the first few of the images that are
        no files.
    """
    check_paths(dataset, image_root, fids, allow_any_path, allow_links)
    missing = _missing(image_root, fids)
    if missing:
        only_first = len(missing) == 1 and missing[0] == fids[0]
        header = ", or remove the header, line 1, of the CSV, or name its columns pid,fid"
        usual = (
            "File ids are relative to --image_root: correct the one or the other"
            f"{header if only_first else ''}."
        )
        raise UserError(
            f"{len(missing)} of the {len(fids)} images of {dataset} are not in --image_root {image_root}: "
            f"{first_few(missing)}. {file_names.why_missing(missing[0], image_root) or usual}"
        )


def check_sets(
    images: Dataset,
    paths: Sequence[str],
    image_roots: Sequence[str],
    allow_any_path: bool = False,
    allow_links: bool = True,
    only_first: bool = False,
) -> None:
    """Check the images of load_sets: that they are files, each below its image_root.

    Args:
        paths: of the data sets.
        image_roots: one for all, or one for each of them.
        allow_any_path, allow_links: as for check_paths.
        only_first: look for the first file of each alone.

    Raises:
        UserError as check_images does.
    """
    for number, path in enumerate(paths):
        root = image_roots[number] if len(image_roots) > 1 else image_roots[0]
        fids = images.fids if images.sets is None else images.fids[images.sets == number]
        if only_first:
            check_paths(path, root, fids, allow_any_path)
            fids = fids[:1]
        check_images(path, root, fids, allow_any_path, allow_links)


def _missing(image_root: str, fids: Sequence[str]) -> list[str]:
    """The fids that are no files, in order."""
    asked = _not_listed(image_root, fids)

    def missing_of(start: int) -> list[str]:
        chunk = asked[start : start + _CHUNK]
        return [fid for fid in chunk if not os.path.isfile(os.path.join(image_root, fid))]

    missing = []
    starts = range(0, len(asked), _CHUNK)
    for found in in_threads(missing_of, starts, f"x {_CHUNK} files"):
        missing += found
    return missing


def _not_listed(image_root: str, fids: Sequence[str]) -> list[str]:
    """The fids that are not in the lists of their folders, in order: these are asked for one by one.

    Only folders of which many files are wanted are listed.
    """
    wanted = defaultdict(list)  # of each folder
    for fid in fids:
        wanted[fid[: len(fid) - len(os.path.basename(fid))]].append(fid)
    to_list = [folder for folder, those in wanted.items() if len(those) >= _MANY]

    def not_listed_of(folder: str) -> list[str]:
        most = _MANY * len(wanted[folder])  # of a larger folder, all would take longer than asking
        try:
            with os.scandir(os.path.dirname(os.path.join(image_root, folder))) as entries:
                some = itertools.islice(entries, most)
                files = {each.name for each in some if each.is_file()}
        except OSError:
            files = set()
        return [fid for fid in wanted[folder] if fid[len(folder) :] not in files]

    not_listed = list(in_threads(not_listed_of, to_list, "folders"))
    for folder, those in zip(to_list, not_listed, strict=True):
        wanted[folder] = those
    asked = set(itertools.chain.from_iterable(wanted.values()))
    return [fid for fid in fids if fid in asked] if asked else []


def in_threads(function: Callable[[T], U], items: Sequence[T], unit: str) -> Iterator[U]:
    """The function's result for each item, in order, from 32 threads: most of their time is waiting.

    On a terminal a line shows the progress.

    Args:
        unit: what an item is.
    """
    pool = ThreadPoolExecutor(_THREADS)
    try:
        with terminal.bar(len(items), unit, delay=1) as bar:
            for result in pool.map(function, items):
                yield result
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
