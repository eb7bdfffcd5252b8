"""The memory-mapped files of --detailed_logs: what every iteration embedded, and its losses.

`embeddings` float32 [iterations, B, D], `losses` float32 [iterations, B] and `fids` bytes [iterations, B], row i
belonging to iteration i + 1; beside each a `<name>.json` = {"dtype": ..., "shape": [...]}. Rows of iterations that
did not run yet are 0.
"""

import json
import os
from pathlib import Path

import numpy as np

import common


def open_to_write(path: str | os.PathLike, dtype: np.dtype | str, shape: tuple[int, ...]) -> np.memmap:
    """A file of `shape` whose first dimension may be longer than it was: rows that were there are kept.

    Raises: common.UserError when the file there is of another dtype or of another shape beyond the first dimension.
    """
    path, description = Path(path), {"dtype": np.dtype(dtype).str, "shape": list(shape)}
    if path.exists():
        before = open_to_read(path)
        if before.dtype != np.dtype(dtype) or before.shape[1:] != tuple(shape[1:]):
            raise common.UserError(
                f"{path} holds {before.dtype} {list(before.shape)}, which does not go on as {np.dtype(dtype)} "
                f"{list(shape)}: the data set or the batch changed since. Move the detailed logs elsewhere to go on."
            )
        description["shape"][0] = max(shape[0], before.shape[0])
    # A sparse file: rows take up disk space once they are written.
    with open(path, "ab") as file:
        file.truncate(int(np.prod(description["shape"], dtype=np.int64)) * np.dtype(dtype).itemsize)
    common.write_json(f"{path}.json", description)
    return np.memmap(path, dtype=dtype, mode="r+", shape=tuple(description["shape"]))


def open_to_read(path: str | os.PathLike) -> np.memmap:
    """The whole file, read-only, as its `<name>.json` describes it."""
    description = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return np.memmap(path, dtype=description["dtype"], mode="r", shape=tuple(description["shape"]))
