"""Taking back what a run logged after the checkpoint that it is resumed from.

Those iterations run again. So the logs of a run that was killed and resumed read as those of one
that was left alone. Detailed logs need none of this: each of their rows has its place.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from experiment import metrics_log, train_log
from runtime import files

# What a killed run can leave half-written.
_LEFTOVERS = (
    "checkpoint*.partial",
    "args.json.partial",
    "train.log.partial",
    "metrics.jsonl.partial",
    "events.out.partial.*",
)


def rewind(experiment_root: str | os.PathLike, iteration: int) -> None:
    """Remove what is later than `iteration` from the logs and from TensorBoard's events.

    What a kill left half-written is removed, too. A file is replaced in one step, and only if
    something in it has to go.
    """
    root = Path(experiment_root)
    _remove_leftovers(root)
    _rewind_log(root / "train.log", iteration, train_log.iteration_of)
    _rewind_log(root / metrics_log.NAME, iteration, metrics_log.iteration_of)
    for path in sorted(root.glob("events.out.tfevents.*")):
        _rewind_events(path, iteration)


def _remove_leftovers(root: Path) -> None:
    for data in root.glob("checkpoint-*.data-*"):
        # The index is written last and deleted first: without it the data counts for nothing.
        index = data.with_name(data.name.partition(".data-")[0] + ".index")
        if not index.exists():
            data.unlink()
    for pattern in _LEFTOVERS:
        for path in root.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _rewind_log(path: Path, iteration: int, iteration_of: Callable[[bytes], int | None]) -> None:
    """Remove lines that are later or not complete; those about no single iteration stay."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [
        line for line in lines if line.endswith(b"\n") and (iteration_of(line) or 0) <= iteration
    ]
    if len(kept) < len(lines):
        with files.complete_file(path) as partial:
            partial.write_bytes(b"".join(kept))


def _rewind_events(path: Path, iteration: int) -> None:
    # A name that TensorBoard does not read.
    partial = path.with_name(path.name.replace("tfevents", "partial"))
    has_later = False
    with tf.io.TFRecordWriter(str(partial)) as writer:
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if tf.compat.v1.Event.FromString(record).step <= iteration:
                    writer.write(record)
                else:
                    has_later = True
        except tf.errors.DataLossError:  # the last record was not complete
            has_later = True
    if has_later:
        os.replace(partial, path)
    else:
        partial.unlink()
