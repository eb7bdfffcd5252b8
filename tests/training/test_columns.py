"""Trainings on what a CSV with a header says: boxes, splits, sets, groups."""

import json

import numpy as np
import pytest
from PIL import Image

import train
from benchmarks import kill_and_resume
from network import checkpoints

FLAGS = [
    "--model_name=lunet_narrow",
    "--head_name=direct",
    "--embedding_dim=8",
    "--batch_p=4",
    "--batch_k=2",
    "--net_input_height=24",
    "--net_input_width=16",
    "--pre_crop_height=28",
    "--pre_crop_width=18",
    "--crop_augment",
    "--flip_augment",
    "--train_iterations=2",
    "--seed=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 images of 6 pids: parts of three sheets in boxed.csv, and cut out before in cut.csv."""
    folder = tmp_path_factory.mktemp("columns")
    rng = np.random.default_rng(0)
    boxed = ["fid,pid,split,x1,y1,x2,y2,group,camera"]
    cut = []
    sheets = rng.integers(0, 256, (3, 60, 80, 3), np.uint8)
    for number, sheet in enumerate(sheets):
        Image.fromarray(sheet).save(folder / f"sheet{number}.png")
    for row in range(12):
        x1, y1 = rng.integers(0, 50, 2).tolist()
        x2, y2 = x1 + 20 + row, y1 + 10
        Image.fromarray(sheets[row % 3, y1:y2, x1:x2]).save(folder / f"{row}.png")
        boxed.append(
            f"sheet{row % 3}.png,{row % 6},train,{x1},{y1},{x2},{y2},{row % 6 // 3},c{row}"
        )
        boxed.append(f"missing.png,9,query,1,1,2,2,x,c{row}")  # of no interest to a training
        cut.append(f"{row % 6},{row}.png")
    (folder / "boxed.csv").write_text("\n".join(boxed))
    (folder / "cut.csv").write_text("\n".join(cut))
    return folder


def run(root, *argv):
    train.main(train.parse_args([f"--experiment_root={root}", *FLAGS, *map(str, argv)]))
    return root


def weights(root):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(checkpoints.newest(root)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def equal(a, b):
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert kill_and_resume.logged_iterations(a) == kill_and_resume.logged_iterations(b)


def test_a_training_on_boxes_is_one_on_images_that_were_cut_out_before(folder):
    image_root = f"--image_root={folder}"
    boxed = run(folder / "on_boxes", f"--train_set={folder / 'boxed.csv'}", image_root)
    cut = run(folder / "on_cut", f"--train_set={folder / 'cut.csv'}", image_root)
    equal(boxed, cut)
    assert json.loads((boxed / "args.json").read_text())["train_set"] == f"{folder / 'boxed.csv'}"


def test_two_sets_with_weights(folder):
    paths = [folder / "boxed.csv", folder / "cut.csv"]
    root = run(
        folder / "weights",
        "--train_set",
        *paths,
        f"--image_root={folder}",
        *("--set_weights", 3, 1),
        "--detailed_logs",
        "--no_file_check",
    )
    from experiment import detailed_logs

    fids = detailed_logs.read(root / "fids")
    assert fids.shape == (2, 8)
    for batch in fids:
        assert [fid[:2] for fid in batch.tolist()] == [b"1:"] * 6 + [b"2:"] * 2
        assert all((b"#" in fid) == fid.startswith(b"1:") for fid in batch.tolist())
    args = json.loads((root / "args.json").read_text())
    assert args["train_set"] == [str(path) for path in paths]
    assert args["set_weights"] == [3.0, 1.0] and args["no_file_check"]
