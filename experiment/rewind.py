"""Taking back what a run logged after the checkpoint that it is resumed from.

Those iterations run again. So the logs of a run that was killed and resumed read as those of one
that was left alone. Detailed logs need none of this: each of their rows has its place.
"""

import itertools
import os
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from google.protobuf import message
from tensorboard.summary.writer.record_writer import masked_crc32c

from experiment import folder, metrics_log, train_log, validations
from runtime import files
from runtime.terminal import log

# The name of a file of events begins with when it was begun, in seconds.
_TIME = re.compile(r"events\.out\.tfevents\.([0-9]{10,})(?=\.)")

# A record of events: its length and a CRC of that, its bytes, a CRC of them.
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")


def rewind(experiment_root: str | os.PathLike, iteration: int) -> None:
    """Remove what is later than `iteration` from the logs and from TensorBoard's events.

    So is what they have of a validation after that iteration, if a kill came before its line in
    metrics.jsonl, which is written last: it is made again. What a kill left half-written is removed,
    too. A file is replaced in one step, and only if something in it has to go. Of events that are
    damaged, all that can be read stays, and the file as it was is kept as `broken-...`.
    """
    root = Path(experiment_root)
    folder.remove_leftovers(root)
    _rewind_log(root / metrics_log.NAME, iteration, metrics_log.iteration_of)
    newest = metrics_log.last_line(root) or {}
    validated = newest.get("iteration") == iteration and validations.is_one(newest)
    last = _Last(iteration, validated)
    _rewind_log(root / "train.log", iteration, last.iteration_in_log)
    for path in filter(Path.is_file, sorted(root.glob("events.out.tfevents.*"))):
        _rewind_events(path, last)
    _bring_before(int(time.time()), root)


class _Last(NamedTuple):
    """What stays: all up to an iteration."""

    iteration: int
    validated: bool  # after it

    def keeps(self, event: tf.compat.v1.Event) -> bool:
        if event.step != self.iteration or self.validated:
            return event.step <= self.iteration
        return not validations.is_one(value.tag for value in event.summary.value)

    def iteration_in_log(self, line: bytes) -> int | None:
        """The iteration of a line of train.log; a later one for what does not stay."""
        found = train_log.iteration_of(line)
        if found == self.iteration and train_log.is_of_validation(line) and not self.validated:
            return found + 1
        return found


def _bring_before(now: int, root: Path) -> None:
    """Rename files of events whose names tell a time after `now`, in seconds: the clock was set back.

    TensorBoard reads them by their names, and draws a curve in the order in which it reads.
    """
    times = {}
    for path in sorted(root.glob("events.out.tfevents.*")):
        match = _TIME.match(path.name)
        if match and path.is_file():
            times[path] = int(match[1])
    if max(times.values(), default=0) <= now:
        return
    for place, path in enumerate(times):  # the earliest first: a kill leaves them in order
        time_told = min(times[path], now - len(times) + place)
        renamed = path.with_name(_TIME.sub(f"events.out.tfevents.{time_told:010}", path.name))
        if not renamed.exists():
            os.replace(path, renamed)


def _rewind_log(path: Path, iteration: int, iteration_of: Callable[[bytes], int | None]) -> None:
    """Remove lines that are later or not complete; those about no single iteration stay."""
    if not path.exists():
        return
    content = path.read_bytes()
    *lines, _ = content.split(b"\n")  # what stands behind the last one was cut off
    kept = [line + b"\n" for line in lines if (iteration_of(line) or 0) <= iteration]
    if b"".join(kept) != content:
        with files.complete_file(path) as partial:
            partial.write_bytes(b"".join(kept))


def _rewind_events(path: Path, last: _Last) -> None:
    # A name that TensorBoard does not read.
    partial = path.with_name(path.name.replace("tfevents", "partial"))
    readable = 0
    is_damaged = False
    with tf.io.TFRecordWriter(str(partial)) as writer:
        for record in _records(path):
            event = _event(record)
            if event is None:
                is_damaged = True
                continue
            readable += 1
            if last.keeps(event):
                writer.write(record)
    if is_damaged and not readable:
        log.warning(f"{path} cannot be read as TensorBoard's events: it stays as it is.")
        partial.unlink()
        return
    if is_damaged:
        kept = _keep_broken(path)
        log.warning(
            f"{path} is damaged. What could be read of it stays there; the file as it was is {kept} now."
        )
    if is_damaged or partial.stat().st_size < path.stat().st_size:
        files.sync(partial)
        os.replace(partial, path)
    else:
        partial.unlink()


def _event(record: bytes | None) -> tf.compat.v1.Event | None:
    try:
        return None if record is None else tf.compat.v1.Event.FromString(record)
    except message.DecodeError:
        return None


def _records(path: Path) -> Iterator[bytes | None]:
    """The records of a file in their order; None for what is damaged. A last one that was cut off
    by a kill counts for nothing.
    """
    position = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield record
            position += _HEADER.size + len(record) + _CRC.size
    except tf.errors.DataLossError:
        yield from _records_from(path, position)


def _records_from(path: Path, position: int) -> Iterator[bytes | None]:
    """The same from a place on at which TensorFlow reads nothing."""
    with open(path, "rb") as file:
        file.seek(position)
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, crc = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != crc:
                yield None  # where the next one begins is not known
                return
            record = file.read(length)
            ending = file.read(_CRC.size)
            if len(ending) == _CRC.size:
                yield record if _CRC.pack(masked_crc32c(record)) == ending else None


def _keep_broken(path: Path) -> Path:
    """Copy a file to a name that TensorBoard does not read."""
    name = path.name.replace("tfevents", "events")
    names = itertools.chain([f"broken-{name}"], (f"broken-{n}-{name}" for n in itertools.count(2)))
    kept = next(kept for kept in map(path.with_name, names) if not kept.exists())
    with files.complete_file(kept) as partial:
        shutil.copyfile(path, partial)
    return kept
