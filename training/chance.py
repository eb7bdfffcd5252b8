"""How likely it is that chance alone makes a validation better than that of the start."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common import UserError
from evaluation import Results
from runtime import files, json_files

NAME = "validation-0.json"

_ALL_SIGNS = 12  # pids, up to which all signs are tried
_DRAWN = 4095  # ways to choose them, for more pids


def by_pid(results: Results) -> dict[str, float]:
    """The part that each pid has in the mAP, which is the sum of them: in 0..1, by pid."""
    found = [
        (str(pid), ap)
        for pid, ap in zip(results.query.pids, results.aps, strict=True)
        if ap is not None
    ]
    parts = dict.fromkeys((pid for pid, _ in found), 0.0)
    for pid, ap in found:
        parts[pid] += ap / len(found)
    return parts


def of_rise(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """How likely a rise of the mAP by as much is, if chance alone made it rise or fall for each pid.

    This is the randomization test of paired differences (Fisher, The Design of Experiments, 1935,
    section 21), one-sided: each pid's difference could as well have the other sign.

    Args:
        before, now: as of `by_pid`.

    Returns:
        of the ways to choose the signs, the share whose mAP rises by as much or more, in 0..1. With
        n pids it is at least 1 / 2^n. From 13 pids on, a fixed draw of the ways stands for all.
    Raises:
        UserError: the pids are others.
    """
    if before.keys() != now.keys():
        raise UserError(
            f"--val_beyond_chance compares the AP of the same pids. Received: {len(now)} pids, {NAME} has "
            f"{len(before)}, and {len(before.keys() ^ now.keys())} are only in one of them. Give args.json the "
            "validation of before, or set val_beyond_chance to false in it."
        )
    rises = np.array([now[pid] - before[pid] for pid in before])
    n = len(rises)
    if n <= _ALL_SIGNS:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        drawn = np.random.default_rng(0).choice([-1, 1], (_DRAWN, n))
        signs = np.concatenate([np.ones((1, n), int), drawn])  # what was found is one of the ways
    tolerance = 1e-12  # of rounding
    return float(np.mean(signs @ rises >= rises.sum() - tolerance))


def write(experiment_root: str | os.PathLike, parts: Mapping[str, float]) -> None:
    """Keep what `by_pid` gives for the validation of the start."""
    files.write_json(Path(experiment_root, NAME), json_files.with_digest({"by_pid": dict(parts)}))


def read(experiment_root: str | os.PathLike) -> dict[str, float]:
    """What `write` has kept.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(experiment_root, NAME)
    try:
        content = json_files.read(path)
        if json_files.is_changed(content):
            raise ValueError("its digest is of another content")
        return {pid: float(part) for pid, part in content["by_pid"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"--val_beyond_chance compares with {path}, which cannot be read ({error}). Restore it, or set "
            "val_beyond_chance to false in args.json, which lets every rise count from now on."
        ) from None
