import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from image_kinds import BY_PILLOW, REFUSED, encoded, oriented
from paths import GOLDEN
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import common
import train
from benchmarks import kill_and_resume
from data import images as image_data
from data import patience
from experiment import args_json, detailed_logs, metrics_log, provenance
from network import checkpoints
from runtime import files
from runtime.cluster import Cluster
from training import loop, recorder
from training.collapse import CollapseWatch

ITERATIONS, P, K, D = 6, 3, 3, 8
LINE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[INFO\] train: iter: *(\d+), "
    r"loss min\|avg\|max: (\d+\.\d{3})\|(\d+\.\d{3})\|( *\d+\.\d{3}), "
    r"batch-p@(\d+): (\d+\.\d\d)%, ETA: (\d+:\d\d:\d\d) \((\d+\.\d\d)s/it\)$"
)


def flags(dataset, root, *more):
    return [
        f"--experiment_root={root}",
        f"--train_set={dataset.csv}",
        f"--image_root={dataset.root}",
        "--model_name=lunet_narrow",
        "--head_name=direct",
        f"--embedding_dim={D}",
        f"--batch_p={P}",
        f"--batch_k={K}",
        "--net_input_height=24",
        "--net_input_width=16",
        "--pre_crop_height=28",
        "--pre_crop_width=18",
        "--crop_augment",
        "--flip_augment",
        f"--train_iterations={ITERATIONS}",
        "--decay_start_iteration=3",
        "--checkpoint_frequency=2",
        "--detailed_logs",
        "--histogram_frequency=2",
        "--image_frequency=3",
        "--seed=1",
        *more,
    ]


def run(*argv):
    train.main(train.parse_args(list(argv)))


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


def tensors(path):
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def iteration_lines(root):
    lines = (root / "train.log").read_text().splitlines()
    return [LINE.match(line) for line in lines if " iter:" in line]


def ends(root):
    """The steps at which TensorBoard is told that the training is finished."""
    events = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    return [event.step for event in events.Tensors("_hparams_/session_end_info")]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """An experiment that ran without interruption."""
    root = tmp_path_factory.mktemp("experiments") / "whole"
    run(*flags(dataset, root))
    return root


def test_log_lines_are_the_originals(whole):
    assert all(
        iteration_lines(GOLDEN / "experiment")
    )  # the pattern is that of the original's own lines
    lines = iteration_lines(whole)
    assert [int(line[1]) for line in lines] == list(range(1, ITERATIONS + 1))
    assert {line[5] for line in lines} == {str(K - 1)}


def test_parameters_are_logged_as_the_original_did(whole):
    def parameters(path):
        return re.findall(
            r"^\S+ \S+ \[INFO\] train: (?!iter)(\w+): ",
            (path / "train.log").read_text(),
            re.MULTILINE,
        )

    assert set(parameters(GOLDEN / "experiment")) <= set(parameters(whole))
    stored = json.loads((whole / "args.json").read_text())
    assert parameters(whole) == sorted(stored.keys() - {"digest"})


def test_checkpoints_are_at_the_start_at_the_frequency_and_at_the_end(whole):
    assert sorted(path.name for path in whole.glob("checkpoint-*.index")) == [
        f"checkpoint-{iteration}.index" for iteration in (0, 2, 4, 6)
    ]
    assert [int(tensors(whole / f"checkpoint-{i}")["global_step"]) for i in (0, 2, 4, 6)] == [
        0,
        2,
        4,
        6,
    ]
    assert Path(tf.train.latest_checkpoint(whole)).name == "checkpoint-6"


