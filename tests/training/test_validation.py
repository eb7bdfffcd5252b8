import csv
import json
import os
import re
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import common
import embed
import evaluate
import train
from benchmarks import kill_and_resume
from data.holdout import hold_out
from experiment import detailed_logs, metrics_log, train_log
from experiment.flags import VALIDATION_FIGURES
from network import checkpoint_paths, pretrained
from network.embedder import Embedder, NetworkEmbedder
from training import chance, saver

SEED, ITERATIONS = 1, 6


def flags(dataset, root, *more):
    return [
        f"--experiment_root={root}",
        f"--train_set={dataset.csv}",
        f"--image_root={dataset.root}",
        "--model_name=lunet_narrow",
        "--head_name=direct",
        "--embedding_dim=8",
        "--batch_p=3",
        "--batch_k=3",
        "--net_input_height=24",
        "--net_input_width=16",
        "--pre_crop_height=28",
        "--pre_crop_width=18",
        "--crop_augment",
        f"--train_iterations={ITERATIONS}",
        "--decay_start_iteration=-1",
        "--checkpoint_frequency=3",
        "--detailed_logs",
        "--image_frequency=0",
        f"--seed={SEED}",
        *more,
    ]


VALIDATION = [
    "--val_pids=3",
    "--val_distractors=4",
    "--val_excluder=market1501",
    "--val_frequency=2",
]


def run(*argv):
    train.main(train.parse_args(list(argv)))


def validations(root):
    """The lines of metrics.jsonl that are validations, by iteration."""
    lines = [line for line in metrics_log.read(root) if "validation/mAP" in line]
    return {line.pop("iteration"): line for line in lines}


def tensors(path):
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def held_out(dataset):
    """Rows of the images that VALIDATION holds out, of the queries among them, and of the gallery."""
    cameras = [fid[5:7] for fid in dataset.fids]
    held, queries, gallery = hold_out(dataset.pids, cameras, 3, SEED, distractors=4)
    return np.flatnonzero(held), queries, np.flatnonzero(gallery)


