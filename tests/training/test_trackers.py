"""Trackers, with a stand-in for what talks to W&B's or MLflow's package."""

import importlib.machinery
import json
import logging
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import train
from common import UserError
from experiment import metrics_log, rules
from experiment.flags import Settings
from runtime.terminal import log
from training import trackers
from training.tracker_mlflow import Tracker as MLflow
from training.tracker_wandb import Tracker as WandB
from training.trackers import Line, Note, Picture, Trackers

PIXELS = np.zeros((2, 3, 3), np.uint8)


class Told:
    """What a tracker was told, by all runs of a test."""

    place = "a test"
    delay = 0.0

    def __init__(self):
        self.opened = []
        self.lines = []
        self.rest = []
        self.fails_at = None
        self.release = threading.Event()
        self.release.set()

    def open(self, root, flags, run_id):
        self._may_fail("open")
        self.opened.append((flags["train_iterations"], run_id))
        return run_id or "run-1"

    def log(self, lines):
        self._may_fail("log")
        self.lines += [(line.iteration, line.values) for line in lines]

    def picture(self, picture):
        self.rest.append((picture.name, picture.iteration))

    def note(self, note):
        self.rest.append(note)

    def close(self, state):
        self.release.wait()
        self._may_fail("close")
        self.rest.append(state)

    def _may_fail(self, what):
        if self.fails_at == what:
            raise SystemExit("the server is down")


@pytest.fixture
def told(monkeypatch):
    told = Told()
    module = SimpleNamespace(Tracker=lambda: told)
    monkeypatch.setitem(sys.modules, "training.tracker_wandb", module)
    spec = importlib.machinery.ModuleSpec("wandb", None, origin="here")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: spec)
    return told


@pytest.fixture
def warnings():
    handler = logging.Handler(logging.WARNING)
    messages = []
    handler.emit = lambda record: messages.append(record.getMessage())
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


def settings_of(root, *names):
    report_to = list(names) if len(names) > 1 else names[0]
    return Settings(experiment_root=str(root), report_to=report_to, train_iterations=9)


def follow(root, iterations, finished=0):
    """Log and tell iterations as Recorder does."""
    settings = settings_of(root, "wandb")
    with metrics_log.MetricsLog(root) as metrics, Trackers(settings, finished) as told:
        for number in iterations:
            values = {"loss": np.float32(number), "other": np.float32("nan")}
            metrics.write(number, values)
            told.line(number, values)
            told.picture(number, "hardest_triplets", PIXELS)
        told.is_finished = iterations[-1] == 9


def test_a_tracker_is_told_of_a_validation_at_the_start_once(told, tmp_path):
    for _ in range(2):  # the second goes on from checkpoint-0
        with (
            metrics_log.MetricsLog(tmp_path) as metrics,
            Trackers(settings_of(tmp_path, "wandb"), 0) as all_trackers,
        ):
            if not told.lines:
                metrics.write(0, {"validation/mAP": 0.25})
                all_trackers.line(0, {"validation/mAP": 0.25})
    assert told.lines == [(0, {"validation/mAP": 0.25})]


def test_a_tracker_is_told_lines_pictures_checkpoints_and_the_end(told, tmp_path):
    with Trackers(settings_of(tmp_path, "wandb"), 0) as all_trackers:
        all_trackers.line(1, {"loss": np.float32(0.5)})
        all_trackers.picture(1, "network_input", PIXELS)
        all_trackers.line(1, {"validation/mAP": 0.25})
        all_trackers.checkpoint(1, is_best=True)
    assert told.opened == [(9, "")]
    assert told.lines == [(1, {"loss": 0.5}), (1, {"validation/mAP": 0.25})]
    path = str(tmp_path / "checkpoint-1")
    notes = [Note("checkpoint", path), Note("checkpoint-best", path)]
    assert told.rest == [("network_input", 1), *notes, "interrupted"]


