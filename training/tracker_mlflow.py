"""MLflow as a tracker. The package is imported when a training begins, in a thread."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.trackers import Line, Note, Picture

_STATES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_MOST_AT_ONCE = 1000  # metrics in a call
_MOST_PARAMS = 100


class Tracker:
    """A run on the server that MLFLOW_TRACKING_URI names, or in files in the experiment.

    MLFLOW_EXPERIMENT_NAME counts; without it MLflow's experiment is triplet-reid.

    Attributes:
        place: where to look at the run.
        delay: seconds until what it was told is safe.
    """

    place: str
    delay = 0.0

    def open(self, root: Path, flags: Mapping[str, Any], run_id: str) -> str:
        """Begin a run, or go on with one.

        Args:
            root: the experiment.
            run_id: of an earlier training of it; empty for a new run.

        Returns:
            The run's id.
        """
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # which goes to a server
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow
        from mlflow import entities

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._entities = entities
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (root / "mlruns").as_uri()
        self.place = uri
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._run = run_id or self._new_run(root.name)
        self._client.update_run(self._run, status="RUNNING")
        self._log_flags(flags)
        return self._run

    def _new_run(self, name: str) -> str:
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "triplet-reid")
        found = self._client.get_experiment_by_name(experiment_name)
        number = found.experiment_id if found else self._client.create_experiment(experiment_name)
        return self._client.create_run(number, run_name=name).info.run_id

    def _log_flags(self, flags: Mapping[str, Any]) -> None:
        """As parameters. MLflow lets none change: what resuming changed becomes a tag."""
        before = self._client.get_run(self._run).data.params
        values = {name: str(value) for name, value in flags.items()}
        new = [
            self._entities.Param(name, value)
            for name, value in values.items()
            if name not in before
        ]
        for start in range(0, len(new), _MOST_PARAMS):
            self._client.log_batch(self._run, params=new[start : start + _MOST_PARAMS])
        for name, value in values.items():
            if before.get(name, value) != value:
                self._client.set_tag(self._run, name, value)

    def log(self, lines: Sequence[Line]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(_allowed(name), value, now, line.iteration)
            for line in lines
            for name, value in line.values.items()
        ]
        for start in range(0, len(metrics), _MOST_AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[start : start + _MOST_AT_ONCE])

    def picture(self, picture: Picture) -> None:
        self._client.log_image(
            self._run,
            picture.pixels,
            key=picture.name,
            step=picture.iteration,
            synchronous=True,
        )

    def note(self, note: Note) -> None:
        self._client.set_tag(self._run, note.name, note.value)

    def close(self, state: str) -> None:
        """End the run. state: as of trackers.End."""
        self._client.set_terminated(self._run, _STATES[state])


def _allowed(name: str) -> str:
    """A tag as MLflow allows it: MAP@R becomes MAP_R."""
    return re.sub(r"[^\w\-. :/]", "_", name)
