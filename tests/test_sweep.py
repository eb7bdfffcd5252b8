"""Sweeps, with a stand-in for the process that trains."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import PROJECT

import sweep
from common import EMBEDDING_LOSSES, UserError
from experiment import like, metrics_log, trials, validations

# Writes an iteration and its validation every few milliseconds; it is as good as its learning rate is
# near 0.01. It goes on where it was, and SIGTERM ends it.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {project!r})
from experiment import metrics_log
from runtime import files
root, like = Path(sys.argv[2]), Path(sys.argv[4])
assert sys.argv[1::2] == ["--experiment_root", "--like", "--start_or_resume"]
flags = json.loads(like.read_text())["flags"]
root.mkdir(exist_ok=True)
with open(root / "starts", "a") as file:
    file.write("start\\n")
if flags["margin"] == 0.5:
    sys.exit("train.py: error: no margin like that")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
done = sum(1 for line in metrics_log.read(root) if "loss" in line)
quality = 1 / (1 + abs(flags["learning_rate"] - 0.01))
with files.locked_directory(root, "locked"), metrics_log.MetricsLog(root) as log:
    for number in range(done + 1, flags["train_iterations"] + 1):
        time.sleep({seconds})
        log.write(number, {{"loss": 1.0}})
        log.write(number, {{"validation/mAP": quality * number / 100}})
(root / "finished").touch()
"""
# Calls sweep.py with it.
CALL = "import sys; sys.path[:0] = {paths!r}; import sweep; from experiment import trials; "
CALL += "trials.TRAIN, trials._POLL = {train!r}, 0.02; sweep.main(sweep.parse_args())"

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "batch_k": {"low": 2, "high": 4},
    "loss": ["batch_hard", "batch_all"],
    "margin": 0.2,
    "train_iterations": 4,
    "val_pids": 2,
}


@pytest.fixture
def space(tmp_path, dataset):
    """A file of a space with the flags that are needed; `changes` replace some, None takes one away."""

    def write(**changes):
        values = SPACE | {"train_set": str(dataset.csv), "image_root": str(dataset.root)} | changes
        values = {name: value for name, value in values.items() if value is not None}
        path = tmp_path / "space.json"
        path.write_text(json.dumps(values))
        return str(path)

    return write


def stand_in(folder, seconds):
    path = folder / "stand_in.py"
    path.write_text(STAND_IN.format(project=str(PROJECT), seconds=seconds))
    return [sys.executable, str(path)]


def start(folder, space, *more, seconds=0.02):
    code = CALL.format(paths=[str(PROJECT)], train=stand_in(folder, seconds))
    command = [sys.executable, "-c", code, space, f"--directory={folder / 'sweep'}", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen in 30 seconds")


def test_a_sweep_of_two_workers_that_are_killed_makes_each_trial_once(tmp_path, space):
    root = tmp_path / "sweep"
    path = space(train_iterations=30)
    workers = [start(tmp_path, path, "--trials=5", "--no_pruning") for _ in range(2)]
    until(lambda: len(list(root.glob("trial-*/metrics.jsonl"))) >= 2)
    workers[0].kill()  # its training goes on
    workers[1].terminate()
    _, errors = workers[1].communicate()
    assert workers[1].returncode == 143 and "The same command goes on." in errors
    workers[0].communicate()
    workers = [start(tmp_path, path, "--trials=5", "--no_pruning") for _ in range(2)]
    ended = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], ended
    assert sorted(each.name for each in root.glob("trial-*")) == [
        f"trial-{number:04}" for number in range(5)
    ]
    for trial in root.glob("trial-*"):
        figures = validations.read(trial, "mAP")
        assert [each.iteration for each in figures] == list(range(1, 31))
    for table, _ in ended:
        lines = table.splitlines()
        assert lines[0].split() == [
            "trial",
            "state",
            "mAP",
            "at",
            "loss",
            "learning_rate",
            "batch_k",
        ]
        assert sorted(line.split()[0] for line in lines[1:6]) == list("01234")
        assert {line.split()[1] for line in lines[1:6]} == {"finished"}
    best = like.read(str(root / "best.json"), ()).flags
    rates = {trial: flags_of(root, trial)["learning_rate"] for trial in range(5)}
    assert best["learning_rate"] == min(rates.values(), key=lambda rate: abs(rate - 0.01))
    assert best["seed"] == 0 and best["val_pids"] == 2
    assert (root / "sweep.png").read_bytes().startswith(b"\x89PNG")


