"""--report_to: what a training tells W&B and MLflow.

A tracker is told flags, the lines of metrics.jsonl, pictures, and where checkpoints are. It works in
a thread of its own, so the loop never waits for it, and whatever goes wrong in it is one warning: the
training goes on without it.

`tracker-NAME.json` in the experiment has the id of the run there, and how far it was told:

    {"run": "3f9c2a71", "iteration": 120, "validation": 100}

The numbers are of what a kill cannot take from the tracker any more. So a resumed training goes on
with the run: it tells the tracker from metrics.jsonl what that lacks, and tells no iteration twice.
training/tracker_NAME.py talks to the package.
"""

import collections
import dataclasses
import importlib
import importlib.util
import itertools
import json
import math
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import common
from common import UserError
from experiment import flags, metrics_log
from experiment.flags import Settings
from runtime import json_files
from runtime.terminal import log

# What to install for each; pyproject.toml has the same.
REQUIREMENTS = {"wandb": "wandb>=0.31,<1", "mlflow": "mlflow-skinny>=3.17,<4"}
TITLES = {"wandb": "W&B", "mlflow": "MLflow"}

PATIENCE = 30.0  # seconds that the end of a training waits for its trackers
_ROOM = 10_000  # events that wait for a tracker; one that is further behind has failed


class Line(NamedTuple):
    """Numbers of an iteration, or of a validation after it."""

    iteration: int  # from 1; 0 for a validation before the first
    values: dict[str, float]  # by the tags of metrics.jsonl; all are finite

    @property
    def kind(self) -> str:
        return "iteration" if "loss" in self.values else "validation"


class Picture(NamedTuple):
    iteration: int
    name: str  # its tag in TensorBoard
    pixels: np.ndarray  # uint8 RGB [H, W, 3]


class Note(NamedTuple):
    """A value that replaces the one before, such as where the newest checkpoint is."""

    name: str
    value: str


class End(NamedTuple):
    state: str  # finished, interrupted or failed


class Told(NamedTuple):
    """What tracker-NAME.json has: a run, and the last iteration and validation that it was told."""

    run: str = ""
    iteration: int = 0
    validation: int = -1  # there can be one of iteration 0


def check(settings: Settings) -> None:
    """Raises: UserError where the package of a tracker is missing."""
    for name in _names(settings):
        spec = importlib.util.find_spec(name)
        # W&B leaves folders of its name, which can be imported, but have no origin.
        if spec is None or spec.origin is None:
            raise UserError(
                f"--report_to {name} takes a package that is not installed. Install it: pip install "
                f"'{REQUIREMENTS[name]}'"
            )


def _names(settings: Settings) -> list[str]:
    return [name for name in flags.several(settings.report_to) if name != "none"]


class Trackers:
    """All trackers of a training: a context that begins and ends their runs.

    Args:
        finished: the number of iterations that earlier runs finished.
        active: False for a process that tells nothing.
    """

    def __init__(self, settings: Settings, finished: int, active: bool = True):
        names = _names(settings) if active else []
        self._root = Path(settings.experiment_root).absolute()
        self._reporters = [_Reporter(name, settings, finished) for name in names]
        self.is_finished = False  # set when the training is over

    def __enter__(self) -> "Trackers":
        for reporter in self._reporters:
            reporter.start()
        return self

    def __exit__(self, kind, *_) -> None:
        state = "failed" if kind else "interrupted"
        self._tell(End("finished" if self.is_finished else state))
        deadline = time.monotonic() + PATIENCE
        for reporter in self._reporters:
            if not reporter.failed.is_set():
                reporter.join(max(0.0, deadline - time.monotonic()))
            if reporter.is_alive():
                reporter.fail(f"it has not come to its end within {PATIENCE:.0f} s")

    def line(self, iteration: int, values: Mapping[str, float]) -> None:
        """Tell numbers, as MetricsLog.write has them."""
        if self._reporters:
            self._tell(Line(iteration, _finite(values)))

    def picture(self, iteration: int, name: str, pixels: np.ndarray) -> None:
        """Tell a picture. pixels: uint8 RGB [H, W, 3]."""
        self._tell(Picture(iteration, name, pixels))

    def checkpoint(self, iteration: int, is_best: bool) -> None:
        """Tell where a checkpoint is, once it is complete. A thread may call this."""
        path = str(self._root / f"checkpoint-{iteration}")
        self._tell(Note("checkpoint", path))
        if is_best:
            self._tell(Note("checkpoint-best", path))

    def _tell(self, event: Line | Picture | Note | End) -> None:
        for reporter in self._reporters:
            reporter.tell(event)


