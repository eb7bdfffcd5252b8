"""The training of a sweep's trial, in a process of its own: begun, watched, ended early, gone on with.

It is train.py --start_or_resume, so that one that was killed goes on where its newest checkpoint is.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common
from experiment import folder, metrics_log, validations
from experiment.validations import Validation
from runtime import files
from uninterrupt import Uninterrupt

# The command that trains; --experiment_root, --like and --start_or_resume follow.
TRAIN = [sys.executable, str(common.HERE / "train.py")]

_POLL = 0.5  # seconds between looks at a training
_READING = 20  # reading its validations takes at most this part of the time
_KILLS = 3  # in a row without a new checkpoint: then the trial has failed


class Trial(NamedTuple):
    """Where a trial is.

    Attributes:
        root: its experiment.
        flags: the file of its flags, for --like.
        output: a file that its terminal's output is appended to.
    """

    root: Path
    flags: Path
    output: Path


class Outcome(NamedTuple):
    """How a training ended.

    Attributes:
        state: finished; pruned; failed; or interrupted, by a signal to this process.
        reason: why, where it failed.
    """

    state: str
    reason: str = ""


def train(
    trial: Trial,
    metric: str,
    is_hopeless: Callable[[list[Validation]], bool],
    interrupt: Uninterrupt,
) -> Outcome:
    """Train until the end, going on after each kill.

    Args:
        is_hopeless: called with all validations whenever there are new ones: whether to end the
            training early.
        interrupt: its signal ends the training, with a checkpoint.
    """
    killed_at: list[int] = []
    while True:
        # The process that had the trial was killed, perhaps, but its training was not.
        while files.is_locked(trial.root) and not interrupt.interrupted:
            time.sleep(_POLL)
        if interrupt.interrupted:
            return Outcome("interrupted")
        if is_hopeless(validations.read(trial.root, metric)):
            return Outcome("pruned")
        code, reason = _run(trial, metric, is_hopeless, interrupt)
        if reason:
            return Outcome(reason)
        if code == 0:
            return Outcome("finished")
        if 0 < code < 128:
            return Outcome("failed", _last_line(trial.output))
        killed_at.append(folder.newest_iteration(trial.root))
        if killed_at[-_KILLS:] == killed_at[-1:] * _KILLS:
            return Outcome("failed", f"it was killed {_KILLS} times at iteration {killed_at[-1]}")
        time.sleep(_POLL)  # whoever ends all processes of a job has ended this one, too, then


def _run(
    trial: Trial,
    metric: str,
    is_hopeless: Callable[[list[Validation]], bool],
    interrupt: Uninterrupt,
) -> tuple[int, str]:
    """Train once. Returns: the exit code, and why it was ended from here: pruned, interrupted or ""."""
    command = [*TRAIN, "--experiment_root", str(trial.root), "--like", str(trial.flags)]
    with open(trial.output, "ab") as output:
        process = subprocess.Popen(
            [*command, "--start_or_resume"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to this process alone, which hands it on
        )
    news = _News(trial.root, metric)
    while process.poll() is None:
        ended = "interrupted" if interrupt.interrupted else ""
        found = news.read()
        if not ended and found and is_hopeless(found):
            ended = "pruned"
        if ended:
            process.terminate()
            code = process.wait()
            return code, "" if code == 0 else ended
        try:
            process.wait(_POLL)
        except subprocess.TimeoutExpired:
            continue
    return process.returncode, ""


class _News:
    """The validations of a training, read when there are new lines, but not too often."""

    def __init__(self, root: Path, metric: str):
        self._root = root
        self._metric = metric
        self._size = 0
        self._not_before = 0.0

    def read(self) -> list[Validation]:
        """All validations; none where there is nothing new."""
        path = self._root / metrics_log.NAME
        began = time.monotonic()
        size = path.stat().st_size if path.exists() else 0
        if size == self._size or began < self._not_before:
            return []
        self._size = size
        found = validations.read(self._root, self._metric)
        took = time.monotonic() - began
        self._not_before = began + _READING * took
        return found


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1][-500:] if lines else "it said nothing"
