"""A training that is killed at any operation on files ends as one that was left alone.

What a kill leaves is a copy of the experiment at that moment. Processes are killed by
benchmarks/kill_and_resume.py, which takes longer.
"""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import common
import train
from benchmarks import _file_operations, kill_and_resume
from experiment import detailed_logs, folder, train_log
from experiment.rewind import rewind
from network import checkpoints
from training.saver import Saver

MORE = "--head_name=direct --train_iterations=5 --checkpoint_frequency=2 --keep_checkpoints=2"


def build_small(input_shape):
    """A mean and a layer of 4: images -> features [B, 4]."""
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = keras.layers.AveragePooling2D(4)(images / 255.0)
    x = keras.layers.Dense(4, name="small.layer")(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x), name="small")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return [*kill_and_resume.make_dataset(tmp_path_factory.mktemp("images")), *MORE.split()]


@pytest.fixture(autouse=True)
def small_net():
    with common.plugin("nets", "lunet_narrow", SimpleNamespace(build=build_small)):
        yield


def run(*argv):
    train.main(train.parse_args(list(argv)))


def go_on(root, flags):
    """As a person would: with --resume, if there is something to resume."""
    more = ["--resume"] if (root / "args.json").exists() else flags
    run(f"--experiment_root={root}", *more)


def files_of(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def names(root):
    return {path.name for path in files_of(root) if "tfevents" not in path.name}


def states_left(root, folder_of_states, action):
    """Copies of a directory: what kills at all moments of an action would leave, once each."""
    copies = {}

    def copy(moment):
        digest = hashlib.sha256()
        for path in files_of(root):
            digest.update(f"{path}\0".encode() + path.read_bytes())
        if root.exists() and digest.digest() not in copies:
            copies[digest.digest()] = folder_of_states / str(moment.number)
            shutil.copytree(root, copies[digest.digest()])

    with _file_operations.watched(root, copy):
        action()
    return list(copies.values())


def goes_on_from(state, scratch):
    """What decides how a training goes on: the directory after what is done to it at first."""
    root = shutil.copytree(state, scratch)
    if not (root / "args.json").exists():
        folder.check_new(root)
        shutil.rmtree(root)
        return None
    iteration = folder.newest_iteration(root)
    decisive = [iteration, folder.never_started(root)]
    assert decisive[1] == (not (root / f"checkpoint-{iteration}.index").exists())
    rewind(root, iteration)
    for path in files_of(root):
        content = path.read_bytes()
        if path.name == "train.log":  # without the lines about flags
            lines = content.splitlines()
            content = b"\n".join(line for line in lines if train_log.iteration_of(line))
        elif path.with_name(f"{path.name}.json").exists():
            content = detailed_logs.read(path)[:iteration].tobytes()
        decisive.append((path.name, content))
    shutil.rmtree(root)
    return repr(decisive)


@pytest.fixture
def saves_at_once(monkeypatch):
    """Not in a thread, so that what is saved and what is logged meanwhile come in one order."""
    save = Saver.save

    def save_and_wait(self, *args):
        save(self, *args)
        self.wait()

    monkeypatch.setattr(Saver, "save", save_and_wait)


@pytest.mark.usefixtures("saves_at_once")
def test_a_kill_at_any_operation_on_files_changes_nothing(flags, tmp_path):
    whole = tmp_path / "whole"
    run(f"--experiment_root={whole}", *flags)
    root = tmp_path / "killed"
    start = [f"--experiment_root={root}", *flags]
    states = states_left(root, tmp_path / "states", lambda: run(*start))
    # Of a run that finds logs of iterations that it has to take back.
    late = max(
        (state for state in states if not list(state.glob("checkpoint-5.*"))),
        key=lambda state: int(state.name),
    )
    assert "iter:     5" in (late / "train.log").read_text()
    shutil.rmtree(root)
    shutil.copytree(late, root)
    resume = [f"--experiment_root={root}", "--resume"]
    states += states_left(root, tmp_path / "states_of_resumed", lambda: run(*resume))
    assert len(states) > 300

    # Those that go on from the same are tried once.
    of_each_kind = {goes_on_from(state, tmp_path / "scratch"): state for state in states}
    assert len(of_each_kind) > 8
    for state in of_each_kind.values():
        run(f"--experiment_root={state}", *flags, "--start_or_resume")
        assert kill_and_resume.differences(whole, state) == [], state
        more = names(state) - names(whole)
        # A kill can come before the last of those that are not to be kept is deleted.
        assert {name.partition(".")[0] for name in more} <= {"checkpoint-2"}, state
        assert not names(whole) - names(state), state
        assert tf.train.latest_checkpoint(state) == f"{state}/checkpoint-5"


# ------------------------------------------------------------------------- two at a time


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in files_of(root)}


