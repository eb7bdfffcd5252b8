import os
import re
import resource
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import SHAPE, assert_same, make, refuse, scramble, values, write_v2

from common import UserError
from experiment import folder
from network import checkpoint_paths, checkpoints, model


@pytest.fixture(scope="module")
def made():
    return make()


@pytest.fixture
def state(made):
    """Variables of a model and its Adam, all with values of their own."""
    scramble(made[2])
    return made[2]


# ------------------------------------------------------------------------- names


def test_a_checkpoint_is_found_as_the_shell_completes_it(tmp_path, monkeypatch):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "checkpoint-3.index").touch()
    monkeypatch.chdir(tmp_path)
    for name in (
        "checkpoint-3",
        "checkpoint-3.index",
        "exp/checkpoint-3",
        "exp/checkpoint-3.index",
    ):
        assert checkpoints.find("exp", name) == Path("exp/checkpoint-3")
    with pytest.raises(UserError, match="Available: checkpoint-3"):
        checkpoints.find("exp", "other/checkpoint-3")


def test_a_fingerprint_is_that_of_copies_and_no_others(tmp_path, state):
    first = checkpoints.save(tmp_path, 1, state)
    (tmp_path / "moved").mkdir()
    for path in tmp_path.glob("checkpoint-1.*"):
        (tmp_path / "moved" / path.name).write_bytes(path.read_bytes())
    fingerprint = checkpoint_paths.fingerprint(first)
    assert re.fullmatch("sha256 [0-9a-f]{64}", fingerprint)
    assert checkpoint_paths.fingerprint(tmp_path / "moved" / "checkpoint-1") == fingerprint
    variable = next(iter(state.values()))
    variable.assign(variable + 1)
    assert checkpoint_paths.fingerprint(checkpoints.save(tmp_path, 2, state)) != fingerprint
    assert checkpoint_paths.fingerprint(tmp_path / "checkpoint-3") is None


def test_names_are_those_of_tensorflow_1(state):
    for name in (
        "global_step",
        "lunet_narrow/conv1/weights",
        "lunet_narrow/conv1/weights/Adam",
        "lunet_narrow/last/conv1/BatchNorm/gamma/Adam_1",
        "fully_connected/BatchNorm/moving_variance",
        "emb/biases/Adam_1",
    ):
        assert name in state
    assert not [
        name for name in state if "learning_rate" in name or "moving" in name and "Adam" in name
    ]


def test_slots_of_other_optimizers_keep_their_own_names(made):
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    sgd.build(made[0].trainable_variables)
    names = checkpoints.named_variables(made[0], sgd)
    assert "emb/weights/momentum" in names
    assert not [name for name in names if "Adam" in name]
    rms = keras.optimizers.RMSprop(0.1)
    rms.build(made[0].trainable_variables)
    assert "emb/weights/velocity" in checkpoints.named_variables(made[0], rms)


def test_state_of_a_loss_scale_is_there_too(made):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    optimizer.build(made[0].trainable_variables)
    names = checkpoints.named_variables(made[0], optimizer)
    assert {"dynamic_scale", "step_counter", "emb/weights/Adam"} <= set(names)
    assert names["global_step"] is optimizer.inner_optimizer.iterations


def test_two_variables_of_one_name_are_refused():
    x = keras.Input((4,))
    y = keras.layers.Dense(4, name="a.b")(x)
    inner = keras.Model(x, y, name="inner")
    z = keras.Input((4,))
    network = keras.Model(z, keras.layers.Dense(4, name="a.b")(inner(z)))
    with pytest.raises(ValueError, match="a/b/weights"):
        checkpoints.named_variables(network)


# ------------------------------------------------------------------------- an experiment's own


def test_what_is_saved_is_restored_to_the_bit(tmp_path, state):
    saved = values(state)
    path = checkpoints.save(tmp_path, 12, state)
    assert path == tmp_path / "checkpoint-12"
    assert sorted(os.listdir(tmp_path)) == [
        "checkpoint",
        "checkpoint-12.data-00000-of-00001",
        "checkpoint-12.index",
    ]
    _, _, others = make()
    checkpoints.restore(path, others)
    assert_same(others, saved)


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (4, *SHAPE)).astype(np.float32)

    def train(network, optimizer, steps):
        for _ in range(steps):
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(network(images, training=True)["emb"] ** 2)
            optimizer.apply(
                tape.gradient(total, network.trainable_variables), network.trainable_variables
            )

    network, optimizer, state = make("direct")
    train(network, optimizer, 2)
    path = checkpoints.save(tmp_path, 2, state)
    train(network, optimizer, 2)
    again = make("direct")
    checkpoints.restore(path, again[2])
    train(*again[:2], 2)
    assert_same(again[2], values(state))
    assert int(again[1].iterations) == 4


