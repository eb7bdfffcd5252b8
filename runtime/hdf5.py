"""HDF5 files, which come from elsewhere: opened for reading here alone.

Of a file, only what lies in it is read. HDF5 would follow links and raw storage into other files,
and put zeros where these are missing.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import IO

import h5py
import numpy as np

# What h5py raises for a damaged file, besides OSError.
ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

# The most that deflate, which packs best of HDF5's filters, makes of one byte.
_MOST_PACKED = 1032


@contextlib.contextmanager
def reading(file: str | os.PathLike | IO[bytes]) -> Iterator[h5py.File]:
    """A file that is open to be read. It is not locked: not every file system can do that.

    Raises:
        ERRORS, for what is no HDF5 file or a damaged one.
    """
    with h5py.File(file, "r", locking=False) as opened:
        yield opened


def find(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What has a name in the file itself; None where nothing has.

    Args:
        name: within the group; groups in it before a slash.

    Raises:
        ValueError: it, or a group before it, is a link.
    """
    found = group
    for part in [part for part in name.split("/") if part]:
        encoded = part.encode("utf-8", "surrogateescape")
        if not isinstance(found, h5py.Group) or not found.id.links.exists(encoded):
            return None
        if found.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"`{name}` is a link: copy what it leads to into the file itself")
        found = found[part]
    return found


def dataset(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """A data set that lies in the file itself; None where the name is of none.

    Raises:
        ValueError: as `find` does; it is kept in other files; it was not written to its end; or it
            would be larger than the whole file.
    """
    found = find(group, name)
    if not isinstance(found, h5py.Dataset):
        return None
    if found.is_virtual or found.external:
        raise ValueError(f"`{name}` is kept in other files: copy it into one, with h5repack say")
    _check_size(found, name)
    return found


def _check_size(found: h5py.Dataset, name: str) -> None:
    size = math.prod(found.shape or (0,)) * found.dtype.itemsize
    file_size = found.file.id.get_filesize()
    if size > file_size * (_MOST_PACKED if found.id.get_create_plist().get_nfilters() else 1):
        raise ValueError(f"`{name}` would be of {size} bytes, in a file of {file_size}")
    if size and found.id.get_space_status() != h5py.h5d.SPACE_STATUS_ALLOCATED:
        raise ValueError(f"`{name}` was never written, or not to its end")


def attribute(group: h5py.Group, name: str) -> str | int | None:
    """An attribute that is text or an integer; None for any other, and where it cannot be read."""
    try:
        value = group.attrs.get(name)
    except ERRORS:
        return None
    if isinstance(value, str | bytes):
        return text(value)
    return int(value) if isinstance(value, np.integer) else None


def text(value: object) -> str:
    """Text of any of HDF5's kinds of it."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
