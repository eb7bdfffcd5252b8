"""Images at the size that they are resized to, on disk: a file for a data set, mapped into memory.

The file is FOLDER/<N>x<H>x<W>-<12 hexadecimal digits>.resized. The digits are of what decides on its
pixels: the paths and boxes of the N images, and how they are read. It holds

    N images, uint8 [H, W, 3], each filled up with zeros to a multiple of 8 bytes
    N records: size in bytes and time of change in ns of the image's file, and a sum of its pixels
    JSON that says what this is, with a digest of the records, in 4096 bytes

Pixels are those of a training without the file, rounded to whole gray levels. While it is written
it ends in .building; what a kill leaves of that is gone on with.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL
import tensorflow as tf

from common import UserError
from data import images as image_data
from data.dataset import ImageFiles, in_threads
from runtime import files, terminal
from runtime.terminal import log

_FORMAT = 1
_END = 4096  # bytes of the JSON
_RECORD = np.dtype([("size", "<i8"), ("changed", "<i8"), ("sum", "<i8")])
_AT_A_TIME = 64  # images that are written together
_STATS_AT_A_TIME = 256
_MISSING = -1, -1  # size and time of a file that is not there


class Stored(NamedTuple):
    """What is to be on disk.

    Attributes:
        images: N of them.
        size: height and width that they are resized to.
        reduced: whether large JPEGs are decoded smaller, as data.decoding.reduction says.
    """

    images: ImageFiles
    size: tuple[int, int]
    reduced: bool = False

    @property
    def words(self) -> int:
        """Of 8 bytes that an image takes."""
        return -(-self.size[0] * self.size[1] * 3 // 8)

    @property
    def bytes(self) -> int:
        """Of the whole file."""
        return len(self.images) * (8 * self.words + _RECORD.itemsize) + _END

    def digest(self) -> str:
        """Of all that decides on the pixels, but for what is in the images' files."""
        how = {
            "format": _FORMAT,
            "size": self.size,
            "upright": self.images.upright,
            "reduced": self.reduced,
            "by": [tf.__version__, PIL.__version__],
        }
        digest = hashlib.sha256(json.dumps(how).encode())
        for path in self.images.paths:
            digest.update(os.path.abspath(path).encode(errors="surrogateescape") + b"\0")
        if self.images.boxes is not None:
            digest.update(np.ascontiguousarray(self.images.boxes, np.int32))
        return digest.hexdigest()