def test_the_state_file_names_the_newest_for_tensorflows_tools(tmp_path, state):
    for iteration in (0, 1000, 500):
        checkpoints.save(tmp_path, iteration, state)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-1000")
    assert tf.train.get_checkpoint_state(str(tmp_path)).all_model_checkpoint_paths == [
        str(tmp_path / f"checkpoint-{iteration}") for iteration in (0, 500, 1000)
    ]


def test_a_complete_checkpoint_is_never_written_again(tmp_path, state):
    path = checkpoints.save(tmp_path, 3, state)
    before = {
        file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.iterdir()
    }
    saved = values(state)
    scramble(state, seed=1)
    with pytest.raises(UserError, match="checkpoint-3 exists, so something else writes into"):
        checkpoints.save(tmp_path, 3, state)
    after = {
        file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.iterdir()
    }
    assert before == after
    checkpoints.restore(path, state)
    assert_same(state, saved)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["write", "data", "index", "state"])
def test_a_kill_leaves_the_older_one_newest_or_the_new_one_complete(
    tmp_path, state, monkeypatch, moment
):
    checkpoints.save(tmp_path, 1, state)
    saved = values(state)
    scramble(state, seed=1)

    def killed(*args, **kwargs):
        raise Killed

    def replace(source, target, replace=os.replace):
        if str(target).endswith(
            {"data": "-of-00001", "index": ".index", "state": "/checkpoint"}[moment]
        ):
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(checkpoints.files, "sync", killed)
        else:
            patch.setattr(os, "replace", replace)
        patch.setattr(
            shutil, "rmtree", lambda *args, **kwargs: None
        )  # a killed process does not clear up
        with pytest.raises(Killed):
            checkpoints.save(tmp_path, 2, state)
    assert any(tmp_path.glob("checkpoint*.partial"))
    if moment == "state":
        saved = values(state)
    assert checkpoints.newest(tmp_path).name == (
        "checkpoint-2" if moment == "state" else "checkpoint-1"
    )
    _, _, others = make()
    checkpoints.restore(checkpoints.newest(tmp_path), others)
    assert_same(others, saved)
    # The next run writes it, and what was left is gone.
    folder.remove_leftovers(tmp_path)
    checkpoints.restore_newest(tmp_path, others)
    if moment != "state":
        checkpoints.restore(checkpoints.save(tmp_path, 2, state), others)
    assert_same(others, values(state))
    assert not [file for file in os.listdir(tmp_path) if "partial" in file]
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")


@pytest.mark.parametrize("limit", [1000, 100_000])
def test_a_full_disk_is_told_and_spoils_nothing(tmp_path, state, limit):
    path = checkpoints.save(tmp_path, 1, state)
    saved, files = values(state), sorted(os.listdir(tmp_path))
    scramble(state, seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            UserError, match=r"cannot write .*checkpoint-2: .*too large.*--resume"
        ) as error:
            checkpoints.save(tmp_path, 2, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == files
    assert checkpoints.newest(tmp_path) == path
    checkpoints.restore(path, state)
    assert_same(state, saved)


def test_an_error_of_the_disk_is_told(tmp_path, state, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="checkpoint-2: No space left on device"):
        checkpoints.save(tmp_path, 2, state)
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="No such file or directory"):
        checkpoints.save(tmp_path / "gone", 2, state)


def test_newest_is_the_highest_complete_one_wherever_the_state_file_points(tmp_path):
    for name in (
        "checkpoint-5.index",
        "checkpoint-10.index",
        "checkpoint-9.index",
        "checkpoint-11.data-00000-of-00001",
    ):
        (tmp_path / name).touch()
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/old/place/checkpoint-9"\n')
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-10"


def test_an_experiment_without_checkpoint_is_told(tmp_path):
    (tmp_path / "checkpoint-x.index").touch()
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=re.escape(f"no checkpoint in {root}.")):
            checkpoints.newest(root)
    with pytest.raises(UserError, match="Available: none"):
        checkpoints.find(tmp_path / "none", "checkpoint-1")


def test_find_takes_any_name_and_lists_those_there_are(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "released"):
        (tmp_path / f"{name}.index").touch()
    assert checkpoints.find(tmp_path, "checkpoint-9") == tmp_path / "checkpoint-9"
    assert checkpoints.find(tmp_path, "released") == tmp_path / "released"
    for name in ("checkpoint-8", "../checkpoint-9", ""):
        with pytest.raises(UserError, match="Available: checkpoint-9, checkpoint-10, released"):
            checkpoints.find(tmp_path, name)