def test_a_resumed_training_goes_on_with_the_run_and_tells_nothing_twice(told, tmp_path):
    follow(tmp_path, [1, 2, 3, 4])
    follow(tmp_path, [3, 4, 5, 9], finished=2)  # from checkpoint-2
    assert told.opened == [(9, ""), (9, "run-1")]
    assert told.lines == [(number, {"loss": number}) for number in (1, 2, 3, 4, 5, 9)]
    pictures = [each[1] for each in told.rest if each[0] == "hardest_triplets"]
    assert pictures == [1, 2, 3, 4, 5, 9]
    assert told.rest[-1] == "finished"
    state = json.loads((tmp_path / "tracker-wandb.json").read_text())
    assert state == {"run": "run-1", "iteration": 9, "validation": -1}


def test_what_a_kill_may_take_from_a_tracker_is_told_again(told, tmp_path):
    told.delay = 1000.0
    told.fails_at = "close"  # as a kill: it does not come to its end
    follow(tmp_path, [1, 2])
    state = json.loads((tmp_path / "tracker-wandb.json").read_text())
    assert state == {"run": "run-1", "iteration": 0, "validation": -1}
    told.fails_at = None
    follow(tmp_path, [3, 9], finished=2)
    assert [iteration for iteration, _ in told.lines] == [1, 2, 1, 2, 3, 9]


def test_what_a_tracker_lacks_it_is_told_from_metrics_jsonl(told, tmp_path):
    with metrics_log.MetricsLog(tmp_path) as metrics:  # before there was a tracker
        metrics.write(1, {"loss": 1.0, "other": float("nan")})
        metrics.write(1, {"validation/mAP": 0.5})
        metrics.write(2, {"loss": 2.0})
    follow(tmp_path, [2, 3], finished=1)
    assert told.lines == [
        (1, {"loss": 1.0}),
        (1, {"validation/mAP": 0.5}),
        (2, {"loss": 2.0}),
        (3, {"loss": 3.0}),
    ]


@pytest.mark.parametrize("moment", ["open", "log", "close"])
def test_a_tracker_that_fails_is_one_warning(told, tmp_path, warnings, moment):
    told.fails_at = moment
    follow(tmp_path, [1, 2, 3])
    (warning,) = warnings
    assert warning.startswith("W&B is told nothing more, and the training goes on: ")
    assert "the server is down" in warning
    told.fails_at = None
    follow(tmp_path, [4, 9], finished=3)
    assert [iteration for iteration, _ in told.lines] == [1, 2, 3, 4, 9]
    assert len(warnings) == 1


