"""Taking back what a run logged after the checkpoint that it is resumed from: those iterations come
again.

So logs of a run that was killed and resumed read as those of one that never was. Detailed logs need
none of this: their rows have places.
"""

import os
import shutil
from pathlib import Path

import tensorflow as tf

from experiment import train_log
from runtime import files


def rewind(experiment_root: str | os.PathLike, iteration: int) -> None:
    """Remove what is later than `iteration` from train.log and TensorBoard's events, and what a
    kill left half-done.

    A file is replaced in one step, and only if something in it has to go.
    """
    root = Path(experiment_root)
    for data in root.glob(
        "checkpoint-*.data-*"
    ):  # without its index, which is written last and deleted first
        if not data.with_name(data.name.partition(".data-")[0] + ".index").exists():
            data.unlink()
    for leftover in (
        "checkpoint*.partial",
        "args.json.partial",
        "train.log.partial",
        "events.out.partial.*",
    ):
        for path in root.glob(leftover):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if (root / "train.log").exists():
        _rewind_log(root / "train.log", iteration)
    for path in sorted(root.glob("events.out.tfevents.*")):
        _rewind_events(path, iteration)


def _rewind_log(path: Path, iteration: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [
        line
        for line in lines
        if line.endswith(b"\n") and (train_log.iteration_of(line) or 0) <= iteration
    ]
    if len(kept) < len(lines):
        with files.complete_file(path) as partial:
            partial.write_bytes(b"".join(kept))


def _rewind_events(path: Path, iteration: int) -> None:
    partial = path.with_name(
        path.name.replace("tfevents", "partial")
    )  # no name that TensorBoard reads
    later = False
    with tf.io.TFRecordWriter(str(partial)) as writer:
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if tf.compat.v1.Event.FromString(record).step <= iteration:
                    writer.write(record)
                else:
                    later = True
        except tf.errors.DataLossError:  # the last record was not complete
            later = True
    if later:
        os.replace(partial, path)
    else:
        partial.unlink()
