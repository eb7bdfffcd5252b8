"""Which checkpoints an experiment has; without TensorFlow, for checks before anything slow."""

import os
import re
from pathlib import Path

from common import UserError


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
