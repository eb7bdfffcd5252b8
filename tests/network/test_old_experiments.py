"""Directories as the original left them, opened by our commands."""

import json
import os
import re
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from golden import nets as golden
from golden.fill import fill
from paths import GOLDEN
from PIL import Image

import embed
import export
import train
from common import UserError

LIGHT = "mobilenet_v1_1_224/fc1024"
ORIGINALS_ARGS = GOLDEN / "experiment" / "args.json"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The golden images as files, and their CSV."""
    root = tmp_path_factory.mktemp("pictures")
    rows = []
    for number, (pid, pixels) in enumerate(
        zip(golden.ARRAYS["pids"], golden.ARRAYS["images"], strict=True)
    ):
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows.append(f"{pid},{number}.png\n")
    (root / "all.csv").write_text("".join(rows))
    return root


def write_experiment(root, case, pictures, **changes):
    """As train.py of the original did: its args.json, `checkpoint` and a checkpoint in the format
    of TensorFlow 1.
    """
    net, head = case.split("/")
    root.mkdir()
    height, width, _ = golden.INPUT_SHAPE
    args = json.loads(ORIGINALS_ARGS.read_text()) | {
        "model_name": net,
        "head_name": head,
        "embedding_dim": golden.EMBEDDING_DIM,
        "net_input_height": height,
        "net_input_width": width,
        "crop_augment": False,
        "image_root": str(pictures),
        "train_set": str(pictures / "all.csv"),
    }
    (root / "args.json").write_text(json.dumps(args | changes, indent=2, sort_keys=True))
    shapes = golden.VARIABLES.get(f"{case}/train_state", golden.VARIABLES[case])
    names = sorted(shapes)
    tf.raw_ops.SaveV2(
        prefix=str(root / "checkpoint-5"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.convert_to_tensor(fill(name, shapes[name])) for name in names],
    )
    (root / "checkpoint-5.meta").write_bytes(b"a graph, which nobody asks for")
    (root / "checkpoint").write_text(
        'model_checkpoint_path: "/elsewhere/exp/checkpoint-5"\n'
        'all_model_checkpoint_paths: "/elsewhere/exp/checkpoint-5"\n'
    )
    return root


@pytest.fixture(scope="module")
def old(pictures, tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiments") / "old", LIGHT, pictures)


@pytest.fixture
def copy(old, tmp_path):
    return Path(shutil.copytree(old, tmp_path / "copy"))


def run(root, pictures, *more):
    embed.main(
        embed.parse_args([f"--experiment_root={root}", f"--dataset={pictures / 'all.csv'}", *more])
    )
    with h5py.File(root / "all_embeddings.h5") as file:
        return file["emb"][()]


# Both kinds of nets and every head; test_model.py has all combinations.
EMBEDDED = [f"mobilenet_v1_1_224/{head}" for head in ("direct", "direct_normalize")]
EMBEDDED += [LIGHT, f"{LIGHT}_normalize", "resnet_v1_50/fc1024"]


@pytest.mark.parametrize("case", EMBEDDED)
def test_embeddings_are_the_originals(case, pictures, tmp_path):
    keras.backend.clear_session()
    emb = run(write_experiment(tmp_path / "exp", case, pictures), pictures)
    shutil.rmtree(tmp_path / "exp")
    expected = golden.ARRAYS[f"{case}/infer/emb"]
    assert emb.shape == expected.shape
    assert golden.deviation(emb, expected) < 1e-4


def test_training_goes_on_where_the_original_stopped(copy):
    # That its losses are the original's: test_model.py.
    args = json.loads((copy / "args.json").read_text())
    args |= {"train_iterations": 6, "batch_p": 2, "batch_k": 2, "detailed_logs": False}
    (copy / "args.json").write_text(json.dumps(args))
    train.main(train.parse_args([f"--experiment_root={copy}", "--resume"]))
    log = (copy / "train.log").read_text()
    assert re.search(r"Starting training from iteration 5, with .*checkpoint-5", log)
    assert "iter:     6, loss" in log
    before, after = (
        tf.train.load_checkpoint(str(copy / f"checkpoint-{iteration}")) for iteration in (5, 6)
    )
    assert after.get_tensor("global_step") == 6
    # Adam's first moment: nine tenths of the old one, and a tenth of the gradient.
    for name in ("emb/weights/Adam", "MobilenetV1/Conv2d_0/weights/Adam"):
        assert not np.array_equal(after.get_tensor(name), before.get_tensor(name))
    name = "emb/weights/Adam_1"
    assert np.all(after.get_tensor(name) >= 0.998999 * before.get_tensor(name))


# ------------------------------------------------------------------------- without args.json


def flags(**changes):
    net, head = LIGHT.split("/")
    height, width, _ = golden.INPUT_SHAPE
    flags = {"model_name": net, "head_name": head, "embedding_dim": golden.EMBEDDING_DIM}
    flags |= {"net_input_height": height, "net_input_width": width} | changes
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def test_a_checkpoint_without_args_json_is_told_its_architecture(copy, pictures, capfd):
    (copy / "args.json").unlink()
    emb = run(copy, pictures, f"--image_root={pictures}", *flags(head_name=None))
    assert golden.deviation(emb, golden.ARRAYS[f"{LIGHT}/infer/emb"]) < 1e-4
    err = capfd.readouterr().err
    assumed = "--head_name fc1024, --pooling avg, --last_stride 2, --pre_crop_height 288, --pre_crop_width 144."
    assert f"args.json does not exist. Assumed: {assumed}" in err
    assert "random crops" not in err  # nobody knows


def test_an_architecture_that_args_json_denies_is_not_used(copy, pictures, capfd):
    emb = run(copy, pictures, "--embedding_dim=64", "--head_name=fc1024")
    assert emb.shape == (8, golden.EMBEDDING_DIM)
    err = capfd.readouterr().err
    assert "--embedding_dim 64 is not used: args.json says 32" in err
    assert "--head_name" not in err


def test_weights_without_a_place_are_warned_about(copy, pictures, capfd):
    """The features of MobileNet are as many as the hidden layer of fc1024: all that direct needs
    fits.
    """
    (copy / "args.json").unlink()
    run(copy, pictures, f"--image_root={pictures}", *flags(head_name="direct"))
    assert (
        "holds weights that the model has no place for: fully_connected/weights. Is --head_name"
        in capfd.readouterr().err
    )


def test_what_is_missing_is_told(copy, pictures):
    (copy / "args.json").unlink()
    with pytest.raises(
        UserError, match="args.json does not exist.*came without it, give --model_name"
    ):
        run(copy, pictures)
    with pytest.raises(UserError, match="no args.json that names an image_root. Give --image_root"):
        run(copy, pictures, *flags())


# ------------------------------------------------------------------------- bad input


def change(**changes):
    def damage(root):
        args = json.loads((root / "args.json").read_text())
        (root / "args.json").write_text(json.dumps(args | changes))

    return damage


def truncate(suffix, keep):
    def damage(root):
        file = root / f"checkpoint-5{suffix}"
        os.truncate(file, int(keep * file.stat().st_size))

    return damage


BAD = {
    "unknown net": (
        change(model_name="resnet_v1_99"),
        "model_name: there is no 'resnet_v1_99' in nets/. Meant: resnet_v1_50[?] Available: ",
    ),
    "path for a net": (change(model_name="../common"), r"there is no '\.\./common' in nets/"),
    "package for a net": (change(model_name="os.path"), r"there is no 'os\.path' in nets/"),
    "private file": (change(model_name="_resnet_v1"), "there is no '_resnet_v1' in nets/"),
    "path for a head": (change(head_name="/elsewhere/x"), "there is no '/elsewhere/x' in heads/"),
    "net of no name": (change(model_name=["a"]), "args.json"),
    "no JSON": (
        lambda root: (root / "args.json").write_text("{"),
        "args.json cannot be read as JSON",
    ),
    "truncated index": (truncate(".index", 0.5), "cannot read the checkpoint .*checkpoint-5"),
    "truncated data": (
        truncate(".data-00000-of-00001", 0.3),
        "cannot read the checkpoint .*checkpoint-5",
    ),
    "no checkpoint": (
        lambda root: (root / "checkpoint-5.index").unlink(),
        "there is no checkpoint in",
    ),
    "another net": (
        change(model_name="lunet_narrow"),
        "does not fit this model: .*lunet_narrow/conv1/weights is missing",
    ),
    "another dimension": (
        change(embedding_dim=64),
        r"emb/weights is \[1024, 32\] there and \[1024, 64\] here; emb/biases is \[32\] there and \[64\] here",
    ),
}


@pytest.mark.parametrize("command", ["embed", "export"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line_and_nothing_is_written(
    case, command, copy, pictures, tmp_path
):
    damage, message = BAD[case]
    damage(copy)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as error:
        if command == "embed":
            run(copy, pictures)
        else:
            export.main(
                export.parse_args([f"--experiment_root={copy}", f"--directory={tmp_path / 'out'}"])
            )
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
