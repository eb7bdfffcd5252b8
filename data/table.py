"""The file of a data set -> its columns, as text: a CSV without header, one with, or Parquet.

The rule that tells a header: the first row that is not blank has a field `pid` and a field `fid`,
in these letters; space around them does not count. Every other CSV has no header, and two columns.
So a person named pid is safe, unless its image is named fid, without suffix, and stands in the
first row: write ./fid then.
"""

import csv
import difflib
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common import UserError
from runtime.terminal import log

if TYPE_CHECKING:
    import pandas as pd

BOX = ("x1", "y1", "x2", "y2")
COLUMNS = ("pid", "fid", "camera", *BOX, "split", "group", "tracklet", "date")

# Other names that people give to the columns, in small letters and without _, - and spaces.
_MEANT = {
    "pid": "id identity identityid person personid label class classid target individual individualid name vehicleid",
    "fid": "file filename filepath path image imagename imagepath imageid imagefile img imgpath",
    "camera": "cam camid cameraid camname",
    "x1": "xmin left x",
    "y1": "ymin top y",
    "x2": "xmax right",
    "y2": "ymax bottom",
    "split": "subset part fold set",
    "group": "groupid category",
    "tracklet": "track trackid trackletid",
}


class Table(NamedTuple):
    """The columns of a file that have a meaning here.

    Attributes:
        columns: by their names, of COLUMNS, text [N] each; pid and fid have no empty cells.
        lines: of each row in the file, counted from 1; None where a file has no lines.
    """

    columns: dict[str, np.ndarray]
    lines: Sequence[int] | None

    def place(self, row: int) -> str:
        """Where a row stands, for people."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"


def meant(name: str) -> str | None:
    """The column that a name in a header probably stands for; None if it is like no other."""
    word = "".join(c for c in name.casefold() if c not in "_- ")
    for column, others in _MEANT.items():
        if word in (column, *others.split()):
            return column
    close = difflib.get_close_matches(word, COLUMNS, 1, cutoff=0.7)
    return close[0] if close else None


def header_hint(names: Sequence[str]) -> str:
    """What a row would mean as a header, as the end of a message; "" if it reads like none."""
    known = [(name, meant(name)) for name in names]
    if {"pid", "fid"} - {column for _, column in known}:
        return ""
    words = ", ".join(f"{column} for {name}" for name, column in known if column and column != name)
    return f" If it is a header, its names should be others: {words}."


def read(path: str, content: bytes) -> Table:
    """Read the file of a data set.

    All text is kept as it is written: leading zeros matter, `NA` and `#` are ordinary text.
    Fields that hold commas are quoted, as in every CSV. Blank lines are skipped.

    Args:
        path: of the file, for the messages.
        content: what it holds.

    Raises:
        UserError for a file that is neither CSV nor Parquet, for the first row without the right
            number of columns, and for a header with a column twice or with a part of x1,y1,x2,y2.
    """
    if content.startswith(b"PAR1"):
        return _read_parquet(path, content)
    header = _header_of(content)
    if header is None:
        columns = _read_plain(content, ["pid", "fid"])
        return columns or _read_strictly(path, content, ["pid", "fid"], has_header=False)
    _check_header(path, header)
    return _read_plain(content, header, skipped=1) or _read_strictly(
        path, content, header, has_header=True
    )


# ------------------------------------------------------------------------- the header


def _header_of(content: bytes) -> list[str] | None:
    """The names of the columns; None for a file without header."""
    start = content[:65536]
    with io.TextIOWrapper(io.BytesIO(start), "utf-8-sig", errors="replace", newline="") as text:
        try:
            row = next((row for row in csv.reader(text) if not _is_blank(row)), [])
        except csv.Error:
            return None
    names = [name.strip() for name in row]
    return names if "pid" in names and "fid" in names else None


def _is_blank(row: list[str]) -> bool:
    return len(row) < 2 and not "".join(row).strip()


def _check_header(path: str, names: Sequence[str]) -> None:
    """Warn of likely typos. Raises: UserError for a column twice, or for a part of a box."""
    words = ",".join(names)
    for name in COLUMNS:
        if names.count(name) > 1:
            raise UserError(
                f"{path}: its header has the column {name} twice. Received: {words!r}. Rename or remove one of them."
            )
    lacking = [name for name in BOX if name not in names]
    if 0 < len(lacking) < len(BOX):
        raise UserError(
            f"{path}: a box is four columns, x1,y1,x2,y2, but its header has no {', '.join(lacking)}. Received: "
            f"{words!r}. Add what is missing, or rename the others."
        )

    likely = [(name, meant(name)) for name in names if name not in COLUMNS]
    unused = [
        f"{name} (meant: {column}?)" for name, column in likely if column not in (None, *names)
    ]
    if unused:
        log.warning(f"{path} has columns that are not used: {', '.join(unused)}")


# ------------------------------------------------------------------------- CSV


def _known(names: Sequence[str], columns: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    pairs = zip(names, columns, strict=True)
    return {name: column for name, column in pairs if name in COLUMNS}


def _read_plain(content: bytes, names: Sequence[str], skipped: int = 0) -> Table | None:
    """A CSV of which every line is a row without quotes; None for any other, and for a faulty one.

    Args:
        skipped: lines before the first row.
    """
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
    # No line has more fields than the first, so none has fewer either where commas are that many.
    if table.shape[1] != len(names) or content.count(b",") != len(table) * (len(names) - 1):
        return None
    columns = _known(names, [table[name].to_numpy()[skipped:] for name in table])
    if any((columns[name] == "").any() for name in ("pid", "fid")):
        return None  # a blank line or a fault
    return Table(columns, range(1 + skipped, 1 + len(table)))


def _read_strictly(path: str, content: bytes, names: Sequence[str], has_header: bool) -> Table:
    """Any CSV, or the error that names the line of its first fault."""
    rows, lines = [], []
    required = [names.index("pid"), names.index("fid")]
    try:
        for line, row in itertools.islice(_rows(content), int(has_header), None):
            if len(row) != len(names) or not all(row[column] for column in required):
                raise UserError(_fault(path, line, row, names if has_header else None, not rows))
            rows.append(row)
            lines.append(line)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no CSV in UTF-8: {error}. Save it as plain text, one pid,fid a line."
        ) from None
    table = np.array(rows, dtype=object).reshape(len(rows), len(names))
    return Table(_known(names, list(table.T)), lines)


def _rows(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, after the number of its line."""
    with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        for row in reader:
            if not _is_blank(row):
                yield reader.line_num, row


