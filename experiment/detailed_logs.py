"""The files of --detailed_logs: embeddings, losses and fids of every iteration, to be memory-mapped.

    embeddings  float32 [iterations, B, D]
    losses      float32 [iterations, B]
    fids        bytes [iterations, B], UTF-8

Row i belongs to iteration i + 1; rows of iterations that did not run yet are 0. Beside each file
stands a `<name>.json`: {"dtype": ..., "shape": [...]}. `python -m reports.hard_images` tells what is
in them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import UserError
from runtime import files


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
        dimension.
    """

    def __init__(self, root: str | os.PathLike, layout: dict[str, tuple]):
        self._root = Path(root)
        self._open = {}
        self._layout = {}
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
        for name, file in self._open.items():
            dtype, shape = self._layout[name]
            row = np.asarray(rows[name], dtype)
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


def read(path: str | os.PathLike) -> np.memmap:
    """The whole file, memory-mapped and read-only, as its `<name>.json` describes it."""
    description = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return np.memmap(path, dtype=description["dtype"], mode="r", shape=tuple(description["shape"]))


class Logged(NamedTuple):
    """All files of an experiment, memory-mapped, and the rows of the iterations that ran."""

    embeddings: np.memmap
    losses: np.memmap
    fids: np.memmap
    rows: np.ndarray  # int [n], ascending


def read_all(root: str | os.PathLike) -> Logged:
    """Raises: UserError for an experiment without detailed logs or without an iteration in them."""
    root = Path(root)
    if not (root / "losses.json").exists():
        raise UserError(f"{root} has no detailed logs. Train with --detailed_logs.")
    fids = read(root / "fids")
    rows = np.flatnonzero(fids[:, 0] != b"")
    if not len(rows):
        raise UserError(f"no iteration of {root} is in its detailed logs yet. Wait for the first.")
    return Logged(read(root / "embeddings"), read(root / "losses"), fids, rows)
