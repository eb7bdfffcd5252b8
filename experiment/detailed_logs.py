"""The files of --detailed_logs: embeddings, losses and fids of every iteration, to be memory-mapped.

    embeddings  float32 [iterations, B, D]
    losses      float32 [iterations, B]
    fids        bytes [iterations, B], UTF-8
    checksums   uint32 [iterations], the CRC-32 of the row of each of these; 0 where it is not known

Row i belongs to iteration i + 1; rows of iterations that did not run yet are 0. Beside each file
stands a `<name>.json`: {"dtype": ..., "shape": [...]}. `python -m reports.hard_images` tells what is
in them.
"""

import math
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import UserError
from runtime import files, json_files
from runtime.terminal import log

# What may stand in a description: numbers and bytes, no "O" that would take bytes for addresses.
_DTYPES = re.compile(r"[<>]f[248]|<u4|\|S[1-9][0-9]{0,5}")
_CHECKSUMS = "checksums"


def layout(
    iterations: int, B: int, D: int, fids: Sequence[str]
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """dtype and shape of each file of a training.

    Args:
        fids: of the training set. The longest one decides how much room each takes.
    """
    longest = max(len(fid.encode()) for fid in fids)
    return {
        "embeddings": (np.dtype(np.float32), (iterations, B, D)),
        "losses": (np.dtype(np.float32), (iterations, B)),
        "fids": (np.dtype((np.bytes_, longest)), (iterations, B)),
    }


class DetailedLogs:
    """The files of an experiment, to write to: a context that opens and closes them.

    They are written to and not mapped: with a mapped file a full disk would kill the process, not
    raise OSError.

    Args:
        root: the experiment's directory.
        layout: {name: (dtype, shape)}; {} for no logs. A file that is there may become longer in
            its first dimension; its rows are kept.

    Raises:
        UserError when a file there is of another dtype or of another shape beyond the first
        dimension, or is damaged.
    """

    def __init__(self, root: str | os.PathLike, layout: dict[str, tuple]):
        self._root = Path(root)
        self._open = {}
        self._layout = {}
        self._names = tuple(layout)
        if layout:
            iterations = max(shape[0] for _, shape in layout.values())
            layout = layout | {_CHECKSUMS: (np.dtype("<u4"), (iterations,))}
        for name, (dtype, shape) in layout.items():
            dtype = np.dtype(dtype)
            length, *row_shape = shape
            if self._is_described(name):
                before = read(self._root / name)
                if before.dtype != dtype or list(before.shape[1:]) != row_shape:
                    raise UserError(
                        f"{self._root / name} holds {before.dtype} {list(before.shape)}, which does not go on as "
                        f"{dtype} {list(shape)}: the data set or the batch changed since. Move the detailed logs "
                        "elsewhere to go on."
                    )
                length = max(length, len(before))
            self._layout[name] = dtype, (length, *row_shape)

    def _is_described(self, name: str) -> bool:
        """A kill can leave a file without its description, which is written last: it starts over."""
        return (self._root / name).exists() and (self._root / f"{name}.json").exists()

    def __enter__(self) -> "DetailedLogs":
        for name, (dtype, shape) in self._layout.items():
            path = self._root / name
            self._open[name] = open(path, "r+b" if self._is_described(name) else "w+b")  # noqa: SIM115, __exit__ closes it
            # Sparse: rows take up disk space once they are written.
            self._open[name].truncate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            files.write_json(f"{path}.json", {"dtype": dtype.str, "shape": shape})
        return self

    def __exit__(self, *_) -> None:
        for file in self._open.values():
            file.close()

    def write(self, index: int, **rows: np.ndarray) -> None:
        """Write row `index` of every file, given by its name; other names are ignored.

        Raises:
            OSError when the disk is full, ValueError for a row of another shape.
        """
        converted = [np.asarray(rows[name], self._layout[name][0]) for name in self._names]
        for name, row in zip(self._open, [*converted, _checksum(converted)], strict=False):
            file = self._open[name]
            _, shape = self._layout[name]
            if row.shape != shape[1:]:
                raise ValueError(
                    f"a row of {name} should be {list(shape[1:])}. Received: {list(row.shape)}"
                )
            file.seek(index * row.nbytes)
            file.write(row.tobytes())
            file.flush()

    def sync(self) -> None:
        """Have what was written on the disk."""
        for file in self._open.values():
            os.fsync(file.fileno())


def _checksum(rows: Iterable[np.ndarray]) -> np.ndarray:
    """The CRC-32 of the rows of one iteration: uint32 []."""
    crc = 0
    for row in rows:
        crc = zlib.crc32(row.tobytes(), crc)
    return np.array(crc, "<u4")


# ------------------------------------------------------------------------- reading


def read(path: str | os.PathLike) -> np.memmap:
    """The whole file, memory-mapped and read-only, as its `<name>.json` describes it.

    Raises:
        UserError: it is not as described.
    """
    try:
        description = json_files.read(f"{path}.json")
        dtype = _dtype(description["dtype"])
        length, *row_shape = map(_positive, description["shape"])
        row_size = dtype.itemsize * math.prod(row_shape)
        size = os.path.getsize(path)
        # A kill can leave a file that has become longer with the description of before.
        if size % row_size or size < length * row_size:
            raise ValueError(f"of {size} bytes, but should have {length} rows of {row_size}")
        return np.memmap(path, dtype, "r", shape=(size // row_size, *row_shape))
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(
            f"the detailed log {path} is damaged: it or its .json is {error}. Move the detailed logs elsewhere to go "
            "on without them."
        ) from None


def _dtype(stored: object) -> np.dtype:
    if not isinstance(stored, str) or not _DTYPES.fullmatch(stored):
        raise ValueError(f"of the dtype {stored!r:.50}")
    return np.dtype(stored)


def _positive(stored: object) -> int:
    if type(stored) is not int or stored < 1:
        raise ValueError(f"of a shape with {stored!r:.50}")
    return stored


class Logged(NamedTuple):
    """All files of an experiment, memory-mapped, and the rows of the iterations that ran."""

    embeddings: np.memmap
    losses: np.memmap
    fids: np.memmap
    rows: np.ndarray  # int [n], ascending


def read_all(root: str | os.PathLike) -> Logged:
    """All detailed logs of an experiment. Rows that are damaged are left out, with a warning.

    Raises:
        UserError: an experiment without detailed logs or without an iteration in them, and files
            that do not belong together.
    """
    root = Path(root)
    if not (root / "losses.json").exists():
        raise UserError(f"{root} has no detailed logs. Train with --detailed_logs.")
    embeddings, losses, fids = (read(root / name) for name in ("embeddings", "losses", "fids"))
    kinds = embeddings.dtype.kind + losses.dtype.kind + fids.dtype.kind
    if (
        kinds != "ffS"
        or embeddings.ndim != 3
        or not embeddings.shape[:2] == losses.shape == fids.shape
    ):
        shapes = [list(file.shape) for file in (embeddings, losses, fids)]
        raise UserError(
            f"the detailed logs of {root} are damaged: embeddings, losses and fids do not belong together. Received: "
            f"shapes {', '.join(map(str, shapes))}."
        )
    rows = np.flatnonzero(fids[:, 0] != b"")
    if not len(rows):
        raise UserError(f"no iteration of {root} is in its detailed logs yet. Wait for the first.")
    logged = Logged(embeddings, losses, fids, rows)
    return logged._replace(rows=_undamaged(root, logged))


def _undamaged(root: Path, logged: Logged) -> np.ndarray:
    """The rows that are as they were written, as far as that is known."""
    if not (root / f"{_CHECKSUMS}.json").exists():  # of an older version
        return logged.rows
    stored = read(root / _CHECKSUMS)
    known = stored[: len(logged.losses)]
    damaged = [
        row
        for row in logged.rows
        if row < len(known)
        and known[row]
        and known[row] != _checksum((logged.embeddings[row], logged.losses[row], logged.fids[row]))
    ]
    if len(damaged) == len(logged.rows):
        raise UserError(f"the detailed logs of {root} are damaged: no row of them is as it was.")
    if damaged:
        log.warning(
            f"{len(damaged)} of {len(logged.rows)} iterations in the detailed logs of {root} are damaged and left out, "
            f"the first is {damaged[0] + 1}."
        )
    return np.setdiff1d(logged.rows, damaged)
