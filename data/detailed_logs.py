"""The files of --detailed_logs, to be memory-mapped: what every iteration embedded, and its losses.

`embeddings` float32 [iterations, B, D], `losses` float32 [iterations, B] and `fids` bytes [iterations, B], row i
belonging to iteration i + 1; beside each a `<name>.json` = {"dtype": ..., "shape": [...]}. Rows of iterations that
did not run yet are 0.
"""

import json
import os
from pathlib import Path

import numpy as np

import common


class DetailedLogs:
    """The files of an experiment, to write to: a context that opens and closes them.

    They are written to and not mapped: with a mapped file a full disk would kill the process, not raise OSError.

    Args:
      root: the experiment's directory.
      files: {name: (dtype, shape)}; {} for no logs. A file that is there may become longer in its first dimension;
        its rows are kept.

    Raises: common.UserError when a file there is of another dtype or of another shape beyond the first dimension.
    """

    def __init__(self, root: str | os.PathLike, files: dict[str, tuple]):
        self._root = Path(root)
        self._files = {name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in files.items()}
        for name, (dtype, shape) in self._files.items():
            if self._described(name):
                before = read(self._root / name)
                if before.dtype != dtype or before.shape[1:] != shape[1:]:
                    raise common.UserError(
                        f"{self._root / name} holds {before.dtype} {list(before.shape)}, which does not go on as "
                        f"{dtype} {list(shape)}: the data set or the batch changed since. Move the detailed logs "
                        "elsewhere to go on."
                    )
                self._files[name] = dtype, (max(shape[0], len(before)), *shape[1:])
        self._open = {}

    def _described(self, name: str) -> bool:
        """A kill can leave a file whose description, written last, is not there yet: it is begun again."""
        return (self._root / name).exists() and (self._root / f"{name}.json").exists()

    def __enter__(self) -> "DetailedLogs":
        for name, (dtype, shape) in self._files.items():
            path = self._root / name
            self._open[name] = open(path, "r+b" if self._described(name) else "w+b")  # noqa: SIM115, __exit__ closes it
            # Sparse: rows take up disk space once they are written.
            self._open[name].truncate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            common.write_json(f"{path}.json", {"dtype": dtype.str, "shape": shape})
        return self

    def __exit__(self, *_) -> None:
        for file in self._open.values():
            file.close()

    def write(self, index: int, **rows: np.ndarray) -> None:
        """Row `index` of every file, by its name; rows of files that are not kept are passed over.

        Raises: OSError when the disk is full, ValueError for a row of another shape.
        """
        for name, file in self._open.items():
            dtype, shape = self._files[name]
            row = np.asarray(rows[name], dtype)
            if row.shape != shape[1:]:
                raise ValueError(f"a row of {name} should be {list(shape[1:])}. Received: {list(row.shape)}")
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