def write(path, dataset, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows((dataset.pids[row], dataset.fids[row]) for row in rows)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """8 pids in three cameras each, hard to tell apart."""
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    rows = []
    for pid in range(8):
        for camera in (1, 2, 3):
            fid = f"{pid:04d}_c{camera}s1_000000_00.png"
            Image.fromarray(rng.integers(0, 256, (24, 16, 3), np.uint8)).save(root / fid)
            rows.append((f"{pid:04d}", fid))
    pids, fids = zip(*rows, strict=True)
    found = SimpleNamespace(root=root, csv=root / "all.csv", pids=pids, fids=fids)
    write(found.csv, found, range(len(rows)))
    return found


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """An experiment with validations that ran without interruption."""
    root = tmp_path_factory.mktemp("experiments") / "whole"
    run(*flags(dataset, root, *VALIDATION))
    return root


def test_the_training_is_that_of_the_csv_without_the_rows_that_are_held_out(
    dataset, whole, tmp_path
):
    held, _, _ = held_out(dataset)
    rest = [row for row in range(len(dataset.fids)) if row not in held]
    root = tmp_path / "plain"
    run(*flags(dataset, root), f"--train_set={write(tmp_path / 'rest.csv', dataset, rest)}")
    expected, got = tensors(root / "checkpoint-6"), tensors(whole / "checkpoint-6")
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    for name in ("embeddings", "losses", "fids"):
        np.testing.assert_array_equal(
            detailed_logs.read(whole / name), detailed_logs.read(root / name), err_msg=name
        )
    logged = [line for line in kill_and_resume.logged_metrics(whole) if "loss" in line]
    assert logged == kill_and_resume.logged_metrics(root) and len(logged) == ITERATIONS
    assert not (root / "checkpoint-best").exists()


def test_embeddings_that_are_not_finite_end_the_training_with_what_helps_it(dataset, tmp_path):
    root = tmp_path / "exp"
    with pytest.raises(common.UserError, match=r"not finite.*lower learning_rate in args\.json"):
        run(*flags(dataset, root, *VALIDATION, "--val_frequency=1", "--learning_rate=1e38"))
    assert not checkpoint_paths.iterations(root)[1:]


def test_a_validation_is_what_the_commands_find_with_that_checkpoint(dataset, whole, tmp_path):
    _, queries, gallery = held_out(dataset)
    csvs = {name: str(tmp_path / f"{name}.csv") for name in ("query", "gallery")}
    write(csvs["query"], dataset, queries)
    write(csvs["gallery"], dataset, gallery)
    root = f"--experiment_root={whole}"
    embed.main(
        embed.parse_args(
            [root, "--dataset", *csvs.values(), "--crop_augment=center", "--checkpoint=best"]
        )
    )
    result = tmp_path / "result.json"
    argv = [root, "--excluder=market1501", f"--filename={result}"]
    argv += [f"--{name}_dataset={path}" for name, path in csvs.items()]
    evaluate.main(evaluate.parse_args(argv))
    found = json.loads(result.read_text())
    best = checkpoint_paths.find(whole, "best")
    line = validations(whole)[int(best.name.removeprefix("checkpoint-"))]
    assert found["made"]["query"]["checkpoint"] == str(best)
    for name in ("mAP", "mINP"):
        assert line[f"validation/{name}"] == pytest.approx(found[name], abs=1e-6)
    assert 0.2 < found["mAP"] < 0.9
    for k in (1, 5):
        assert line[f"validation/top-{k}"] == pytest.approx(found["CMC"][k - 1], abs=1e-6)
    for file in whole.glob("*_embeddings.h5"):
        file.unlink()


def test_a_validation_at_the_start_tells_what_the_net_is_worth_as_it_begins(
    dataset, whole, tmp_path, monkeypatch
):
    root = tmp_path / "from the start"
    argv = flags(dataset, root, *VALIDATION, "--val_start")
    batches = NetworkEmbedder.batches

    def interrupted(embedder, paths):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        yield from batches(embedder, paths)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(NetworkEmbedder, "batches", interrupted)
        run(*argv)
    assert validations(root) == {} and checkpoint_paths.iterations(root) == [0]
    run(f"--experiment_root={root}", "--resume")
    found = validations(root)
    begin = found.pop(0)
    assert found == validations(whole)

    _, queries, gallery = held_out(dataset)
    embedder = Embedder(root, checkpoint="checkpoint-0", crop_augment="center")
    embs = embedder([str(dataset.root / dataset.fids[row]) for row in gallery])
    pids = np.array(dataset.pids)[gallery]
    cameras = np.array([dataset.fids[row][5:7] for row in gallery])
    top_1 = []
    for query in np.flatnonzero(np.isin(gallery, queries)):
        others = (pids != pids[query]) | (cameras != cameras[query])
        dists = np.linalg.norm(embs - embs[query], axis=1)
        top_1.append(pids[np.where(others, dists, np.inf).argmin()] == pids[query])
    assert begin["validation/top-1"] == pytest.approx(np.mean(top_1))


def test_another_training_can_begin_with_the_best_checkpoint(whole):
    best = checkpoint_paths.find(whole, "best")
    name = "lunet_narrow/conv1/weights"
    expected = tf.train.load_variable(str(best), name)
    variables = {name: tf.Variable(np.zeros_like(expected))}
    pretrained.load_net(whole / "checkpoint-best", "lunet_narrow", variables)
    np.testing.assert_array_equal(variables[name], expected)


def test_all_logs_tell_the_validations_and_the_best_has_its_checkpoint(whole):
    found = validations(whole)
    assert list(found) == [2, 4, 6]
    assert list(found[2]) == [f"validation/{name}" for name in VALIDATION_FIGURES]
    events = EventAccumulator(str(whole), size_guidance={"tensors": 0}).Reload()
    for tag in found[2]:
        series = events.Tensors(tag)
        assert [event.step for event in series] == [2, 4, 6]
        values = [float(tf.make_ndarray(event.tensor_proto)) for event in series]
        np.testing.assert_allclose(values, [line[tag] for line in found.values()], rtol=1e-6)
        assert events.SummaryMetadata(tag).summary_description.endswith(".")
    maps = {iteration: line["validation/mAP"] for iteration, line in found.items()}
    best = max(maps, key=lambda iteration: (maps[iteration], -iteration))
    assert (whole / "checkpoint-best").read_text() == (
        f'model_checkpoint_path: "checkpoint-{best}"\n'
    )
    assert checkpoint_paths.iterations(whole) == sorted({0, 3, 6, best})
    log = (whole / "train.log").read_text()
    lines = re.findall(
        r"\] train: validation: +(\d+), mAP: ([\d.]+)%, .* best mAP: ([\d.]+)% at", log
    )
    assert [int(line[0]) for line in lines] == [2, 4, 6]
    for line, value in zip(lines, maps.values(), strict=True):
        assert line[1] == f"{100 * value:.2f}"
    assert lines[-1][2] == f"{100 * maps[best]:.2f}"
    assert "Validating every 2 iterations and at the end: " in log


def test_a_killed_run_goes_on_as_the_whole_with_the_same_best(whole, tmp_path):
    root = tmp_path / "killed"
    shutil.copytree(whole, root, ignore=shutil.ignore_patterns("checkpoint-[2-9]*"))
    (root / "checkpoint-best").write_text('model_checkpoint_path: "checkpoint-6"\n')
    run(f"--experiment_root={root}", "--resume")
    assert kill_and_resume.differences(whole, root) == []
    assert (root / "train.log").read_text().count("validation:") == 3


def test_a_pointer_that_a_kill_came_before_is_written_when_the_run_is_resumed(whole, tmp_path):
    root = tmp_path / "killed"
    shutil.copytree(whole, root)
    (root / "checkpoint-best").unlink()
    run(f"--experiment_root={root}", "--resume")
    assert kill_and_resume.differences(whole, root) == []
    assert "Nothing to do: all 6 iterations are finished" in (root / "train.log").read_text()


def test_a_signal_ends_a_validation_which_is_made_when_the_training_goes_on(
    dataset, whole, tmp_path, monkeypatch
):
    root = tmp_path / "interrupted"
    batches = NetworkEmbedder.batches

    def interrupted(embedder, paths):
        for views in batches(embedder, paths):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # until the thread that listens has heard it
            yield views

    argv = flags(dataset, root, *VALIDATION)
    for iteration, undisturbed in ((2, 0), (6, 2)):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(NetworkEmbedder, "batches", in_turn([batches] * undisturbed, interrupted))
            run(*argv)
        assert ended.value.code == 128 + signal.SIGTERM
        assert train_log.state(root, ITERATIONS) == "interrupted"
        assert checkpoint_paths.iterations(root)[-1] == iteration
        assert list(validations(root)) == list(range(2, iteration, 2))
        argv = [f"--experiment_root={root}", "--resume"]
    run(*argv)
    assert kill_and_resume.differences(whole, root) == []
    assert train_log.state(root, ITERATIONS) == "finished"


def in_turn(first, then):
    """A method whose calls go to the first functions in turn, and to another when these are over."""
    functions = iter(first)
    return lambda *args: next(functions, then)(*args)


def test_a_metric_that_does_not_rise_ends_the_training_and_resuming_says_so(
    dataset, tmp_path, capfd
):
    root = tmp_path / "exp"
    # All of so few images are among the ten nearest.
    early = ["--val_frequency=1", "--val_metric=top-10", "--early_stop=2", "--keep_checkpoints=1"]
    run(*flags(dataset, root, *VALIDATION, *early, "--checkpoint_frequency=1"))
    last_line = "topped early after iteration 3: top-10 has not risen for 2 validations; the best is 100.00%, of "
    last_line += "checkpoint-1."
    log = (root / "train.log").read_text()
    assert f"] train: S{last_line}" in log.splitlines()[-1]
    assert train_log.state(root, ITERATIONS) == "finished early"
    assert checkpoint_paths.iterations(root) == [1, 3]  # the best, and the newest
    assert checkpoint_paths.find(root, "best").name == "checkpoint-1"
    events = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("_hparams_/session_end_info")] == [4]

    run(f"--experiment_root={root}", "--resume")
    assert f"] train: Nothing to do: s{last_line}" in capfd.readouterr().err
    assert train_log.state(root, ITERATIONS) == "finished early"
    run(f"--experiment_root={root}", "--resume", "--early_stop=0", "--train_iterations=4")
    assert train_log.state(root, 4) == "finished"
    assert list(validations(root)) == [1, 2, 3, 4]
    assert checkpoint_paths.iterations(root) == [1, 4]
    events = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("_hparams_/session_end_info")] == [5]


