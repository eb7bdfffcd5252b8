"""Weights & Biases as a tracker. The package is imported when a training begins, in a thread."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.trackers import PATIENCE, Line, Note, Picture

_EXIT_CODES = {"finished": 0, "interrupted": 143, "failed": 1}


class Tracker:
    """A run, offline unless WANDB_MODE says otherwise or WANDB_BASE_URL names a server.

    WANDB_PROJECT and the package's other variables count; without them the project is triplet-reid,
    and the files are in the experiment.

    Attributes:
        place: where to look at the run.
        delay: seconds until what it was told is on the disk; before, a kill loses it.
    """

    place: str
    delay: float

    def open(self, root: Path, flags: Mapping[str, Any], run_id: str) -> str:
        """Begin a run, or go on with one.

        Args:
            root: the experiment.
            run_id: of an earlier training of it; empty for a new run.

        Returns:
            The run's id.
        """
        mode = os.environ.get("WANDB_MODE")
        mode = mode or ("online" if os.environ.get("WANDB_BASE_URL") else "offline")
        if mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which goes to a server, too
        import wandb

        # The terminal is the training's: W&B neither records it nor writes or asks there.
        settings = wandb.Settings(
            console="off", silent=True, init_timeout=PATIENCE, finish_timeout=PATIENCE
        )
        self.delay = 20.0
        if hasattr(
            settings, "x_transaction_log_flush_interval"
        ):  # which is 15 s, and no public name
            settings.x_transaction_log_flush_interval = 1.0
            self.delay = 3.0
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "triplet-reid"),
            name=os.environ.get("WANDB_NAME", root.name),
            id=run_id or secrets.token_hex(4),
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(root)),
            mode=mode,
            settings=settings,
        )
        self._run.config.update(dict(flags), allow_val_change=True)
        self.place = self._run.url if mode == "online" else str(Path(self._run.dir).parent)
        return self._run.id

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._run.log(line.values, step=line.iteration)

    def picture(self, picture: Picture) -> None:
        self._run.log({picture.name: self._wandb.Image(picture.pixels)}, step=picture.iteration)

    def note(self, note: Note) -> None:
        self._run.summary[note.name] = note.value

    def close(self, state: str) -> None:
        """End the run. state: as of trackers.End."""
        self._run.finish(exit_code=_EXIT_CODES[state])
