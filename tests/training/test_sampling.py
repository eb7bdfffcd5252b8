"""Trainings whose batches are not P×K: an image may have no other of its pid in its batch."""

import re

import numpy as np
import pytest
import replicas

import train
from common import UserError
from experiment import detailed_logs, metrics_log
from reports import hard_images

FLAGS = "--model_name=lunet_narrow --head_name=direct --embedding_dim=16 --net_input_height=24"
FLAGS += " --net_input_width=16 --train_iterations=9 --sampler=shuffle --batch_size=6"
FLAGS += " --id_loss_weight=1 --histogram_frequency=1 --image_frequency=1 --detailed_logs --seed=2"


def run(root, csv, images, *more):
    with replicas.plain_net():
        flags = [f"--experiment_root={root}", f"--train_set={csv}", f"--image_root={images}"]
        train.main(train.parse_args([*flags, *FLAGS.split(), *more]))


@pytest.fixture(scope="module")
def lonely(dataset, tmp_path_factory):
    """A CSV of 18 images, and its rows: 6 have a pid of their own, the others are in pairs."""
    csv = tmp_path_factory.mktemp("lonely") / "train.csv"
    pid_of = {
        fid: str(row if row < 6 else 6 + row // 2) for row, fid in enumerate(dataset.fids[:18])
    }
    csv.write_text("".join(f"{pid},{fid}\n" for fid, pid in pid_of.items()))
    return csv, pid_of


@pytest.fixture(scope="module")
def trained(dataset, lonely, tmp_path_factory):
    root = tmp_path_factory.mktemp("sampling") / "exp"
    run(root, lonely[0], dataset.root)
    return root


def test_a_shuffled_epoch_is_all_images_and_the_start_tells_it(trained, lonely):
    fids = detailed_logs.read(trained / "fids").reshape(3, 18)
    for epoch in fids:
        assert sorted(fid.decode() for fid in epoch) == sorted(lonely[1])
    assert (fids[0] != fids[1]).any()
    log = (trained / "train.log").read_text()
    assert "an epoch, every image once, is 3 iterations; on" in log
    # 12 of 18 images have one other, which is among the 5 of 17 that come with them.
    assert f"of the 6 images of a batch, {12 / 18 * 5 / 17:.1%} have another of their pid" in log


def test_precision_counts_the_images_that_have_another_of_their_pid(trained, lonely):
    embs, fids = (detailed_logs.read(trained / name) for name in ("embeddings", "fids"))
    lines = [line for line in metrics_log.read(trained) if "batch_top1" in line]
    numbers = []
    for emb, batch, line in zip(embs, fids, lines, strict=True):
        pids = np.array([lonely[1][fid.decode()] for fid in batch])
        dists = np.linalg.norm(emb[:, None] - emb[None], axis=2) + 1e9 * np.eye(6)
        found = pids[dists.argmin(axis=1)] == pids
        counted = np.array([np.sum(pids == pid) > 1 for pid in pids])
        expected = found[counted].mean() if counted.any() else 0.0
        np.testing.assert_allclose([line["batch_top1"], line["batch_prec_at_1"]], expected)
        assert np.isfinite([line["loss"], line["id_loss"]]).all()
        numbers.append(counted.sum())
    assert 0 in numbers and max(numbers) > 0  # the cases that matter came
    assert (trained / "train.log").read_text().count("batch-p@1: ") == 9


def test_hard_images_are_found_where_batches_have_no_pairs(trained, capsys, tmp_path):
    page = tmp_path / "page"
    hard_images.main(hard_images.parse_args([str(trained), f"--directory={page}"]))
    assert "Pids that get confused" in capsys.readouterr().out
    assert "nan" not in (page / "index.html").read_text().partition("The medians")[2][:200]


@pytest.mark.parametrize(
    "flags, told",
    [
        (
            "",
            "Give --sampler pk or a larger --batch_size, or --loss_weight 0 if only --id_loss soft",
        ),
        ("--id_loss_weight=0", "Give --sampler pk or a larger --batch_size."),
        ("--loss_weight=0", None),
        ("--memory_batches=2", None),
        ("--batch_size=15", None),
    ],
)
def test_few_pairs_are_warned_about_where_a_loss_needs_them(
    dataset, lonely, tmp_path, capfd, flags, told
):
    argv = [f"--experiment_root={tmp_path}", f"--train_set={lonely[0]}"]
    argv += [f"--image_root={dataset.root}", *FLAGS.split(), *flags.split()]
    settings = train.parse_args(argv).settings
    train._load_data(settings, resuming=False)
    written = capfd.readouterr().err
    assert told in written if told else "have another of their pid" not in written


@pytest.fixture
def single(dataset, tmp_path):
    """A CSV of as many pids as images."""
    csv = tmp_path / "single.csv"
    csv.write_text("".join(f"{row},{fid}\n" for row, fid in enumerate(dataset.fids)))
    return csv


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize("memory", [[], ["--memory_batches=2"]])
def test_batches_without_any_pair_are_refused_but_for_a_loss_of_identities(
    dataset, single, tmp_path, capfd, sampler, memory
):
    argv = [f"--experiment_root={tmp_path}/exp", f"--train_set={single}"]
    argv += [f"--image_root={dataset.root}", *FLAGS.split(), f"--sampler={sampler}", *memory]
    settings = train.parse_args([*argv, "--id_loss_weight=0"]).settings
    with pytest.raises(UserError, match="no image of a batch has another of its pid.*--id_loss_w"):
        train._load_data(settings, resuming=False)
    train._load_data(settings, resuming=True)  # it began before this was refused
    assert "0.0% have another of their pid" in capfd.readouterr().err
    train._load_data(train.parse_args(argv).settings, resuming=False)
    assert "Give several images of a pid, or --loss_weight 0" in capfd.readouterr().err


@pytest.mark.parametrize("start, told", [(0, False), (5, True)])
def test_a_memory_that_comes_late_to_batches_without_pairs_is_warned_about(
    dataset, lonely, tmp_path, capfd, start, told
):
    argv = [f"--experiment_root={tmp_path}", f"--train_set={lonely[0]}", "--batch_size=3"]
    argv += [f"--image_root={dataset.root}", *FLAGS.replace("--batch_size=6", "").split()]
    argv += ["--memory_batches=2", f"--memory_start={start}", "--id_loss_weight=0"]
    train._load_data(train.parse_args(argv).settings, resuming=False)
    written = capfd.readouterr().err
    assert ("before --memory_start 5 a batch has next to no images of one pid" in written) == told


@pytest.mark.parametrize(
    "flags, told",
    [
        ("--batch_size=40", True),  # 12 pids, 6 of them of a single image
        ("--batch_size=12", False),
        ("--batch_size=40 --loss_weight=0", False),
    ],
)
def test_copies_in_balanced_batches_are_warned_about(dataset, lonely, tmp_path, capfd, flags, told):
    argv = [f"--experiment_root={tmp_path}", f"--train_set={lonely[0]}"]
    argv += [f"--image_root={dataset.root}", *FLAGS.split(), "--sampler=balanced", *flags.split()]
    train._load_data(train.parse_args(argv).settings, resuming=False)
    assert ("have fewer images than a batch draws of them" in capfd.readouterr().err) == told


@pytest.mark.parametrize(
    "more, message",
    [
        (["--batch_p=8"], "--batch_p is for --sampler pk. Received: shuffle"),
        (["--sampler=pk"], "--batch_size is for --sampler shuffle or balanced. Received: pk"),
        (["--batch_size=1"], "--batch_size: should be an integer of at least 2. Received: 1"),
        (["--chunk=4"], r"divide the 6 images of a batch \(--batch_size\). Received: 4"),
        (["--margin=none"], "batch_hard with --margin none is -infinity where a batch is of one"),
        (["--cameras=market1501"], "shuffle draws images without regard to cameras. Received"),
        (["--same_group_batches"], "--same_group_batches needs a column group"),
        (["--batch_size=19"], "--batch_size 19 is more than the 18 images"),
    ],
)
def test_what_contradicts_is_refused_in_a_line(lonely, dataset, tmp_path, capsys, more, message):
    with pytest.raises((UserError, SystemExit)) as raised:
        run(tmp_path / "exp", lonely[0], dataset.root, *more)
    told = str(raised.value) + capsys.readouterr().err
    assert re.search(message, told)
    assert not (tmp_path / "exp").exists()
