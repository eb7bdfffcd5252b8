"""metrics.jsonl: what was logged, as numbers, for programs. It is written and read here alone.

One JSON object a line, for each iteration that is logged and for each validation:

    {"iteration": 120, "loss": 0.534, "batch_top1": 0.61, ..., "crc32": "8f3a09c1"}
    {"iteration": 120, "validation/mAP": 0.412, "validation/top-1": 0.553, ..., "crc32": "..."}

`iteration` counts from 1; a validation before the first is of iteration 0. All other names are the
tags of TensorBoard's scalars, and their values are numbers; one that is not finite is null. `crc32`
is the checksum of what stands before its comma.
Iterations rise from line to line, and a validation follows the iteration that it is of. Resuming
takes back the lines of iterations that run again.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtime import json_files
from runtime.terminal import log

NAME = "metrics.jsonl"
_CHECKSUM = "crc32"
_TAIL = 2**16  # bytes: some hundred lines


class MetricsLog:
    """Appends lines: a context that has the file open.

    Args:
        active: False for a process that writes nothing.
    """

    def __init__(self, experiment_root: str | os.PathLike, active: bool = True):
        self._path = Path(experiment_root) / NAME
        self._active = active

    def __enter__(self) -> "MetricsLog":
        if self._active:
            # By lines: whoever reads while the training runs finds only complete ones.
            self._file = open(self._path, "a", buffering=1, encoding="ascii", newline="\n")  # noqa: SIM115
        return self

    def __exit__(self, *_) -> None:
        if self._active:
            self._file.close()

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write one line. values: numbers by TensorBoard's tags."""
        if self._active:
            self._file.write(line(iteration, values))


def line(iteration: int, values: Mapping[str, float]) -> str:
    """One line of the file."""
    numbers = {name: float(value) for name, value in values.items()}
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    text = json.dumps({"iteration": iteration} | finite, allow_nan=False).removesuffix("}")
    return f'{text}, "{_CHECKSUM}": "{_checksum(text.encode())}"}}\n'


def _checksum(text: bytes) -> str:
    return f"{zlib.crc32(text):08x}"


def read(experiment_root: str | os.PathLike) -> Iterator[dict]:
    """The objects of all lines, in order, without checksums; none where there is no file.

    A line that is cut off, by a kill say, is passed over. Damaged lines are left out with a warning.
    """
    path = Path(experiment_root) / NAME
    if not path.exists():
        return
    damaged = 0
    with open(path, "rb") as lines:
        for text in lines:
            values = _parsed(text)
            if values is not None:
                yield values
            elif text.endswith(b"\n"):
                damaged += 1
    if damaged:
        log.warning(f"{damaged} lines of {path} are damaged; they are left out.")


def last(experiment_root: str | os.PathLike) -> dict | None:
    """The newest line of an iteration; None where there is none, or no file."""
    newest = _from_the_end(experiment_root)
    return next((values for values in newest if "loss" in values), None)


def last_line(experiment_root: str | os.PathLike) -> dict | None:
    """The newest line, of an iteration or of a validation; None where there is none, or no file."""
    return next(_from_the_end(experiment_root), None)


def _from_the_end(experiment_root: str | os.PathLike) -> Iterator[dict]:
    """The objects of the last lines, some hundred, the newest first."""
    path = Path(experiment_root) / NAME
    if not path.exists():
        return
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        lines = file.read().splitlines()
    for text in reversed(lines):
        values = _parsed(text)
        if values is not None:
            yield values


def iteration_of(text: bytes) -> int | None:
    """The iteration of a line; None for one that is no line of the file."""
    values = _parsed(text)
    return None if values is None else values["iteration"]


def _parsed(text: bytes) -> dict | None:
    try:
        values = json_files.parse(text)
    except ValueError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("iteration"), int):
        return None
    start, _, _ = text.rpartition(f', "{_CHECKSUM}"'.encode())
    if values.pop(_CHECKSUM, None) != _checksum(start):
        return None
    return values