def test_a_tracker_that_hangs_at_the_end_is_left(told, tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(trackers, "PATIENCE", 0.01)
    told.release.clear()
    follow(tmp_path, [1])
    assert len(warnings) == 1 and "has not come to its end" in warnings[0]
    told.release.set()


def test_a_tracker_that_is_far_behind_is_left(told, tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(trackers, "_ROOM", 3)  # nor is it waited for, which would take 30 s
    monkeypatch.setattr(told, "open", lambda *_: told.release.wait())
    told.release.clear()
    follow(tmp_path, range(1, 10))
    assert len(warnings) == 1 and "it is 3 events behind" in warnings[0]
    told.release.set()


def test_a_damaged_state_begins_a_new_run(told, tmp_path, warnings):
    (tmp_path / "tracker-wandb.json").write_text('{"run": ')
    follow(tmp_path, [1])
    assert told.opened == [(9, "")] and "cannot be read" in warnings[0]


def test_other_processes_than_the_chief_tell_nothing(told, tmp_path):
    with Trackers(settings_of(tmp_path, "wandb"), 0, active=False) as all_trackers:
        all_trackers.line(1, {"loss": 1.0})
    assert not told.opened and not list(tmp_path.iterdir())


@pytest.mark.parametrize("origin", ["missing", "a folder that W&B has left"])
def test_a_missing_package_is_told_with_what_to_install(monkeypatch, tmp_path, origin):
    spec = None if origin == "missing" else importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: spec)
    for name in trackers.REQUIREMENTS:
        with pytest.raises(UserError, match=f"pip install '{name}"):
            trackers.check(settings_of(tmp_path, name))
    trackers.check(settings_of(tmp_path, "none"))


@pytest.mark.parametrize("names", [("none", "wandb"), ("wandb", "wandb")])
def test_trackers_that_do_not_fit_together_are_refused(names):
    with pytest.raises(UserError, match="should name each tracker once"):
        rules.check_combinations(settings_of("exp", *names))


def test_a_training_is_told_as_metrics_jsonl_has_it(told, dataset, tmp_path):
    root = tmp_path / "exp"
    argv = f"--train_set={dataset.csv} --image_root={dataset.root} --model_name=lunet_narrow"
    argv += " --head_name=direct --embedding_dim=4 --batch_p=2 --batch_k=2 --val_pids=3"
    argv += " --net_input_height=24 --net_input_width=16 --train_iterations=2 --val_frequency=2"
    argv += " --report_to=wandb --decay_start_iteration=-1"
    train.main(train.parse_args([f"--experiment_root={root}", *argv.split()]))
    lines = list(metrics_log.read(root))
    assert [line.pop("iteration") for line in lines] == [1, 2, 2]
    assert told.lines == list(zip([1, 2, 2], lines, strict=True))
    best = Note("checkpoint-best", str(root / "checkpoint-2"))
    assert set(told.rest) >= {("network_input", 1), ("hardest_triplets", 1), best}
    assert told.rest[-1] == "finished"


# ------------------------------------------------------------------------- what talks to packages


class Calls:
    """Records calls of its attributes."""

    def __init__(self, **results):
        self.calls = []
        self._results = results

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self._results.get(name)

        return call


def test_mlflow_gets_metrics_by_names_that_it_allows_and_changed_flags_as_tags(
    monkeypatch, tmp_path
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    data = SimpleNamespace(params={"train_iterations": "9", "loss": "lifted"})
    client = Calls(get_run=SimpleNamespace(data=data))
    uris = []
    package = SimpleNamespace(
        MlflowClient=lambda tracking_uri: uris.append(tracking_uri) or client,
        entities=SimpleNamespace(Param=lambda *values: values, Metric=lambda *values: values),
    )
    monkeypatch.setitem(sys.modules, "mlflow", package)
    tracker = MLflow()
    flags = {"train_iterations": 20, "loss": "lifted", "seed": 1}
    assert tracker.open(tmp_path, flags, "run-1") == "run-1"
    tracker.log([Line(7, {"loss": 0.5, "validation/MAP@R": 0.25})])
    tracker.close("interrupted")
    assert uris == [(tmp_path / "mlruns").as_uri()]
    _, _, params, tag, metrics, end = client.calls
    assert params == ("log_batch", ("run-1",), {"params": [("seed", "1")]})
    assert tag == ("set_tag", ("run-1", "train_iterations", "20"), {})
    found = [(name, value, step) for name, value, _, step in metrics[2]["metrics"]]
    assert found == [("loss", 0.5, 7), ("validation/MAP_R", 0.25, 7)]
    assert end == ("set_terminated", ("run-1", "KILLED"), {})


@pytest.mark.parametrize(
    "variables, mode",
    [
        ({}, "offline"),
        ({"WANDB_BASE_URL": "https://wandb.example"}, "online"),
        ({"WANDB_BASE_URL": "https://wandb.example", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
    ],
)
def test_wandb_is_offline_unless_a_server_is_named(monkeypatch, tmp_path, variables, mode):
    for name in ("WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run = Calls()
    run.id, run.url, run.dir = "abc", "https://wandb.example/abc", str(tmp_path / "run" / "files")
    run.config, run.summary = Calls(), {}
    package = Calls(init=run)
    monkeypatch.setitem(sys.modules, "wandb", package)
    tracker = WandB()
    assert tracker.open(tmp_path, {"seed": 1}, "abc") == "abc"
    tracker.log([Line(7, {"loss": 0.5})])
    tracker.picture(Picture(7, "hardest_triplets", PIXELS))
    tracker.note(Note("checkpoint", "x"))
    tracker.close("finished")
    options = package.calls[1][2]  # after Settings
    assert (options["mode"], options["id"], options["resume"]) == (mode, "abc", "allow")
    assert (options["dir"], options["project"]) == (str(tmp_path), "triplet-reid")
    assert tracker.place == (run.url if mode == "online" else str(tmp_path / "run"))
    assert run.calls[0] == ("log", ({"loss": 0.5},), {"step": 7})
    assert run.calls[1][2] == {"step": 7}
    assert run.calls[2] == ("finish", (), {"exit_code": 0})
    assert run.summary == {"checkpoint": "x"}