def test_tensorboard_has_the_originals_tags_at_every_iteration(whole):
    events = EventAccumulator(str(whole), size_guidance={"tensors": 0})
    events.Reload()
    tags = {
        "loss",
        "batch_top1",
        f"batch_prec_at_{K - 1}",
        "active_count",
        "learning_rate",
        "secs_per_iter",
        "secs_waiting_for_images",
        "images_per_sec",
        "loss_distribution",
        "embedding_dists",
        "embedding_pos_dists",
        "embedding_neg_dists",
        "embedding_lengths",
    }
    at_first = {
        "hardest_triplets",
        "network_input",
        "_hparams_/session_start_info",
        "custom_scalars__config__",
    }
    end = "_hparams_/session_end_info"
    assert set(events.Tags()["tensors"]) == tags | at_first | {end}
    assert [event.step for event in events.Tensors(end)] == [ITERATIONS + 1]
    for tag in tags | {"hardest_triplets", "network_input"}:
        assert events.SummaryMetadata(tag).summary_description.endswith(".")
    for tag in at_first:
        assert [event.step for event in events.Tensors(tag)] == (
            [1, 3, 6] if tag == "hardest_triplets" else [1]
        )
    for tag in tags:
        steps = (
            [1, 2, 4, 6]
            if "embedding" in tag or "distribution" in tag
            else list(range(1, ITERATIONS + 1))
        )
        assert [event.step for event in events.Tensors(tag)] == steps
    rates = [
        float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("learning_rate")
    ]
    np.testing.assert_allclose(rates, [3e-4] * 4 + [3e-5, 3e-6], rtol=1e-6)
    means = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss")]
    assert [f"{value:.3f}" for value in means] == [line[3] for line in iteration_lines(whole)]

    lines = list(metrics_log.read(whole))
    assert [line.pop("iteration") for line in lines] == list(range(1, ITERATIONS + 1))
    scalars = {tag for tag in tags if "embedding" not in tag and "distribution" not in tag}
    for line in lines:
        assert line.keys() == scalars
    for tag in scalars:
        values = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        np.testing.assert_allclose([line[tag] for line in lines], values, rtol=1e-6)