def test_the_best_checkpoint_can_be_that_which_the_training_began_with(dataset, tmp_path):
    root = tmp_path / "exp"
    early = ["--val_start", "--val_frequency=1", "--val_metric=top-10", "--early_stop=2"]
    run(*flags(dataset, root, *VALIDATION, *early))
    assert list(validations(root)) == [0, 1, 2]
    assert checkpoint_paths.find(root, "best").name == "checkpoint-0"
    assert checkpoint_paths.iterations(root) == [0, 2]
    log = (root / "train.log").read_text()
    assert "Stopped early after iteration 2: top-10 has not risen for 2 validations" in log


BEYOND_CHANCE = ["--val_start", "--val_frequency=1", "--val_beyond_chance", "--learning_rate=0.01"]


def test_only_a_rise_beyond_chance_makes_a_checkpoint_better_than_that_of_the_start(
    dataset, tmp_path
):
    root, few = tmp_path / "exp", tmp_path / "few"
    run(*flags(dataset, root, *VALIDATION, "--val_pids=4", *BEYOND_CHANCE))
    found = validations(root)
    assert list(found) == list(range(ITERATIONS + 1))
    chances = [line.get("validation/chance") for line in found.values()]
    assert chances[0] is None and set(chances[1:]) <= {share / 16 for share in range(1, 17)}
    parts = chance.read(root)
    assert len(parts) == 4
    assert sum(parts.values()) == pytest.approx(found[0]["validation/mAP"])
    counting = {
        iteration: line["validation/mAP"]
        for iteration, line in found.items()
        if line.get("validation/chance", 0.0) <= 0.1
    }
    best = max(counting, key=lambda iteration: (counting[iteration], -iteration))
    assert checkpoint_paths.find(root, "best").name == f"checkpoint-{best}"

    # With three pids, nothing is beyond chance.
    run(*flags(dataset, few, *VALIDATION, *BEYOND_CHANCE, "--early_stop=1"))
    maps = [line["validation/mAP"] for line in validations(few).values()]
    assert checkpoint_paths.find(few, "best").name == "checkpoint-0"
    # It ends when the figure no longer rises, not when it was no longer beyond chance.
    assert maps[:-1] == sorted(set(maps[:-1])) and maps[-1] <= maps[-2]
    log = (few / "train.log").read_text()
    assert "cannot tell a rise from chance by the AP of 3 pids, so checkpoint-0 stays" in log


