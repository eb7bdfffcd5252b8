"""The directory of an experiment: may a training use it, and does one already?"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from common import UserError
from experiment import train_log
from runtime import files

_CHECKPOINT = re.compile(r"checkpoint-([0-9]+)\.index")

# A run that was killed before it wrote its args.json leaves these, empty, and nothing to resume.
_LEFTOVERS_OF_A_KILLED_START = ("train.log", "args.json.partial")


def check_new(experiment_root: str) -> None:
    """Raises: UserError unless experiment_root can be created, or is empty and can be written."""
    root = Path(experiment_root).absolute()
    if root.exists() and not root.is_dir():
        raise UserError(
            f"--experiment_root {experiment_root} is a file. Give a directory that is empty or new."
        )
    if root.is_dir() and any(_counts(path) for path in root.iterdir()):
        raise UserError(
            f"--experiment_root {experiment_root} is not empty. To go on with the experiment in "
            "it, add --resume; for a new one, give another directory."
        )
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"--experiment_root {experiment_root} cannot be written: {existing} does not allow it."
        )


def _counts(path: Path) -> bool:
    return path.name not in _LEFTOVERS_OF_A_KILLED_START or path.stat().st_size > 0


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
    return has_log and not train_log.has_iterations(root) and not any(root.glob("*checkpoint-*"))


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
    try:
        with files.locked_directory(root, message):
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in created:
                folder.rmdir()