def test_detailed_logs_hold_every_iteration(whole, dataset):
    embs, losses, fids = (
        detailed_logs.read(whole / name) for name in ("embeddings", "losses", "fids")
    )
    assert (embs.shape, embs.dtype) == ((ITERATIONS, P * K, D), np.float32)
    assert (losses.shape, losses.dtype) == ((ITERATIONS, P * K), np.float32)
    assert (fids.shape, fids.dtype) == ((ITERATIONS, P * K), np.dtype("S23"))
    assert [f"{row.mean():.3f}" for row in losses] == [line[3] for line in iteration_lines(whole)]
    pid_of = dict(zip(dataset.fids, dataset.pids, strict=True))
    for emb, row, batch in zip(embs, losses, fids, strict=True):
        pids = np.array([pid_of[fid.decode()] for fid in batch])
        assert (np.unique(pids, return_counts=True)[1] == [K] * P).all()
        dists = np.sqrt(((emb[:, None].astype(np.float64) - emb[None]) ** 2).sum(-1) + 1e-12)
        same = pids[:, None] == pids
        positive = np.where(same & ~np.eye(P * K, dtype=bool), dists, 0).max(1)
        negative = np.where(same, np.inf, dists).min(1)
        np.testing.assert_allclose(row, np.log1p(np.exp(positive - negative)), rtol=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_and_resumed_run_equals_the_whole_bit_for_bit(
    number, dataset, whole, tmp_path
):
    root = tmp_path / "interrupted"
    script = str(common.HERE / "train.py")
    process = subprocess.Popen(
        [sys.executable, script, *flags(dataset, root)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=common.HERE,
    )
    with process:
        for line in process.stderr:
            if "iter:     1" in line:
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert process.returncode == 128 + number
    done = int(checkpoints.newest(root).name.removeprefix("checkpoint-"))
    assert 1 <= done < ITERATIONS, "the signal came too late"
    assert f"{signal.Signals(number).name} received" in rest
    assert f"Interrupted after iteration {done}" in rest and "--resume" in rest

    run(f"--experiment_root={root}", "--resume", "--loading_threads=2")
    assert [int(line[1]) for line in iteration_lines(root)] == list(range(1, ITERATIONS + 1))
    expected, got = tensors(whole / "checkpoint-6"), tensors(root / "checkpoint-6")
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    for name in ("embeddings", "losses", "fids"):
        np.testing.assert_array_equal(
            detailed_logs.read(root / name), detailed_logs.read(whole / name), err_msg=name
        )
    log = (root / "train.log").read_text()
    assert "--loading_threads is 2 from now on; it was 8." in log
    assert json.loads((root / "args.json").read_text())["loading_threads"] == 2


@pytest.mark.parametrize("index, lines", [(0, 1), (1, 0)])
def test_only_the_chief_warns_of_flags_that_are_not_used(whole, monkeypatch, capfd, index, lines):
    def no_strategy(name):
        raise common.UserError("far enough")

    monkeypatch.setattr(train, "find_cluster", lambda strategy: Cluster(size=2, index=index))
    monkeypatch.setattr(train, "make_strategy", no_strategy)
    with pytest.raises(common.UserError, match="far enough"):
        run(f"--experiment_root={whole}", "--resume", "--margin=0.5")
    assert capfd.readouterr().err.count("--margin 0.5 is not used") == lines


def test_data_that_have_changed_end_a_resumed_run_unless_they_are_accepted(
    dataset, whole, tmp_path, monkeypatch, capfd
):
    def no_strategy(name):
        raise common.UserError("far enough")

    root, csv = tmp_path / "exp", tmp_path / "new.csv"
    shutil.copytree(whole, root)
    csv.write_text("".join(dataset.csv.read_text().splitlines(keepends=True)[:-1]))
    args = json.loads((root / "args.json").read_text())
    (root / "args.json").write_text(json.dumps(args | {"train_set": str(csv)}))
    monkeypatch.setattr(train, "make_strategy", no_strategy)
    rows = len(dataset.pids)
    changed = f"train_set {csv} has {rows - 1} rows, before {rows}"
    message = f"the data have changed since the run of .*: {changed}"
    with pytest.raises(common.UserError, match=message):
        run(f"--experiment_root={root}", "--resume")
    with pytest.raises(common.UserError, match="far enough"):
        run(f"--experiment_root={root}", "--resume", "--accept_changed_data")
    assert f"Going on with data that have changed: {changed}" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        run(*flags(dataset, tmp_path / "new"), "--accept_changed_data")
    assert "--accept_changed_data: has an effect only with --resume" in capfd.readouterr().err


def test_a_damaged_newest_checkpoint_is_stepped_over_and_the_run_goes_on_exactly(
    dataset, whole, tmp_path
):
    root = tmp_path / "exp"
    shutil.copytree(whole, root)
    for name in ("checkpoint-6.data-00000-of-00001", "checkpoint-4.index"):
        (root / name).write_bytes((root / name).read_bytes()[:100])
    run(f"--experiment_root={root}", "--resume")
    log = (root / "train.log").read_text()
    warned = [line for line in log.splitlines() if "[WARNING]" in line and "checkpoint" in line]
    assert len(warned) == 2 and "checkpoint-6" in log and "broken-checkpoint-4" in log
    assert "Starting training from iteration 2" in log
    assert {path.name for path in root.glob("broken-*")} == {
        f"broken-checkpoint-{i}.{part}" for i in (4, 6) for part in ("index", "data-00000-of-00001")
    }
    assert kill_and_resume.differences(whole, root) == []


def test_a_run_that_is_killed_again_and_again_equals_one_that_was_left_alone(tmp_path):
    flags = [*kill_and_resume.make_dataset(tmp_path), "--train_iterations=24"]
    run(f"--experiment_root={tmp_path / 'whole'}", *flags)
    assert kill_and_resume.train_and_kill(tmp_path / "killed", flags, pace=4, seed=3, most=3) == 3
    assert kill_and_resume.differences(tmp_path / "whole", tmp_path / "killed") == []


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(dataset, whole, tmp_path):
    root = tmp_path / "exp"
    root.mkdir()
    files.write_json(root / "args.json", json.loads((whole / "args.json").read_text()))
    (root / "train.log").write_text("Training using the following parameters\n")
    (root / "embeddings").write_bytes(b"")  # killed before it was described
    run(f"--experiment_root={root}", "--resume")
    assert kill_and_resume.differences(whole, root) == []


def test_a_full_disk_ends_the_run_and_it_goes_on_once_there_is_room(dataset, whole, tmp_path):
    root = tmp_path / "exp"
    # A limit on the size of files stands for a full disk: checkpoints are several MB, all else is
    # small.
    code = "import resource, sys, train, common; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)); "
    code += "sys.argv[0] = 'train.py'; common.run(train.main, train.parse_args)"
    done = subprocess.run(
        [sys.executable, "-c", code, *flags(dataset, root)],
        cwd=common.HERE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last_line = done.stderr.splitlines()[-1]
    assert re.search("^train.py: error: cannot write .*checkpoint-0: .*Make room", last_line), (
        done.stderr
    )
    assert not list(root.glob("checkpoint-*"))
    run(f"--experiment_root={root}", "--resume")
    assert kill_and_resume.differences(whole, root) == []


def test_weights_that_are_not_finite_are_not_saved(dataset, tmp_path, monkeypatch):
    def make_step(strategy, state, settings):
        step = original(strategy, state, settings)
        weights = state.trainable[0]

        def poisoned(*args, **kwargs):
            result = step(*args, **kwargs)
            weights.assign(weights * np.nan)
            return result

        return poisoned

    original = loop.make_step
    monkeypatch.setattr(loop, "make_step", make_step)
    root = tmp_path / "exp"
    with pytest.raises(
        common.UserError, match="weights are not finite at iteration 1: lunet_narrow/conv1/weights"
    ):
        run(*flags(dataset, root, "--train_iterations=1"))
    assert checkpoints.newest(root).name == "checkpoint-0"


def test_only_the_newest_checkpoints_are_kept_when_asked_for(dataset, tmp_path):
    root = tmp_path / "exp"
    run(
        *flags(
            dataset,
            root,
            "--keep_checkpoints=2",
            "--checkpoint_frequency=1",
            "--train_iterations=4",
        )
    )
    assert {path.name for path in root.glob("checkpoint-*")} == {
        f"checkpoint-{i}.{part}" for i in (3, 4) for part in ("index", "data-00000-of-00001")
    }
    assert Path(tf.train.latest_checkpoint(root)).name == "checkpoint-4"


def test_resuming_a_finished_run_says_so_and_more_iterations_go_on(dataset, tmp_path, capfd):
    root = tmp_path / "exp"
    run(*flags(dataset, root, "--train_iterations=2"))
    run(f"--experiment_root={root}", "--resume")
    assert "Nothing to do: all 2 iterations are finished" in capfd.readouterr().err
    assert ends(root) == [3]
    assert [int(line[1]) for line in iteration_lines(root)] == [1, 2]

    moved = root.rename(tmp_path / "moved")
    run(f"--experiment_root={moved}", "--resume", "--train_iterations=3", "--keep_checkpoints=1")
    args = json.loads((moved / "args.json").read_text())
    assert (args["train_iterations"], args["keep_checkpoints"]) == (3, 1)
    assert "--train_iterations is 3 from now on; it was 2." in (moved / "train.log").read_text()
    assert len(list(moved.glob("checkpoint-*.index"))) == 1
    assert [int(line[1]) for line in iteration_lines(moved)] == [1, 2, 3]
    assert detailed_logs.read(moved / "losses").shape == (3, P * K)
    assert np.all(detailed_logs.read(moved / "losses").max(axis=1) > 0)
    assert checkpoints.newest(moved).name == "checkpoint-3"
    assert ends(moved) == [4]
    # a run that had nothing to do is not there
    runs = provenance.read(moved)
    assert [recorded["iteration"] for recorded in runs] == [0, 2]
    assert runs[0]["data"] == runs[1]["data"]
    assert [recorded["end"] for recorded in runs] == [
        {"state": "finished", "iteration": iteration} for iteration in (2, 3)
    ]


def test_a_longer_training_with_its_old_decay_has_the_old_curve_and_without_is_warned_about(
    dataset, whole, tmp_path
):
    kept, jumped, at_once = tmp_path / "kept", tmp_path / "jumped", tmp_path / "at_once"
    for root in (kept, jumped):
        shutil.copytree(whole, root)
    longer = ["--resume", "--train_iterations=8"]
    run(f"--experiment_root={kept}", *longer, f"--decay_to={ITERATIONS}")
    run(f"--experiment_root={jumped}", *longer)
    run(*flags(dataset, at_once, "--train_iterations=8", f"--decay_to={ITERATIONS}"))
    assert kill_and_resume.differences(at_once, kept) == []
    logs = {root: (root / "train.log").read_text() for root in (kept, jumped)}
    assert "jumps" not in logs[kept] and json.loads((kept / "args.json").read_text())["decay_to"]
    assert "The learning rate of iteration 7 jumps to 4.75e-06; it was to be 3e-07" in logs[jumped]


def test_a_start_tells_the_data_and_the_flags_that_differ(dataset, tmp_path, capfd):
    root = tmp_path / "exp"
    run(*flags(dataset, root, "--train_iterations=1"))
    lines = capfd.readouterr().err.splitlines()
    seen = [line.split(" train: ")[1] for line in lines if " train: " in line]
    start = next(i for i, line in enumerate(seen) if " images of 6 pids, " in line)
    assert seen[start].startswith(f"{len(dataset.fids)} images of 6 pids, 2/3/5 images a pid")
    assert seen[start].endswith("an epoch, every pid once, is 2 iterations; on the CPU.")
    assert seen[start + 1].startswith("Starting training from iteration 0, with initial weights")
    assert "--batch_p 3" in seen[start + 2] and "--margin" not in seen[start + 2]
    log = (root / "train.log").read_text()
    for line in ("Training using the following parameters:", "margin: soft", "batch_p: 3"):
        assert f"[INFO] train: {line}\n" in log and line not in seen


def test_lines_and_scalars_only_as_often_as_asked_for(dataset, tmp_path):
    root = tmp_path / "exp"
    argv = [flag for flag in flags(dataset, root) if flag != "--detailed_logs"]
    run(
        *argv,
        "--log_frequency=4",
        "--histogram_frequency=0",
        "--image_frequency=0",
        "--checkpoint_frequency=5",
    )
    assert [int(line[1]) for line in iteration_lines(root)] == [1, 4]
    events = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("loss")] == [1, 4]


def test_a_seed_that_is_drawn_is_recorded(dataset, tmp_path):
    argv = [
        flag
        for flag in flags(dataset, tmp_path / "a", "--train_iterations=1")
        if not flag.startswith("--seed")
    ]
    run(*argv)
    seed = json.loads((tmp_path / "a" / "args.json").read_text())["seed"]
    run(*flags(dataset, tmp_path / "b", "--train_iterations=1", f"--seed={seed}"))
    a, b = (tensors(tmp_path / name / "checkpoint-1") for name in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_initial_checkpoint_gives_the_body_its_weights(dataset, whole, tmp_path):
    root = tmp_path / "exp"
    source = f"--initial_checkpoint={whole / 'checkpoint-6'}"
    run(*flags(dataset, root, source, "--train_iterations=1", "--seed=9"))
    start, given = tensors(root / "checkpoint-0"), tensors(whole / "checkpoint-6")
    body = [name for name in start if name.startswith("lunet_narrow/") and "Adam" not in name]
    assert body and all(np.array_equal(start[name], given[name]) for name in body)
    assert not np.array_equal(start["emb/weights"], given["emb/weights"])
    assert start["global_step"] == 0


@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_an_accelerator_takes_the_last_step_of_loading_and_trains_alike(
    dataset, whole, tmp_path, monkeypatch, cache
):
    monkeypatch.setattr(image_data, "on_accelerator", lambda: True)
    root = tmp_path / "exp"
    run(
        *flags(
            dataset, root, f"--cache={cache}", "--train_iterations=2", "--decay_start_iteration=-1"
        )
    )
    for name in ("fids", "embeddings"):
        got, expected = (detailed_logs.read(folder / name)[0] for folder in (root, whole))
        if name == "fids":
            np.testing.assert_array_equal(got, expected)
        else:  # pixels may be half a grey level off
            np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())


def test_with_all_augmentation_an_interrupted_run_goes_on_as_the_whole(dataset, tmp_path):
    every = ["--pad_crop=3", "--color_jitter=0.3", "--random_erasing=0.5", "--cache=encoded"]
    losses = {}
    for name, ends in (("whole", [4]), ("parts", [2, 4])):
        root = tmp_path / name
        argv = [flag for flag in flags(dataset, root, *every) if flag != "--crop_augment"]
        run(*argv, f"--train_iterations={ends[0]}", "--decay_start_iteration=-1")
        for end in ends[1:]:
            files.write_json(root / "args.json", args_json.read(root) | {"train_iterations": end})
            run(f"--experiment_root={root}", "--resume")
        losses[name] = detailed_logs.read(root / "losses")
    np.testing.assert_array_equal(losses["parts"], losses["whole"])
    assert losses["whole"].shape == (4, P * K)


def test_an_image_that_cannot_be_decoded_ends_the_run_with_its_name(dataset, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for fid in dataset.fids:
        os.link(dataset.root / fid, images / fid)
    bad = dataset.fids[4]
    (images / bad).unlink()
    (images / bad).write_bytes((dataset.root / bad).read_bytes()[:60])
    with pytest.raises(common.UserError, match=f"{bad} cannot be read"):
        run(*flags(dataset, tmp_path / "exp"), f"--image_root={images}")


def test_an_image_that_cannot_be_read_for_a_while_loses_nothing(
    dataset, whole, tmp_path, monkeypatch
):
    images = tmp_path / "images"
    shutil.copytree(dataset.root, images)
    fids = detailed_logs.read(whole / "fids").tolist()
    first_use = {fid: min(i for i in range(ITERATIONS) if fid in fids[i]) for fid in sum(fids, [])}
    late = max(first_use, key=lambda fid: (first_use[fid] % 2, first_use[fid]))
    finished = first_use[late]
    assert finished % 2 == 1  # no checkpoint would have been due
    image = images / late.decode()
    content = image.read_bytes()
    image.unlink()
    image.symlink_to(image)  # a loop, as a file that the system does not open
    monkeypatch.setattr("data.dataset.check_images", lambda *_, **__: None)
    root = tmp_path / "exp"

    monkeypatch.setattr(patience, "_wait", lambda *_: None)
    with pytest.raises(common.UserError, match=f"{image} cannot be read, in 7 tries: Too many lev"):
        run(*flags(dataset, root), f"--image_root={images}")
    assert (root / f"checkpoint-{finished}.index").exists()

    def repair(*_):
        image.unlink()
        image.write_bytes(content)

    monkeypatch.setattr(patience, "_wait", repair)
    run(f"--experiment_root={root}", "--resume")
    assert f"{image} cannot be read: Too many levels" in (root / "train.log").read_text()
    expected = tensors(whole / "checkpoint-6")
    for name, value in tensors(root / "checkpoint-6").items():
        np.testing.assert_array_equal(value, expected[name])
    assert detailed_logs.read(root / "fids").tolist() == fids


def test_files_of_another_kind_are_named_before_the_training_and_turned_ones_are_counted(
    dataset, tmp_path
):
    images = tmp_path / "images"
    shutil.copytree(dataset.root, images)
    (images / dataset.fids[4]).write_bytes(oriented(6))
    bmp, expected, _ = BY_PILLOW["BMP of 8 bits"]
    (images / dataset.fids[5]).write_bytes(bmp)
    run(*flags(dataset, tmp_path / "bmp"), f"--image_root={images}")
    log = (tmp_path / "bmp/train.log").read_text()
    assert f"1 of the {len(dataset.fids)} images are stored turned or mirrored" in log

    (images / dataset.fids[5]).write_bytes(encoded(Image.fromarray(expected), "PNG"))
    run(*flags(dataset, tmp_path / "png"), f"--image_root={images}")
    losses = [detailed_logs.read(tmp_path / name / "losses") for name in ("bmp", "png")]
    np.testing.assert_array_equal(*losses)

    (images / dataset.fids[9]).write_bytes(REFUSED["huge PNG"][0])
    with pytest.raises(common.UserError, match=f"{dataset.fids[9]} cannot be read: 14000 x 13500"):
        run(*flags(dataset, tmp_path / "huge"), f"--image_root={images}")
    assert not (tmp_path / "huge/checkpoint-0.index").exists()
    run(*flags(dataset, tmp_path / "huge"), f"--image_root={images}", "--on_bad_image=skip")


def test_images_that_cannot_be_decoded_are_left_out_when_asked_for(dataset, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(dataset.root, images)
    (images / dataset.fids[3]).write_bytes(b"")
    (images / dataset.fids[9]).write_bytes(b"no image")
    root = tmp_path / "exp"
    run(*flags(dataset, root), f"--image_root={images}", "--on_bad_image=skip")
    log = (root / "train.log").read_text()
    assert (
        f"2 of the {len(dataset.fids)} images cannot be decoded and are left out: {dataset.fids[3]}, "
        in log
    )
    used = {fid.decode() for fid in detailed_logs.read(root / "fids").ravel()}
    assert len(iteration_lines(root)) == ITERATIONS and not used & {
        dataset.fids[3],
        dataset.fids[9],
    }


def test_with_cameras_a_pid_comes_from_as_many_of_them_as_it_has(dataset, tmp_path):
    run(
        *flags(
            dataset,
            tmp_path / "exp",
            "--cameras=market1501",
            "--train_iterations=3",
            "--decay_start_iteration=1",
        )
    )
    for of_pid in detailed_logs.read(tmp_path / "exp" / "fids").astype(str).reshape(-1, K):
        there_are = {name[:7] for name in dataset.fids if name[:4] == of_pid[0][:4]}
        assert {name[:7] for name in of_pid} == there_are


def test_images_outside_of_the_root_when_they_are_meant(dataset, tmp_path):
    (tmp_path / "images").mkdir()
    rows = [
        f"{pid},{dataset.root / fid}\n" for pid, fid in zip(dataset.pids, dataset.fids, strict=True)
    ]
    (tmp_path / "absolute.csv").write_text("".join(rows))
    argv = [
        *flags(dataset, tmp_path / "exp", "--train_iterations=1"),
        f"--train_set={tmp_path / 'absolute.csv'}",
    ]
    run(*argv, f"--image_root={tmp_path / 'images'}", "--allow_any_path")
    assert len(iteration_lines(tmp_path / "exp")) == 1


def test_a_collapsed_embedding_is_warned_about(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(
        recorder,
        "CollapseWatch",
        lambda loss, margin: CollapseWatch(loss, margin, patience=3),
    )
    # All images are one: so are their embeddings.
    images = tmp_path / "images"
    images.mkdir()
    for fid in dataset.fids:
        shutil.copy(dataset.root / dataset.fids[0], images / fid)
    argv = [
        flag
        for flag in flags(dataset, tmp_path / "exp")
        if flag not in ("--crop_augment", "--flip_augment")
    ]
    run(*argv, f"--image_root={images}")
    assert (tmp_path / "exp" / "train.log").read_text().count(
        "The embedding has collapsed: for 3 iterations"
    ) == 1


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(dataset, tmp_path):
    root = tmp_path / "exp"
    with pytest.raises(common.UserError, match=r"not finite at iteration \d.*\.png.*learning_rate"):
        run(*flags(dataset, root, "--learning_rate=1e38", "--checkpoint_frequency=1"))
    assert all(np.isfinite(value).all() for value in tensors(checkpoints.newest(root)).values())


def test_a_body_is_frozen_at_first_and_resuming_goes_over_the_end_of_that_exactly(
    dataset, tmp_path
):
    more = [
        "--freeze_body_iterations=3",
        "--optimizer=adamw",
        "--weight_decay=0.1",
        "--clip_norm=0.1",
    ]
    more += [
        "--lr_schedule=multistep",
        "--lr_milestones=2,5",
        "--warmup_iterations=4",
        "--adam_beta1_decay",
    ]
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(*flags(dataset, whole, *more))
    shutil.copytree(whole, part, ignore=shutil.ignore_patterns("checkpoint-[46].*"))
    run(f"--experiment_root={part}", "--resume")
    assert kill_and_resume.differences(whole, part) == []
    start, frozen, end = (tensors(whole / f"checkpoint-{iteration}") for iteration in (0, 2, 6))
    name, head = "lunet_narrow/conv1/weights", "emb/weights"
    assert np.array_equal(start[name], frozen[name]) and not np.array_equal(
        start[head], frozen[head]
    )
    assert not np.array_equal(frozen[name], end[name])


def test_a_frozen_body_with_nothing_else_to_train_is_told(dataset, tmp_path):
    more = [
        "--freeze_body_iterations=3",
        "--head_name=bnneck",
        "--embedding_dim=256",
    ]  # as many as the net's features
    with pytest.raises(
        common.UserError, match="leaves nothing to train: no weights of --head_name bnneck"
    ):
        run(*flags(dataset, tmp_path / "exp", *more))


def test_a_neck_and_a_learned_pooling_train_and_resume_exactly(dataset, tmp_path):
    more = [
        "--model_name=mobilenet_v1_1_224",
        "--head_name=bnneck",
        "--pooling=gem",
        "--last_stride=1",
    ]
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(*flags(dataset, whole, *more, "--train_iterations=3", "--clip_norm=1"))
    shutil.copytree(whole, part, ignore=shutil.ignore_patterns("checkpoint-3.*"))
    run(f"--experiment_root={part}", "--resume")
    assert kill_and_resume.differences(whole, part) == []
    start, end = (tensors(whole / f"checkpoint-{iteration}") for iteration in (0, 3))
    moved = {name for name in start if not np.array_equal(start[name], end[name])}
    assert {
        "gem/p",
        "emb/weights",
        "emb/BatchNorm/moving_mean",
        "MobilenetV1/Conv2d_0/weights",
    } <= moved
    # The loss is taken before the neck, and there is no loss of ids.
    assert "emb/BatchNorm/gamma" not in moved