def while_it_checks_images(monkeypatch, action):
    load = train._load_data

    def act_and_load(*args):
        monkeypatch.setattr(train, "_load_data", load)
        action()
        return load(*args)

    monkeypatch.setattr(train, "_load_data", act_and_load)


def test_a_training_that_began_while_another_checked_its_images_is_left_alone(
    flags, tmp_path, monkeypatch
):
    root = tmp_path / "exp"
    start = [f"--experiment_root={root}", *flags, "--train_iterations=2"]
    while_it_checks_images(monkeypatch, lambda: run(*start))
    with pytest.raises(common.UserError, match=r"not empty.*--resume"):
        run(*start)
    before = contents(root)
    assert "Finished all 2 iterations" in before[Path("train.log")].decode()

    longer = [f"--experiment_root={root}", "--resume", "--train_iterations=4"]
    while_it_checks_images(monkeypatch, lambda: run(*longer))
    with pytest.raises(common.UserError, match="another training has gone on with"):
        run(*longer[:2], "--train_iterations=3")
    assert folder.newest_iteration(root) == 4
    assert '"train_iterations": 4,' in (root / "args.json").read_text()


def test_of_two_that_start_at_the_same_time_one_is_told_to_call_again(flags, tmp_path, monkeypatch):
    root = tmp_path / "exp"
    start = [f"--experiment_root={root}", *flags, "--train_iterations=2", "--start_or_resume"]
    while_it_checks_images(monkeypatch, lambda: run(*start))
    with pytest.raises(common.UserError, match="Another training began there meanwhile. Call aga"):
        run(*start)
    before = contents(root)
    run(*start)
    after = contents(root)
    assert b"Nothing to do" in after.pop(Path("train.log")).removeprefix(
        before.pop(Path("train.log"))
    )
    assert after == before


def test_a_training_whose_directory_is_moved_writes_nothing_into_the_next_one(
    flags, tmp_path, monkeypatch
):
    root, moved, whole = tmp_path / "exp", tmp_path / "moved", tmp_path / "whole"
    save = Saver._save

    def move_and_save(self, iteration, *args):
        if iteration == 4:
            root.rename(moved)
            root.mkdir()
            (root / "theirs").touch()
        save(self, iteration, *args)

    monkeypatch.setattr(Saver, "_save", move_and_save)
    with pytest.raises(common.UserError, match=r"was moved, renamed or deleted.*--resume"):
        run(f"--experiment_root={root}", *flags)
    assert [path.name for path in root.iterdir()] == ["theirs"]
    monkeypatch.setattr(Saver, "_save", save)
    run(f"--experiment_root={whole}", *flags)
    go_on(moved, flags)
    assert kill_and_resume.differences(whole, moved) == []


def test_an_experiment_whose_name_is_a_pattern_trains_and_resumes(flags, tmp_path):
    neighbor, root = tmp_path / "lr1", tmp_path / "lr[1]\\"
    run(f"--experiment_root={neighbor}", *flags, "--seed=8")
    run(f"--experiment_root={root}", *flags, "--train_iterations=3")
    go_on(root, flags)
    assert "Nothing to do" in (root / "train.log").read_text()
    run(f"--experiment_root={root}", "--resume", "--train_iterations=5")
    restored = checkpoints.read(root / "checkpoint-5")
    others = checkpoints.read(neighbor / "checkpoint-5")
    name = "small/layer/weights"
    assert not np.array_equal(restored.get_tensor(name), others.get_tensor(name))
