"""Embeddings in a Parquet file: columns `fid` and `emb`, and how they were made as its metadata.

`fid` is text, as in the HDF5 file; `emb` a list of D float32. embeddings_file.py writes and reads
these files, and checks what they hold.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from common import UserError

MAGIC = b"PAR1"
_EMB = "emb"
_FID = "fid"
_ORIGIN = b"triplet_reid"  # the key of the metadata
_ROWS = 2**14  # of a row group, which is what is in memory at a time


def check_installed(path: str | os.PathLike) -> None:
    """Raises: UserError where pyarrow is not installed, which `path` needs."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError(
            f"{path} is a Parquet file, which needs pyarrow. Call pip install pyarrow, or give a name that ends in "
            ".h5 or .npy."
        ) from None


class Writer:
    """Takes embeddings as they come; see embeddings_file.create."""

    def __init__(self, file, schema, count: int, fids: Sequence[str] | None):
        self._file = file
        self._schema = schema
        self._total = count
        self._fids = fids
        self._waiting: list[np.ndarray] = []
        self._written = 0
        self.count = 0  # of rows so far

    def add(self, embs: np.ndarray, views: np.ndarray | None = None) -> None:  # noqa: ARG002
        """Write the next n rows, float32 [n, D]. Views have no place in this file.

        Raises:
            ValueError: they are of another shape, or more than were told.
            OSError: the disk is full.
        """
        dim = self._schema.field(_EMB).type.list_size
        if np.ndim(embs) != 2 or np.shape(embs)[1] != dim:
            raise ValueError(f"embeddings should be [n, {dim}]. Received: {list(np.shape(embs))}")
        if self.count + len(embs) > self._total:
            raise ValueError(
                f"there is room for {self._total} embeddings. Received: {self.count + len(embs)}"
            )
        self._waiting.append(np.array(embs, np.float32))
        self.count += len(embs)
        if self.count - self._written >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group."""
        import pyarrow as pa

        if not self._waiting:
            return
        numbers = pa.array(np.concatenate(self._waiting).ravel())
        dim = self._schema.field(_EMB).type.list_size
        columns = [pa.FixedSizeListArray.from_arrays(numbers, dim)]
        if self._fids is not None:
            columns.insert(0, pa.array(list(self._fids[self._written : self.count]), pa.string()))
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._waiting = []
        self._written = self.count


@contextlib.contextmanager
def create(
    path: str | os.PathLike,
    shape: tuple[int, int],
    origin: dict[str, object],
    fids: Sequence[str] | None,
) -> Iterator[Writer]:
    """Write a file, row group by row group.

    Args:
        shape: (N, D).
        origin: how the embeddings are made, as JSON can hold it.
        fids: of the N images; without them the file has no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field(_EMB, pa.list_(pa.float32(), shape[1]))]
    if fids is not None:
        fields.insert(0, pa.field(_FID, pa.string()))
    schema = pa.schema(fields, {_ORIGIN: json.dumps(origin).encode()})
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as file:
        writer = Writer(file, schema, shape[0], fids)
        yield writer
        writer.flush()


class Column:
    """The column `emb` of a file, which is read as it is asked for.

    Attributes:
        shape, ndim, dtype: as of an array [N, D].
    """

    def __init__(self, path: str | os.PathLike, file):
        self._path = path
        self._file = file
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        self._held: tuple[int, np.ndarray] | None = None
        first = self._group(0) if counts else np.zeros((0, 0), np.float32)
        self.shape = (int(self._starts[-1]), first.shape[1])
        self.ndim = 2
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Some of the rows, from one row on without gaps: [n, D]."""
        start, stop, _ = rows.indices(len(self))
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = [np.zeros((0, self.shape[1]), self.dtype)]
        for number in range(first, self._file.num_row_groups):
            offset = int(self._starts[number])
            if offset >= stop:
                break
            parts.append(self._group(number)[max(0, start - offset) : stop - offset])
        return np.concatenate(parts)

    def _group(self, number: int) -> np.ndarray:
        """A row group: [n, D]. Raises: UserError unless all its lists have D numbers."""
        if self._held is None or self._held[0] != number:
            column = self._file.read_row_group(number, columns=[_EMB]).column(0).combine_chunks()
            told = int(self._starts[number + 1] - self._starts[number])
            if len(column) != told:
                raise UserError(
                    f"{self._path} is damaged: row group {number} has {len(column)} rows, {told} by its description. "
                    "Make it anew with embed.py."
                )
            numbers = column.flatten().to_numpy(zero_copy_only=False)
            dim = len(numbers) // max(1, len(column))
            if column.null_count or set(column.value_lengths().to_pylist()) - {dim}:
                raise UserError(
                    f"`{_EMB}` in {self._path} should have as many numbers in each row. Save it again."
                )
            embs = numbers.reshape(len(column), dim)
            if self._held is not None and dim != self.shape[1]:
                raise UserError(
                    f"`{_EMB}` in {self._path} should have {self.shape[1]} numbers in each row. Received: {dim}."
                )
            self._held = (number, embs)
        return self._held[1]


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator:
    """A file, open to be read: pyarrow's ParquetFile.

    Raises:
        UserError for what cannot be read, also within the context.
    """
    check_installed(path)
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({' '.join(str(error).split())}). Make it anew with embed.py."
        ) from None


def has_embeddings(file) -> bool:
    """Whether it has a column `emb` of lists: a data set in Parquet has none."""
    import pyarrow.types as types

    schema = file.schema_arrow
    if _EMB not in schema.names:
        return False
    kind = schema.field(_EMB).type
    return types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)


def fids(file) -> list[str] | None:
    """Its column `fid`; None where it has none."""
    if _FID not in file.schema_arrow.names:
        return None
    return [str(fid) for fid in file.read(columns=[_FID]).column(0).to_pylist()]


def origin(file) -> dict[str, object]:
    """How the embeddings were made, as `create` was told; {} where the file does not say it."""
    try:
        values = json.loads((file.schema_arrow.metadata or {}).get(_ORIGIN, b"{}"))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
