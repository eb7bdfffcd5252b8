"""Trainings in which a mirrored image is one of another identity."""

import shutil

import h5py
import numpy as np
import pytest
import replicas
import tensorflow as tf

import embed
import train
from benchmarks import kill_and_resume
from common import UserError
from data import dataset as datasets
from experiment import args_json, detailed_logs, rules
from experiment.flags import Settings
from network import checkpoints
from reports import hard_images
from runtime.cluster import Cluster
from training.batches import Batches

FLAGS = "--model_name=lunet_narrow --head_name=direct --embedding_dim=16 --net_input_height=24"
FLAGS += " --net_input_width=16 --train_iterations=4 --checkpoint_frequency=2 --batch_p=8"
FLAGS += " --batch_k=2 --flip_makes_new_pid --id_loss_weight=1 --val_pids=2 --val_frequency=2"
FLAGS += " --image_frequency=1 --detailed_logs --seed=2"


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """4 of 6 pids are trained on, so a batch of 8 needs their copies."""
    root = tmp_path_factory.mktemp("mirrored") / "exp"
    argv = [f"--experiment_root={root}", f"--train_set={dataset.csv}"]
    argv += [f"--image_root={dataset.root}", *FLAGS.split()]
    with replicas.plain_net():
        train.main(train.parse_args(argv))
        yield root


def test_copies_are_images_of_identities_of_their_own(trained, dataset):
    pid_of = dict(zip(dataset.fids, dataset.pids, strict=True))
    seen = set()
    for batch in detailed_logs.read(trained / "fids"):
        fids = [fid.decode() for fid in batch]
        pids = [(pid_of[fid.removesuffix("#mirrored")], fid.endswith("#mirrored")) for fid in fids]
        assert pids[::2] == pids[1::2] and len(set(pids)) == 8
        seen |= set(pids)
    assert len(seen) == 8
    weights = checkpoints.read(trained / "checkpoint-4").get_tensor("classifier/weights")
    assert weights.shape == (16, 8)
    log = (trained / "train.log").read_text()
    assert "images of 8 pids" in log and "Half of them are mirrored copies" in log
    assert "an epoch, every pid once, is 1 iterations" in log


def test_copies_of_a_training_are_mirrored(trained):
    settings, _ = args_json.load(trained)
    images = datasets.load(settings.train_set)
    batches = Batches(images, settings, tf.distribute.get_strategy(), Cluster())
    pixels = {}
    for batch in batches.starting_at(0):
        for row, image in zip(batch.rows, batch.images.numpy(), strict=True):
            pixels[int(row)] = image
    pairs = [row for row in pixels if row + len(images) in pixels]
    assert len(pairs) > 4
    for row in pairs:
        np.testing.assert_array_equal(pixels[row + len(images)], pixels[row][:, ::-1])


def test_a_resumed_training_is_the_whole_one(trained, tmp_path):
    resumed = shutil.copytree(trained, tmp_path / "resumed")
    for file in resumed.glob("checkpoint-4.*"):
        file.unlink()
    (events,) = resumed.glob("events.out.tfevents.*")
    events.rename(resumed / "events.out.tfevents.1.first")
    train.main(train.parse_args([f"--experiment_root={resumed}", "--resume"]))
    assert kill_and_resume.differences(trained, resumed) == []


def test_embeddings_have_no_copies_and_mirrored_views_are_warned_about(trained, dataset, capfd):
    argv = [f"--experiment_root={trained}", f"--dataset={dataset.csv}"]
    embed.main(embed.parse_args([*argv, "--flip_augment", "--aggregator=mean"]))
    with h5py.File(trained / "all_embeddings.h5") as file:
        assert file["emb"].shape == (len(dataset.fids), 16)
    assert (
        "--flip_augment embeds mirrored images, too, which the training took"
        in capfd.readouterr().err
    )


def test_hard_images_show_copies_by_their_names(trained, tmp_path, capsys):
    hard_images.main(hard_images.parse_args([str(trained), f"--directory={tmp_path / 'page'}"]))
    assert " mirrored" in capsys.readouterr().out
    assert "#mirrored" in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.parametrize(
    "more, message",
    [
        ({"flip_augment": True}, "--flip_augment that it shows the same"),
        ({"val_views": "flip", "val_pids": 2}, "--val_views flip takes the mean of an image and"),
    ],
)
def test_what_contradicts_is_refused(more, message):
    with pytest.raises(UserError, match=message):
        rules.check_combinations(Settings(experiment_root="x", flip_makes_new_pid=True, **more))


def test_a_data_set_with_its_copies():
    images = datasets.Dataset(
        ["7", "7", "8"],
        ["a", "b", "a"],
        "x.csv",
        boxes=[[0] * 4, [1, 2, 3, 4], [0] * 4],
        sets=[0, 0, 1],
        cameras=["k", "l", "m"],
    )
    doubled = datasets.with_mirrored(images)
    assert doubled.pids.tolist() == ["7", "7", "8", "7 mirrored", "7 mirrored", "8 mirrored"]
    assert doubled.names().tolist() == [
        *("1:a", "1:b#1,2,3,4", "2:a"),
        *("1:a#mirrored", "1:b#1,2,3,4#mirrored", "2:a#mirrored"),
    ]
    assert doubled.cameras.tolist() == list("klmklm") and doubled.sets.tolist() == [0, 0, 1] * 2
    files = doubled.files(["r", "s"])
    np.testing.assert_array_equal(files.paths, ["r/a", "r/b", "s/a"] * 2)
    assert [files.is_mirrored(row) for row in range(6)] == [False] * 3 + [True] * 3
    assert files.select([4]).is_mirrored(0) and not images.files("r").is_mirrored(0)
    of_one_folder = doubled.files("r")
    assert [of_one_folder.is_mirrored(row) for row in range(6)] == [False] * 3 + [True] * 3
    taken = datasets.Dataset(["7", "7 mirrored"], ["a", "b"], "x.csv")
    with pytest.raises(UserError, match="x.csv has these pids already: 7 mirrored"):
        datasets.with_mirrored(taken)