# ------------------------------------------------------------------------- reading


def test_another_architecture_is_told_by_names_and_shapes_and_assigns_nothing(tmp_path, state):
    path = checkpoints.save(tmp_path, 1, state)
    _, _, wider = make(dim=9)
    before = values(wider)
    refuse(
        lambda: checkpoints.restore(path, wider),
        r"emb/weights is \[1024, 8\] there and \[1024, 9\] here",
        r"and \[9\] here",
        r"; \.\.\.\. Give",
    )
    assert_same(wider, before)
    _, _, other = make(net="mobilenet_v1_1_224", head="direct")
    refuse(
        lambda: checkpoints.restore(path, other),
        "MobilenetV1/Conv2d_0/weights is missing",
        r"; \.\.\.\. Give",
    )


def test_a_number_of_another_kind_is_told(tmp_path, made):
    net = checkpoints.named_variables(model.net_of(made[0]))
    arrays = values(net)
    arrays["lunet_narrow/conv1/weights"] = arrays["lunet_narrow/conv1/weights"].astype(np.int32)
    path = write_v2(tmp_path / "a", arrays)
    refuse(
        lambda: checkpoints.restore(path, net),
        "lunet_narrow/conv1/weights is int32 there and float32 here",
    )


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("keep", [None, 0, 0.3, 0.95])
def test_truncated_files_are_told_and_assign_nothing(tmp_path, state, suffix, keep):
    path = checkpoints.save(tmp_path, 1, state)
    file = tmp_path / f"checkpoint-1{suffix}"
    if keep is None:
        file.unlink()
    else:
        os.truncate(file, int(keep * file.stat().st_size))
    before = values(state)
    refuse(lambda: checkpoints.restore(path, state), "cannot read the checkpoint .*checkpoint-1: ")
    assert_same(state, before)


def test_a_flipped_bit_is_told(tmp_path, state):
    path = checkpoints.save(tmp_path, 1, state)
    with open(tmp_path / "checkpoint-1.data-00000-of-00001", "r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))
    refuse(lambda: checkpoints.restore(path, state), "[Cc]hecksum")


@pytest.mark.parametrize("name", ["lr[1]", "a*", "b?", "c\\d", "[exp]"])
def test_a_folder_whose_name_is_a_pattern_is_itself(name, tmp_path, state):
    for neighbor in ("lr1", "ab", "bb", "cd", "e"):
        scramble(state, seed=2)
        checkpoints.save(make_folder(tmp_path / neighbor), 1, state)
    scramble(state, seed=1)
    saved = values(state)
    path = checkpoints.save(make_folder(tmp_path / name), 1, state)
    scramble(state)
    checkpoints.restore(path, state)
    assert_same(state, saved)
    path.with_name("checkpoint-1.data-00000-of-00001").unlink()
    refuse(lambda: checkpoints.restore(path, state), "cannot read the checkpoint")


def make_folder(path):
    path.mkdir()
    return path


def test_a_file_whose_name_is_a_pattern_is_itself(tmp_path, state):
    path = checkpoints.save(tmp_path, 1, state)
    renamed = tmp_path / "weights[1]"
    for file in tmp_path.glob("checkpoint-1.*"):
        file.rename(tmp_path / file.name.replace("checkpoint-1", "weights[1]"))
    saved = values(state)
    scramble(state, seed=1)
    checkpoints.restore(renamed, state)
    assert_same(state, saved)
    refuse(lambda: checkpoints.restore(path, state), "cannot read the checkpoint")


def test_a_checkpoint_that_its_training_deletes_gives_way_to_a_newer_one(
    tmp_path, state, monkeypatch
):
    checkpoints.save(tmp_path, 1, state)
    real = checkpoints.restore

    def restore(path, variables):
        """The training saves three times before the file is read."""
        done = int(path.name.removeprefix("checkpoint-"))
        if done < 4:
            scramble(variables, seed=done + 1)
            checkpoints.save(tmp_path, done + 1, variables)
            checkpoints.keep_newest(tmp_path, 1)
        return real(path, variables)

    monkeypatch.setattr(checkpoints, "restore", restore)
    restored = checkpoints.restore_network(tmp_path, None, state)
    path = tmp_path / "checkpoint-4"
    assert restored == checkpoints.Restored(path, None, sorted(state))
    saved = values(state)
    real(path, state)
    assert_same(state, saved)
    refuse(lambda: checkpoints.restore_network(tmp_path, "checkpoint-3", state), "Available: check")
    Path(f"{path}.index").write_bytes(b"")  # damaged, and no other one comes
    refuse(lambda: checkpoints.restore_network(tmp_path, None, state), "cannot read the checkpoint")