def test_a_run_that_resumes_knows_what_the_start_was_worth(dataset, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    argv = [*VALIDATION, "--val_pids=4", *BEYOND_CHANCE]
    run(*flags(dataset, whole, *argv))
    shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("checkpoint-[4-9]*"))
    run(f"--experiment_root={killed}", "--resume")
    assert kill_and_resume.differences(whole, killed) == []
    (killed / chance.NAME).unlink()
    with pytest.raises(common.UserError, match="set val_beyond_chance to false in args.json"):
        run(f"--experiment_root={killed}", "--resume")


def test_other_csvs_flipped_views_averaged_weights_and_images_that_cannot_be_decoded(
    dataset, tmp_path
):
    images = tmp_path / "images"
    shutil.copytree(dataset.root, images)
    rows = range(len(dataset.fids))
    bad = dataset.fids[3]
    gallery = write(tmp_path / "gallery.csv", dataset, rows)
    (images / bad).write_bytes(b"no image")
    root = tmp_path / "exp"
    run(
        *flags(dataset, root, "--train_iterations=1", "--on_bad_image=skip", "--val_views=flip"),
        "--precision=mixed_bfloat16",
        "--ema=0.5",
        f"--val_query={gallery}",
        f"--val_gallery={gallery}",
        f"--val_image_root={images}",
        "--val_excluder=diagonal",
    )
    (found,) = validations(root).values()
    good = [row for row in rows if dataset.fids[row] != bad]
    embedder = Embedder(root, flip_augment=True, crop_augment="center", aggregator="mean")
    embs = embedder([str(images / dataset.fids[row]) for row in good])
    dists = np.linalg.norm(embs[:, None].astype(float) - embs[None], axis=2)
    np.fill_diagonal(dists, np.inf)
    pids = np.array(dataset.pids)[good]
    top_1 = np.mean(pids[dists.argmin(axis=1)] == pids)
    assert found["validation/top-1"] == pytest.approx(top_1)


# ------------------------------------------------------------------------- the saver


class Variable:
    def __init__(self, value):
        self.value = np.asarray(value)

    def numpy(self):
        return self.value


def test_a_best_checkpoint_that_is_not_due_goes_when_a_better_one_is_there(tmp_path):
    variables = {"global_step": Variable(np.int64(0)), "w": Variable(np.float32(1))}
    with saver.Saver(tmp_path, variables, keep=0, sync=lambda: None) as saves:
        for iteration, is_best, is_due in (
            (0, False, True),
            (2, True, False),
            (3, False, True),
            (4, True, False),
            (6, True, True),
            (8, True, False),
            (9, False, True),
        ):
            saves.save(iteration, is_best, is_due)
            saves.wait()
            kept = checkpoint_paths.iterations(tmp_path)
            assert iteration in kept and checkpoint_paths.best(tmp_path) in (None, *kept)
    assert checkpoint_paths.iterations(tmp_path) == [0, 3, 6, 8, 9]
    assert checkpoint_paths.best(tmp_path) == 8


def test_without_a_validation_there_is_no_best(dataset, tmp_path):
    (tmp_path / "checkpoint-5.index").write_bytes(b"")
    with pytest.raises(common.UserError, match="only a training with validations"):
        checkpoint_paths.find(tmp_path, "best")
    (tmp_path / "checkpoint-best").write_text('model_checkpoint_path: "checkpoint-4"\n')
    with pytest.raises(common.UserError, match="names checkpoint-4, which is not there"):
        checkpoint_paths.find(tmp_path, "best")
    (tmp_path / "checkpoint-best").write_text('model_checkpoint_path: "checkpoint-5"\n')
    assert checkpoint_paths.find(tmp_path, "checkpoint-best") == tmp_path / "checkpoint-5"
