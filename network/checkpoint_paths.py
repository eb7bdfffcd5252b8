"""Which checkpoints an experiment has, and which weights they hold.

Without TensorFlow, for checks before anything slow.
"""

import hashlib
import os
import re
from pathlib import Path

from common import UserError

# What TensorFlow 1 appended to the name of a variable for its average (--ema).
_AVERAGE = "ExponentialMovingAverage"
# Names the best checkpoint by validation, in the format of TensorFlow's file `checkpoint`.
BEST = "checkpoint-best"


def newest(experiment_root: str | os.PathLike) -> Path:
    """The complete checkpoint of the highest iteration, as a path without suffix.

    The state file is not asked: the original wrote absolute paths into it, which are wrong once a
    directory has moved.

    Raises:
        UserError: there is none.
    """
    finished = iterations(Path(experiment_root))
    if not finished:
        raise UserError(
            f"there is no checkpoint in {experiment_root}. Give the --experiment_root of a training."
        )
    return Path(experiment_root) / f"checkpoint-{finished[-1]}"


def find(experiment_root: str | os.PathLike, name: str | None = None) -> Path:
    """A checkpoint of an experiment, as a path without suffix.

    Args:
        name: such as checkpoint-1000; best for the one that checkpoint-best names; the newest if
            None.

    Raises:
        UserError: there is no such checkpoint; the message lists those that there are.
    """
    if name is None:
        return newest(experiment_root)
    root = Path(experiment_root)
    if name in ("best", BEST):
        return root / f"checkpoint-{_existing_best(root)}"
    if Path(name).parent.resolve() in (root.resolve(), Path().resolve()):
        name = Path(name).name.removesuffix(".index")  # as the shell completes it
    others = {file.stem for file in root.glob("*.index")}
    ours = [f"checkpoint-{iteration}" for iteration in iterations(root)]
    available = ours + sorted(others.difference(ours))
    if name not in available:
        raise UserError(
            f"there is no checkpoint {name!r} in {experiment_root}. Available: {', '.join(available) or 'none'}."
        )
    return root / name


def best(root: Path) -> int | None:
    """The iteration of the checkpoint that checkpoint-best names; None where there is no such file."""
    path = root / BEST
    if not path.is_file():
        return None
    match = re.search(r'"checkpoint-([0-9]+)"', path.read_text(encoding="ascii", errors="replace"))
    return int(match[1]) if match else None


def _existing_best(root: Path) -> int:
    iteration = best(root)
    if iteration is None:
        raise UserError(
            f"there is no {BEST} in {root}: only a training with validations (--val_pids or --val_query) has one, "
            "after the first of them. Leave --checkpoint out, for the newest."
        )
    if iteration not in iterations(root):
        raise UserError(
            f"{root / BEST} names checkpoint-{iteration}, which is not there. Copy it there, or give another "
            "--checkpoint."
        )
    return iteration


def iterations(root: Path) -> list[int]:
    """Those of the complete checkpoints, rising."""
    found = []
    for file in root.glob("checkpoint-*.index"):
        match = re.fullmatch(r"checkpoint-(0|[1-9][0-9]*)\.index", file.name)
        if match:
            found.append(int(match[1]))
    return sorted(found)


def fingerprint(checkpoint: str | os.PathLike) -> str | None:
    """What a checkpoint, given without suffix, has in common with its copies only.

    It is of the index, which has the checksum of each variable: fast for checkpoints of any size.

    Returns:
        "sha256 " and 64 digits; None where the checkpoint is gone.
    """
    try:
        with open(f"{os.fspath(checkpoint)}.index", "rb") as file:
            return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return None


# ------------------------------------------------------------------------- averaged weights


def average_name(name: str) -> str:
    """The name of a variable's average."""
    return f"{name}/{_AVERAGE}"


def has_averages(checkpoint: Path) -> bool:
    """Whether a checkpoint, given without suffix, holds averaged weights beside the others."""
    # Names share their beginnings in this file, but none of ours shares one with this.
    index = checkpoint.with_name(f"{checkpoint.name}.index")
    return index.is_file() and _AVERAGE.encode() in index.read_bytes()


def chosen_weights(checkpoint: Path, wanted: str | None) -> str | None:
    """Which weights of a checkpoint to take.

    Args:
        checkpoint: without suffix.
        wanted: "averaged" or "raw", as --weights; None: the average where there is one.

    Returns:
        "averaged" or "raw", or None where the checkpoint has no others than the raw ones.

    Raises:
        UserError: there are no averaged ones, and they are wanted.
    """
    if has_averages(checkpoint):
        return wanted or "averaged"
    if wanted == "averaged":
        raise UserError(
            f"--weights averaged: {checkpoint} holds none, as its training had no --ema. Leave it out, or give raw."
        )
    return None