def flags_of(root, number):
    return json.loads((root / "study" / f"trial-{number:04}.json").read_text())["flags"]


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Lets sweeps in this process train with the stand-in."""
    monkeypatch.setattr(trials, "_POLL", 0.02)
    monkeypatch.setattr(trials, "TRAIN", stand_in(tmp_path, 0.01))

    def call(*argv):
        sweep.main(sweep.parse_args([*argv, f"--directory={tmp_path / 'sweep'}"]))
        return tmp_path / "sweep"

    return call


def test_trials_that_fall_behind_are_ended_early_and_more_trials_can_be_made(here, space, capsys):
    path = space(train_iterations=20)
    root = here(path, "--trials=6")
    before = {trial: metrics(trial) for trial in root.glob("trial-*")}
    here(path, "--trials=10")
    table = capsys.readouterr().out
    assert all(metrics(trial) == lines for trial, lines in before.items())
    early = re.findall(r"^(\d+) +ended early", table, re.MULTILINE)
    assert early
    for number in early:
        assert not (root / f"trial-{int(number):04}" / "finished").exists()
    assert len(list(root.glob("trial-*"))) == 10


def test_a_validation_before_the_first_iteration_ends_no_trial(here, space, monkeypatch, capsys):
    def train(trial, metric, is_hopeless, interrupt):
        start = validations.Validation(0, 0.5 - int(trial.root.name[-4:]) / 100)
        trial.root.mkdir()
        with metrics_log.MetricsLog(trial.root) as log:
            log.write(start.iteration, validations.tags({metric: start.value}))
        return trials.Outcome("pruned" if is_hopeless([start]) else "finished")

    monkeypatch.setattr(trials, "train", train)
    here(space(val_start=True), "--trials=8")
    assert "ended early" not in capsys.readouterr().out


def metrics(trial):
    return (trial / metrics_log.NAME).read_bytes()


def test_trials_that_fail_are_told_and_end_a_sweep_in_which_none_succeeds(here, space):
    with pytest.raises(UserError, match="3 trials failed and none succeeded.*no margin like"):
        here(space(margin=0.5), "--trials=5")


def test_draws_that_do_not_fit_together_are_no_trials(here, space, capsys):
    # Only losses over distances have a margin.
    root = here(space(loss=["batch_hard", EMBEDDING_LOSSES[0]], margin=0.2), "--trials=3")
    table = capsys.readouterr().out
    assert EMBEDDING_LOSSES[0] not in table
    assert len(table.split("\n\n")[0].splitlines()) == 4
    assert len(list(root.glob("trial-*"))) == 3


def test_a_directory_of_another_sweep_is_refused(here, space):
    here(space(), "--trials=1")
    with pytest.raises(UserError, match="is a sweep with other flags"):
        here(space(train_iterations=5), "--trials=2")
    with pytest.raises(UserError, match="is a sweep with other ranges"):
        here(space(batch_k={"low": 2, "high": 5}), "--trials=2")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"val_pids": None}, "never by a test set. Give val_pids"),
        ({"train_set": None}, "train_set is missing"),
        ({"no_flag": 1}, "no_flag, which is no flag"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path, space, capsys, changes, message
):
    with pytest.raises(SystemExit) as ended:
        sweep.parse_args([space(**changes), f"--directory={tmp_path / 'new'}", "--trials=1"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_missing_optuna_is_told_with_what_to_install(here, space, monkeypatch):
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'optuna>=5,<6'"):
        here(space(), "--trials=1")


# ------------------------------------------------------------------------- experiment/trials.py


class NoSignal:
    interrupted = False


def place(folder, **flags):
    flags = {"margin": 0.2, "learning_rate": 0.01, "train_iterations": 30} | flags
    file = folder / "flags.json"
    file.write_text(json.dumps({"flags": flags}))
    return trials.Trial(folder / "exp", file, folder / "output")


def test_a_training_that_is_killed_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr(trials, "_POLL", 0.02)
    last_line = '(root / "finished").touch()'
    killed = '        if number == 10 and (root / "starts").read_text().count("s") < 3:\n'
    killed += f"            os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    text = STAND_IN.format(project=str(PROJECT), seconds=0.0)
    text = text.replace(last_line, killed + last_line)
    Path(tmp_path / "dies.py").write_text(text)
    monkeypatch.setattr(trials, "TRAIN", [sys.executable, str(tmp_path / "dies.py")])
    trial = place(tmp_path)
    outcome = trials.train(trial, "mAP", lambda found: False, NoSignal())
    assert outcome.state == "finished"
    assert [each.iteration for each in validations.read(trial.root, "mAP")] == list(range(1, 31))


def test_a_training_that_is_killed_again_and_again_has_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(trials, "_POLL", 0.0)
    dies = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    monkeypatch.setattr(trials, "TRAIN", [sys.executable, "-c", dies])
    outcome = trials.train(place(tmp_path), "mAP", lambda found: False, NoSignal())
    assert outcome == ("failed", "it was killed 3 times at iteration 0")


def test_a_training_is_ended_when_it_is_hopeless(monkeypatch, tmp_path):
    monkeypatch.setattr(trials, "_POLL", 0.01)
    monkeypatch.setattr(trials, "TRAIN", stand_in(tmp_path, 0.05))
    trial = place(tmp_path, train_iterations=1000)
    outcome = trials.train(trial, "mAP", lambda found: len(found) >= 3, NoSignal())
    assert outcome.state == "pruned"
    assert 3 <= len(validations.read(trial.root, "mAP")) < 1000
    starts = (trial.root / "starts").read_text()
    assert trials.train(trial, "mAP", lambda found: len(found) >= 3, NoSignal()).state == "pruned"
    assert (trial.root / "starts").read_text() == starts  # it is not begun for that