def reader(
    stored: Stored, folder: str | os.PathLike, threads: int, show: bool = True
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Have the images on disk: write what is missing there, or of image files that have changed.

    Several processes may call this for one folder: one writes, and the others wait.

    Args:
        folder: for the file; it is made if need be.
        threads: images that are loaded in parallel while writing.
        show: whether to show a live line while writing.

    Returns:
        from a row, an int tensor, to the image, uint8 [*size, 3]. What is damaged in the file is
        read from the image's own file, and a warning tells.
    Raises:
        UserError where the disk has too little room; pictures.UnreadableError for an image that
        cannot be read.
    """
    digest = stored.digest()
    height, width = stored.size
    path = Path(folder) / f"{len(stored.images)}x{height}x{width}-{digest[:12]}.resized"
    path.parent.mkdir(parents=True, exist_ok=True)
    states = _states(stored.images)
    records = _records_if_good(path, stored, digest, states)
    if records is None:
        with files.alone(path, lambda: log.info(f"Another process writes {path}. Waiting for it.")):
            records = _records_if_good(path, stored, digest, states)
            if records is None:
                if path.exists() and _records(path, stored, digest) is None:
                    log.warning(f"{path} is damaged, and is written anew.")
                records = _Writer(stored, path, digest, states).write(threads, show)
    return _reader(stored, path, records["sum"])


# ------------------------------------------------------------------------- reading


def _reader(stored: Stored, path: Path, sums: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    height, width = stored.size
    # The file itself: pages are read when they are needed. As a tensor it would be copied, since
    # tf.data copies what a function captures.
    shape = len(stored.images), stored.words
    mapped = np.memmap(path, "<i8", "r", shape=shape)
    warn_once = _Once(
        f"{path} is damaged. Images that are wrong in it are read from their own files. Remove it, and the next "
        "training writes it anew."
    )
    load = image_data.make_loader(stored.size, stored.images.upright, stored.reduced)

    def from_disk(row):
        words = np.array(mapped[row])
        if _sums(words) != sums[row]:
            warn_once()
            (image,) = image_data.load_few(stored.images.select([int(row)]), load)
            return _rounded(image.numpy())
        return words.view(np.uint8)[: height * width * 3].reshape(height, width, 3)

    def read(row):
        with tf.device("CPU:0"):
            image = tf.numpy_function(from_disk, [row], tf.uint8, stateful=False)
            return tf.ensure_shape(image, [height, width, 3])

    return read


class _Once:
    """A warning that is told once, by whichever thread comes first."""

    def __init__(self, message: str):
        self._message: str | None = message
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            if self._message is not None:
                log.warning(self._message)
            self._message = None


def _sums(images: np.ndarray) -> np.ndarray:
    """Sums that tell whether images have changed: int64 [..., words] -> [...].

    The weights are odd, so that they also tell what changed places.
    """
    return images @ _weights(images.shape[-1])


@functools.cache
def _weights(words: int) -> np.ndarray:
    return 2 * np.arange(words, dtype=np.int64) + 1


def _rounded(images: np.ndarray) -> np.ndarray:
    """Float32 gray levels -> uint8, as data.images rounds what an accelerator is given."""
    return np.rint(images).astype(np.uint8)


# ------------------------------------------------------------------------- what is there


def _states(images: ImageFiles) -> np.ndarray:
    """Size in bytes and time of change in ns of the file of each image: int64 [N, 2]."""
    starts = range(0, len(images), _STATS_AT_A_TIME)

    def states_from(start: int) -> list[tuple[int, int]]:
        paths = images.select(slice(start, start + _STATS_AT_A_TIME)).paths
        return [_state(path) for path in paths]

    states = []
    for some in in_threads(states_from, starts, f"x {_STATS_AT_A_TIME} files"):
        states += some
    return np.array(states, np.int64).reshape(-1, 2)


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:  # whoever loads it tells why
        return _MISSING
    return found.st_size, found.st_mtime_ns


def _is_current(records: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Whether the file of each image is what it was: bool [N]."""
    same = (records["size"] == states[:, 0]) & (records["changed"] == states[:, 1])
    return same & (states[:, 0] != _MISSING[0])


def _records_if_good(
    path: Path, stored: Stored, digest: str, states: np.ndarray
) -> np.ndarray | None:
    """The records of a file that has all images as they are now; None for any other."""
    records = _records(path, stored, digest)
    if records is None or not _is_current(records, states).all():
        return None
    return records


def _records(path: Path, stored: Stored, digest: str) -> np.ndarray | None:
    """The records of a complete file; None where there is none, or a damaged one."""
    try:
        with open(path, "rb") as file:
            records = _read_records(file, stored)
            end = file.read(_END + 1)
    except FileNotFoundError:
        return None
    whole = records is not None and end == _end(stored, digest, records)
    return records if whole else None


def _read_records(file: BinaryIO, stored: Stored) -> np.ndarray | None:
    file.seek(8 * stored.words * len(stored.images))
    content = file.read(_RECORD.itemsize * len(stored.images))
    if len(content) < _RECORD.itemsize * len(stored.images):
        return None
    return np.frombuffer(content, _RECORD).copy()


def _end(stored: Stored, digest: str, records: np.ndarray) -> bytes:
    """What a complete file ends with."""
    height, width = stored.size
    values = {
        "format": _FORMAT,
        "images": len(stored.images),
        "height": height,
        "width": width,
        "of": digest,
        "records": hashlib.sha256(records.tobytes()).hexdigest(),
    }
    return json.dumps(values).encode().ljust(_END)


# ------------------------------------------------------------------------- writing


class _Writer:
    """Writes the file at `path`, as `reader` has it; the arguments are those of its helpers."""

    def __init__(self, stored: Stored, path: Path, digest: str, states: np.ndarray):
        self._stored = stored
        self._path = path
        self._digest = digest
        self._states = states
        self._records = np.full(len(stored.images), -1, _RECORD)

    def write(self, threads: int, show: bool) -> np.ndarray:
        """Returns: the records."""
        building = self._path.with_suffix(".building")
        self._check_room(building)
        with open(building, "ab"):
            pass
        files.allocate(building, self._stored.bytes)
        with open(building, "r+b", buffering=0) as file:
            self._keep_what_is_there(file)
            self._load_the_rest(file, threads, show)
            file.seek(8 * self._stored.words * len(self._records))
            _write(file, self._records.tobytes())
            _write(file, _end(self._stored, self._digest, self._records))
            file.truncate()
        files.sync(building)
        os.replace(building, self._path)
        return self._records

    def _check_room(self, building: Path) -> None:
        """Raises: UserError where the disk has too little room."""
        there = 0
        with contextlib.suppress(OSError, AttributeError):
            there = building.stat().st_blocks * 512
        needed = self._stored.bytes - there
        free = shutil.disk_usage(building.parent).free
        if needed > free:
            height, width = self._stored.size
            raise UserError(
                f"--cache resized needs {needed / 1e9:.1f} GB for {len(self._records)} images of {height}x{width} "
                f"pixels, but {building.parent} has {free / 1e9:.1f} GB free. Give a --cache_dir on another disk, or "
                "another --cache."
            )

    def _keep_what_is_there(self, file: BinaryIO) -> None:
        """Take over images that are still right: from what a kill has left, and from the old file."""
        left = _read_records(file, self._stored)
        if left is not None:
            for rows, images in _images_in(file, self._stored, _is_current(left, self._states)):
                whole = _sums(images) == left["sum"][rows]
                self._records[rows[whole]] = left[rows[whole]]
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as old:
            known = _read_records(old, self._stored)
            if known is None:
                return
            wanted = _is_current(known, self._states) & (self._records["size"] < 0)
            for rows, images in _images_in(old, self._stored, wanted):
                whole = _sums(images) == known["sum"][rows]
                self._add(file, rows[whole], images[whole])

    def _load_the_rest(self, file: BinaryIO, threads: int, show: bool) -> None:
        images, size, reduced = self._stored
        rows = np.flatnonzero(self._records["size"] < 0)
        if not len(rows):
            return
        log.info(
            f"Writing {len(rows)} of {len(images)} images of {size[0]}x{size[1]} pixels to {self._path}, which takes "
            f"{self._stored.bytes / 1e9:.2f} GB. Trainings with the same --cache_dir share it."
        )
        batches = image_data.test_batches(images.select(rows), _AT_A_TIME, threads, size, reduced)
        with terminal.bar(len(rows), "resized img", show=show, leave=False) as bar:
            for start, batch in zip(range(0, len(rows), _AT_A_TIME), batches, strict=True):
                n = len(batch)
                words = np.zeros((n, 8 * self._stored.words), np.uint8)
                words[:, : size[0] * size[1] * 3] = _rounded(batch.numpy()).reshape(n, -1)
                self._add(file, rows[start : start + n], words.view("<i8"))
                bar.update(n)

    def _add(self, file: BinaryIO, rows: np.ndarray, images: np.ndarray) -> None:
        """Write images and their records. rows: int [n]; images: int64 [n, words]."""
        records = np.empty(len(rows), _RECORD)
        records["size"], records["changed"] = self._states[rows].T
        records["sum"] = _sums(images)
        self._records[rows] = records
        pixels = len(self._records) * 8 * self._stored.words
        for row, image, record in zip(rows.tolist(), images, records, strict=True):
            file.seek(row * 8 * self._stored.words)
            _write(file, image.tobytes())
            file.seek(pixels + row * _RECORD.itemsize)
            _write(file, record.tobytes())


def _images_in(
    file: BinaryIO, stored: Stored, wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows and the images of them, int64 [n, words], at a time. wanted: bool [N]."""
    rows = np.flatnonzero(wanted)
    for start in range(0, len(rows), _AT_A_TIME):
        some = rows[start : start + _AT_A_TIME]
        images = np.zeros((len(some), stored.words), "<i8")
        for image, row in zip(images, some.tolist(), strict=True):
            file.seek(row * 8 * stored.words)
            content = file.read(8 * stored.words)
            image[: len(content) // 8] = np.frombuffer(content[: len(content) // 8 * 8], "<i8")
        yield some, images


def _write(file: BinaryIO, content: bytes) -> None:
    """All of it: without a buffer, a write may take a part."""
    left = memoryview(content)
    while left:
        written = file.write(left)
        if not written:
            raise OSError(errno.EIO, os.strerror(errno.EIO), file.name)
        left = left[written:]
