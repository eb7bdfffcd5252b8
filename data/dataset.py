"""Data sets: CSVs of pid,fid and the image files that they name."""

import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common import UserError, first_few
from runtime import terminal

# A file system in a network answers late: where each answer took 0.5 ms, 32 threads were 27 times as
# fast as one. On a local disk they are as fast as one.
_THREADS = 32
_CHUNK = 256  # files that a thread looks for at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images, N of them, in the order of their CSV.

    The columns become object arrays: a row takes the memory of its own text, however long the text
    of another row is.

    Attributes:
        pids, fids: str [N].
        path: the CSV; "" for a data set that has none.
    """

    pids: np.ndarray
    fids: np.ndarray
    path: str = ""

    def __post_init__(self):
        for name in ("pids", "fids"):
            column = np.asarray(getattr(self, name), dtype=object)
            object.__setattr__(self, name, column)  # it is frozen for all others

    def __len__(self) -> int:
        return len(self.pids)

    def select(self, rows: np.ndarray) -> "Dataset":
        """Some of the images. rows: int [n], in any order, or bool [N]."""
        return dataclasses.replace(self, pids=self.pids[rows], fids=self.fids[rows])

    def paths(self, image_root: str | os.PathLike) -> np.ndarray:
        """The image files: str [N], an object array."""
        return np.array([os.path.join(image_root, fid) for fid in self.fids], dtype=object)


def labels_of(names: Sequence[str]) -> np.ndarray:
    """Number the distinct names in their sorted order, from 0 on: int64 [N]."""
    import pandas

    labels, _ = pandas.factorize(np.asarray(names, dtype=object), sort=True)
    return labels


# ------------------------------------------------------------------------- reading


def load(path: str | os.PathLike) -> Dataset:
    """Read a data set: a CSV without header, one `pid,fid` a row.

    Both columns are kept as they are written: leading zeros matter, `NA` and `#` are ordinary text.
    Fields that hold commas are quoted, as in every CSV. Blank lines are skipped.

    Returns:
        a data set of at least one image.
    Raises:
        UserError for a missing, unreadable or empty file, and for the first row without exactly two
        columns.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(
            f"cannot read the data set {path}: {error.strerror}. Give an existing CSV of pid,fid."
        ) from None
    pids, fids = _read_plain(content) or _read_strictly(path, content)
    if not len(pids):
        raise UserError(
            f"the data set {path} is empty. It should have one line pid,fid for every image."
        )
    return Dataset(pids, fids, path)


def _read_plain(content: bytes) -> tuple[Sequence[str], Sequence[str]] | None:
    """Both columns of a CSV of which every line is a row without quotes; None for any other."""
    # pandas forgives what stands behind a closing quote and ends a text at a NUL.
    if b'"' in content or b"\0" in content:
        return None
    import pandas

    try:
        table = pandas.read_csv(
            io.BytesIO(content),
            header=None,
            dtype=object,
            na_filter=False,
            skip_blank_lines=False,
            quoting=csv.QUOTE_NONE,
        )
    except (pandas.errors.EmptyDataError, pandas.errors.ParserError, UnicodeDecodeError):
        return None
    columns = [table[name].to_numpy() for name in table]
    if len(columns) != 2 or any((column == "").any() for column in columns):
        return None  # a blank line or a fault
    return columns[0], columns[1]


def _read_strictly(path: str, content: bytes) -> tuple[Sequence[str], Sequence[str]]:
    """Both columns of any CSV, or the error that names the line of its first fault."""
    pids, fids = [], []
    try:
        with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            for row in reader:
                if len(row) < 2 and not "".join(row).strip():
                    continue
                if len(row) != 2 or not row[0] or not row[1]:
                    raise UserError(
                        f"{path}, line {reader.line_num}: should be two columns, pid,fid. Received: {','.join(row)!r}. "
                        "Correct the line; a field that holds a comma needs double quotes."
                    )
                pids.append(row[0])
                fids.append(row[1])
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no CSV in UTF-8: {error}. Save it as plain text, one pid,fid a line."
        ) from None
    return pids, fids


# ------------------------------------------------------------------------- image files


def check_paths(dataset: str, image_root: str, fids: Sequence[str], allow_any_path: bool) -> None:
    """Check that all images are below image_root.

    Args:
        dataset: what the message calls the data set.
        allow_any_path: allow images that are elsewhere.

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


def _leads_out(fid: str) -> bool:
    if os.path.isabs(fid):
        return True
    return os.pardir in fid and os.path.normpath(fid).split(os.sep)[0] == os.pardir


def check_images(
    dataset: str, image_root: str, fids: Sequence[str], allow_any_path: bool = False
) -> None:
    """Check that all images are files below image_root. On a terminal a line shows the progress.

    Raises:
        UserError as check_paths does, and with the number and the first few of the images that are
        no files.
    """
    check_paths(dataset, image_root, fids, allow_any_path)
    missing = _missing(image_root, fids)
    if missing:
        only_first = len(missing) == 1 and missing[0] == fids[0]
        raise UserError(
            f"{len(missing)} of the {len(fids)} images of {dataset} are not in --image_root {image_root}: "
            f"{first_few(missing)}. File ids are relative to --image_root: correct the one or the other"
            f"{', or remove the header, line 1, of the CSV' if only_first else ''}."
        )


def _missing(image_root: str, fids: Sequence[str]) -> list[str]:
    """The fids that are no files, in order."""

    def missing_of(start: int) -> list[str]:
        chunk = fids[start : start + _CHUNK]
        return [fid for fid in chunk if not os.path.isfile(os.path.join(image_root, fid))]

    missing = []
    starts = range(0, len(fids), _CHUNK)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        with terminal.bar(len(fids), "files", delay=1) as bar:
            for start, found in zip(starts, pool.map(missing_of, starts), strict=True):
                missing += found
                bar.update(min(_CHUNK, len(fids) - start))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return missing
