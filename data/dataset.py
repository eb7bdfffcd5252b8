"""Data sets: CSVs of pid,fid."""

import csv
import os
from typing import NamedTuple

from common import UserError, first_few


class Dataset(NamedTuple):
    """The images of a CSV, N of them, in its order."""

    pids: list[str]
    fids: list[str]

    def select(self, rows: list[int]) -> "Dataset":
        """The data set of some of its rows."""
        return Dataset([self.pids[row] for row in rows], [self.fids[row] for row in rows])


def load(path: str | os.PathLike) -> Dataset:
    """Read a data set: a CSV without header, one `pid,fid` a row.

    Both columns are kept as they are written (leading zeros matter, `#` is an ordinary character);
    fields with commas are quoted as in every CSV; blank lines are passed over.

    Returns: a data set of at least one image.
    Raises: UserError for a missing, unreadable or empty file, and for the first row without exactly
        two columns.
    """
    pids, fids = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if not "".join(row).strip() and len(row) < 2:
                    continue
                if len(row) != 2 or not row[0] or not row[1]:
                    raise UserError(
                        f"{path}, line {reader.line_num}: should be two columns, pid,fid. Received: {','.join(row)!r}. "
                        "Correct the line; a field that holds a comma needs double quotes."
                    )
                pids.append(row[0])
                fids.append(row[1])
    except OSError as error:
        raise UserError(
            f"cannot read the data set {path}: {error.strerror}. Give an existing CSV of pid,fid."
        ) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no CSV in UTF-8: {error}. Save it as plain text, one pid,fid a line."
        ) from None
    if not pids:
        raise UserError(
            f"the data set {path} is empty. It should have one line pid,fid for every image."
        )
    return Dataset(pids, fids)


def check_paths(dataset: str, image_root: str, fids: list[str], allow_any_path: bool) -> None:
    """Raises: UserError with the number and the first few of the images that are not below
    image_root.
    """
    outside = [
        fid
        for fid in fids
        if os.path.isabs(fid) or os.path.normpath(fid).split(os.sep)[0] == os.pardir
    ]
    if outside and not allow_any_path:
        raise UserError(
            f"{len(outside)} of the {len(fids)} images of {dataset} are not below --image_root {image_root}: "
            f"{first_few(outside)}. Give a folder that holds all images, or --allow_any_path if these are meant."
        )


def check_images(
    dataset: str, image_root: str, fids: list[str], allow_any_path: bool = False
) -> None:
    """Raises: UserError as check_paths does, and for the images that are no files."""
    check_paths(dataset, image_root, fids, allow_any_path)
    missing = [fid for fid in fids if not os.path.isfile(os.path.join(image_root, fid))]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(fids)} images of {dataset} are not in --image_root {image_root}: "
            f"{first_few(missing)}. File ids are relative to --image_root: correct the one or the other"
            f"{', or remove the header, line 1, of the CSV' if missing == fids[:1] else ''}."
        )