class _Reporter(threading.Thread):
    """The thread of one tracker. It ends with the process, whatever the tracker does."""

    def __init__(self, name: str, settings: Settings, finished: int):
        super().__init__(name=f"tracker {name}", daemon=True)
        self._tracker_name = name
        self._settings = settings
        self._finished = finished
        self._path = Path(settings.experiment_root) / f"tracker-{name}.json"
        self._events: queue.Queue = queue.Queue(_ROOM)
        self.failed = threading.Event()  # it is told nothing more
        self._giving_up = threading.Lock()

    def tell(self, event: Line | Picture | Note | End) -> None:
        """Hand over something to tell, without waiting."""
        if self.failed.is_set():
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self.fail(f"it is {_ROOM} events behind")

    def fail(self, why: str) -> None:
        """Give the tracker up, with one warning."""
        with self._giving_up:  # both threads may find a reason
            if self.failed.is_set():
                return
            log.warning(
                f"{TITLES[self._tracker_name]} is told nothing more, and the training goes on: {why[:300]}. The next "
                "--resume tells it what it lacks."
            )
            self.failed.set()  # whoever sees this need not wait for the warning

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # a package may raise SystemExit, too
            self.fail(common.reason(error) if isinstance(error, Exception) else repr(error))

    def _work(self) -> None:
        tracker = importlib.import_module(f"training.tracker_{self._tracker_name}").Tracker()
        before = _read(self._path)
        root = Path(self._settings.experiment_root).absolute()
        run = tracker.open(root, dataclasses.asdict(self._settings), before.run)
        start = told = before if run == before.run else Told(run)
        pending = collections.deque()
        with _StateFile(self._path) as file:
            file.write(told)
            log.info(f"{TITLES[self._tracker_name]}: run {run}, in {tracker.place}.")
            for events in itertools.chain([self._missed()], self._batches()):
                for kind, group in itertools.groupby(events, key=type):
                    if self.failed.is_set():
                        return
                    if kind is Line:
                        told = _tell_lines(tracker, list(group), told)
                        pending.append((time.monotonic(), told))
                    else:
                        _tell_others(tracker, group, start)
                    while pending and pending[0][0] <= time.monotonic() - tracker.delay:
                        file.write(pending.popleft()[1])
            file.write(told)  # it is closed: nothing is on its way any more

    def _missed(self) -> list[Line]:
        """What earlier runs logged."""
        root = self._settings.experiment_root
        lines = []
        for values in metrics_log.read(root):
            iteration = values.pop("iteration")
            if iteration > self._finished:  # this run logs it meanwhile, and tells it
                break
            lines.append(Line(iteration, _finite(values)))
        return lines

    def _batches(self) -> Iterator[list]:
        """All that waits, each time that something does, until the end."""
        events: list = []
        while not (events and isinstance(events[-1], End)):
            events = [self._events.get()]
            while not self._events.empty():
                events.append(self._events.get())
            yield events


def _tell_lines(tracker, lines: Sequence[Line], told: Told) -> Told:
    """Tell lines that are new. Returns: how far it was told then."""
    new = [line for line in lines if line.iteration > getattr(told, line.kind)]
    if new:
        tracker.log(new)
    newest = {line.kind: line.iteration for line in new}
    return Told(**(told._asdict() | newest))


def _tell_others(tracker, events: Iterable[Picture | Note | End], start: Told) -> None:
    for event in events:
        if isinstance(event, Picture) and event.iteration > start.iteration:
            tracker.picture(event)
        elif isinstance(event, Note):
            tracker.note(event)
        elif isinstance(event, End):
            tracker.close(event.state)


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    numbers = {name: math.nan if value is None else float(value) for name, value in values.items()}
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


# ------------------------------------------------------------------------- tracker-NAME.json


class _StateFile:
    """Written over in one piece after each batch: a kill leaves it as it was before or after."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "_StateFile":
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", 0)
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, told: Told) -> None:
        text = json.dumps(told._asdict())
        self._file.seek(0)
        self._file.write(f"{text:<200}\n".encode())


def _read(path: Path) -> Told:
    """What the file has. Where there is none, or a damaged one, a new run begins."""
    try:
        values = json_files.read(path)
        return Told(str(values["run"]), int(values["iteration"]), int(values["validation"]))
    except FileNotFoundError:
        return Told()
    except (OSError, ValueError, TypeError, LookupError):
        log.warning(f"{path} cannot be read: a new run begins in the tracker.")
        return Told()