def _fault(path: str, line: int, row: list[str], header: Sequence[str] | None, first: bool) -> str:
    """What is wrong with a row."""
    received = ",".join(row)
    remedy = "Correct the line; a field that holds a comma needs double quotes."
    if header is None:
        if first and len(row) > 2:
            remedy += f" More columns need a header with pid and fid.{header_hint(row)}"
        return (
            f"{path}, line {line}: should be two columns, pid,fid. Received: {received!r}. {remedy}"
        )
    return (
        f"{path}, line {line}: should be {len(header)} columns, {','.join(header)}, with a pid and a fid. Received: "
        f"{received!r}. {remedy}"
    )


# ------------------------------------------------------------------------- Parquet


def _read_parquet(path: str, content: bytes) -> Table:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path} is a Parquet file, which needs pyarrow to be read. Call pip install pyarrow, or save it as CSV."
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        if not {"pid", "fid"} <= set(names):
            raise UserError(
                f"{path} should have the columns pid and fid. Received: {', '.join(names)}.{header_hint(names)}"
            )
        _check_header(path, names)
        used = [name for name in names if name in COLUMNS]
        table = file.read(columns=used).to_pandas()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({' '.join(str(error).split())}). Save it again."
        ) from None
    columns = {}
    for name in used:
        columns[name] = table[name].to_numpy() if name in BOX else _text(path, name, table[name])
        empty = name in ("pid", "fid") and np.flatnonzero(columns[name] == "")
        if empty is not False and len(empty):
            raise UserError(
                f"{path}, row {empty[0] + 1}: {name} is empty. Give it, or remove the row."
            )
    return Table(columns, None)


def _text(path: str, name: str, column: "pd.Series") -> np.ndarray:
    """A column of Parquet as text: whole numbers are written out, what is missing is empty."""
    import pandas

    values = column.astype(object)
    is_missing = pandas.isna(values).to_numpy()
    odd = [
        row
        for row, value in enumerate(values)
        if not is_missing[row] and (isinstance(value, bool) or not isinstance(value, str | int))
    ]
    if odd:
        value = values.iloc[odd[0]]
        raise UserError(
            f"{path}, row {odd[0] + 1}: {name} should be text or a whole number. Received: {value!r}. Save the column "
            "as text."
        )
    return np.array(
        ["" if gone else str(value) for gone, value in zip(is_missing, values, strict=True)], object
    )
