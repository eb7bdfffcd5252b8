"""Which checkpoints an experiment has, and which weights they hold.

Without TensorFlow, for checks before anything slow.
"""

import os
import re
from pathlib import Path

from common import UserError

# What TensorFlow 1 appended to the name of a variable for its average (--ema).
_AVERAGE = "ExponentialMovingAverage"


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
        name: such as checkpoint-1000; the newest if None.

    Raises:
        UserError: there is no such checkpoint; the message lists those that there are.
    """
    if name is None:
        return newest(experiment_root)
    root = Path(experiment_root)
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


def iterations(root: Path) -> list[int]:
    """Those of the complete checkpoints, rising."""
    found = []
    for file in root.glob("checkpoint-*.index"):
        match = re.fullmatch(r"checkpoint-(0|[1-9][0-9]*)\.index", file.name)
        if match:
            found.append(int(match[1]))
    return sorted(found)


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
