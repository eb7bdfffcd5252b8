"""HDF5 files, which come from elsewhere: opened for reading here alone.

Of a file, only what lies in it is read. HDF5 would follow links and raw storage into other files,
and put zeros where these are missing.
"""

import contextlib
import math
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
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

# How a heap of texts begins, with the version; its size is 8 bytes further on. What follows are
# objects: a number, a count of references and 4 bytes of no meaning, and the size of the rest.
_HEAP = b"GCOL\x01"
_SIZE = struct.Struct("<Q")
_OBJECT = struct.Struct("<H6xQ")

# The most that deflate, which packs best of HDF5's filters, makes of one byte.
_MOST_PACKED = 1032


@contextlib.contextmanager
def reading(file: str | os.PathLike | IO[bytes]) -> Iterator[h5py.File]:
    """A file that is open to be read. It is not locked: not every file system can do that.

    Raises:
        ERRORS, for what is no HDF5 file or a damaged one.
    """
    with h5py.File(file, "r", locking=False) as opened:
        _check_heaps(file, opened)
        yield opened


def _check_heaps(file: str | os.PathLike | IO[bytes], opened: h5py.File) -> None:
    """Raises: ValueError for a damaged heap of texts, on which HDF5 would spin forever.

    One flipped bit in a length is enough, when the free space in a heap seems to be of 0 bytes.
    """
    if isinstance(file, str | os.PathLike):
        with (
            open(file, "rb") as raw,
            mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            _check_heaps_in(content, _numbers_in(opened))
    else:
        file.seek(0)
        _check_heaps_in(file.read(), [])


def _numbers_in(opened: h5py.File) -> list[slice]:
    """The parts of a file that only hold the numbers of a data set, rising."""
    links = opened.id.links
    hard = [name for name in opened if links.get_info(_encoded(name)).type == h5py.h5l.TYPE_HARD]
    sets = [found.id for found in map(opened.get, hard) if isinstance(found, h5py.Dataset)]
    offsets = {found.get_offset(): found.get_storage_size() for found in sets}
    return [slice(start, start + offsets[start]) for start in sorted(filter(None, offsets))]


def _check_heaps_in(content: mmap.mmap | bytes, passed_over: Sequence[slice]) -> None:
    starts = [0, *(part.stop for part in passed_over)]
    stops = [*(part.start for part in passed_over), len(content)]
    for start, stop in zip(starts, stops, strict=True):
        while (start := content.find(_HEAP, start, stop)) >= 0:
            _check_heap(content, start)
            start += len(_HEAP)


def _check_heap(content: mmap.mmap | bytes, start: int) -> None:
    """Raises: ValueError unless the objects of a heap fill it. (HDF5's format, section III.E.)"""
    (size,) = _SIZE.unpack_from(content, start + 8)
    if start + size > len(content):
        return  # HDF5 refuses it
    end = start + size
    place = start + 16
    while place + _OBJECT.size <= end:
        number, size = _OBJECT.unpack_from(content, place)
        step = size if number == 0 else _OBJECT.size + -(-size // 8) * 8  # 0 is what is free
        if not 0 < step <= end - place:
            raise ValueError(f"its heap at byte {start} is damaged")
        place += step


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def find(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What has a name in the file itself; None where nothing has.

    Args:
        name: within the group; groups in it before a slash.

    Raises:
        ValueError: it, or a group before it, is a link.
    """
    found = group
    for part in [part for part in name.split("/") if part]:
        encoded = _encoded(part)
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
