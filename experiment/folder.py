"""The directory of an experiment: may a training use it, does one already, what has a kill left?

A kill, at any moment, can leave there

    before args.json: an empty train.log. The directory counts as empty
    what runtime/files.py tells: temporary files of what was being written
    checkpoint-N.data-* without its index, which is written last and deleted first: it is nothing
    a provenance.json without the run, or none: it is not recorded
    a provenance.json without the end of the run: the next one records that nothing was left to do
    no checkpoint and no logged iteration: the training starts over
    a file `checkpoint` that does not name the newest one yet: it is written again
    log and events of iterations after the newest checkpoint: rewind.py takes them back
    detailed logs without their description, which is written last: they are written again

A test kills a training before, in and after each operation on files, tests/training/test_kills.py.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from common import UserError
from experiment import train_log
from runtime import files

_CHECKPOINT = re.compile(r"checkpoint-([0-9]+)\.index")

# Temporary names that earlier versions had.
_EARLIER_PARTIALS = (
    "args.json.partial",
    "checkpoint.partial",
    "checkpoints.partial",
    "train.log.partial",
)


_NOT_EMPTY = (
    "To go on with the experiment in it, add --resume; for a new one, give another directory."
)


def check_new(experiment_root: str, advice: str = _NOT_EMPTY) -> None:
    """Check that experiment_root can be created, or is empty and can be written.

    Args:
        advice: the end of the message where it is not empty.

    Raises:
        UserError: it cannot.
    """
    root = Path(experiment_root).absolute()
    if root.exists() and not root.is_dir():
        raise UserError(
            f"--experiment_root {experiment_root} is a file. Give a directory that is empty or new."
        )
    if root.is_dir() and any(_counts(path) for path in root.iterdir()):
        raise UserError(f"--experiment_root {experiment_root} is not empty. {advice}")
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"--experiment_root {experiment_root} cannot be written: {existing} does not allow it."
        )


def _counts(path: Path) -> bool:
    """Whether a file is more than a run leaves that is killed before it has its args.json."""
    if path.name == "train.log":
        return path.stat().st_size > 0
    return path.name not in _EARLIER_PARTIALS and not files.is_leftover(path)


def remove_leftovers(experiment_root: str | os.PathLike) -> None:
    """Remove what a killed training left half-written, for the one that has the directory now."""
    root = Path(experiment_root)
    for data in root.glob("checkpoint-*.data-*"):
        index = data.with_name(data.name.partition(".data-")[0] + ".index")
        if not index.exists():
            data.unlink()
    for path in (*map(root.joinpath, _EARLIER_PARTIALS), *root.glob("events.out.partial.*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    files.remove_leftovers(root)


def check_writeable(experiment_root: str) -> None:
    """Raises: UserError unless the directory, if it is there, can be written to."""
    if os.path.isdir(experiment_root) and not os.access(experiment_root, os.W_OK | os.X_OK):
        raise UserError(
            f"--experiment_root {experiment_root} cannot be written: its permissions do not allow "
            "it. Change them, or copy the experiment and resume there."
        )


def newest_iteration(experiment_root: str | os.PathLike) -> int:
    """The finished iterations of the newest checkpoint, by its name; 0 where there is none."""
    matches = [_CHECKPOINT.fullmatch(path.name) for path in Path(experiment_root).glob("*.index")]
    return max((int(match[1]) for match in matches if match), default=0)


def never_started(experiment_root: str | os.PathLike) -> bool:
    """True if the run ended before checkpoint-0: there is nothing to resume, so it starts over."""
    root = Path(experiment_root)
    has_log = (root / "train.log").exists()
    return has_log and not train_log.has_iterations(root) and not has_checkpoints(root)


def has_checkpoints(experiment_root: str | os.PathLike) -> bool:
    """Whether there is any, also one that is called broken."""
    return any(Path(experiment_root).glob("*checkpoint-*.index"))


@contextlib.contextmanager
def lock(experiment_root: str | os.PathLike) -> Iterator[None]:
    """Have an experiment's directory to oneself.

    It is created if need be, and removed if it is still empty at the end. The lock goes with the
    process, however that ends.

    Raises:
        UserError when another training has it.
    """
    root = Path(experiment_root).absolute()
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    message = (
        f"another training is running in {experiment_root}. Wait for its end, or give another "
        "directory."
    )
    with files.locked_directory(root, message):
        try:
            yield
        finally:
            if files.is_still_there(root):
                with contextlib.suppress(OSError):  # not empty
                    for folder in created:
                        folder.rmdir()


def check_still_there(experiment_root: str | os.PathLike) -> None:
    """Raises: UserError if another directory, or none, has the name of the one that is locked."""
    if not files.is_still_there(experiment_root):
        raise UserError(
            f"{experiment_root} is not the directory any more that this training began in, which "
            "was moved, renamed or deleted. It has all that was saved: go on with --resume and "
            "its new name."
        )
