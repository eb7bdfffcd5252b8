import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf

import common
import embed
import train
from data import images
from experiment import args_json
from network import checkpoints, model
from reports import projector
from runtime import files

SIZE = (24, 16)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments") / "exp"
    flags = [
        "--model_name=lunet_narrow",
        "--head_name=direct",
        "--embedding_dim=8",
        "--batch_p=3",
        "--batch_k=2",
    ]
    flags += [
        "--net_input_height=24",
        "--net_input_width=16",
        "--pre_crop_height=28",
        "--pre_crop_width=18",
    ]
    flags += ["--crop_augment", "--train_iterations=2", "--seed=1"]
    train.main(
        train.parse_args(
            [
                f"--experiment_root={root}",
                f"--train_set={dataset.csv}",
                f"--image_root={dataset.root}",
                *flags,
            ]
        )
    )
    return root


def run(trained, dataset, *more):
    embed.main(
        embed.parse_args(
            [f"--experiment_root={trained}", f"--dataset={dataset.csv}", "--quiet", *more]
        )
    )


def read(path):
    with h5py.File(path) as file:
        return {name: value[()] for name, value in file.items()}


def expected(trained, dataset, flip, crop, checkpoint="checkpoint-2"):
    """[A, N, D], one image after the other through the network."""
    network = model.build("lunet_narrow", "direct", 8, (*SIZE, 3))
    checkpoints.restore(trained / checkpoint, checkpoints.named_variables(network))
    embs = []
    for fid in dataset.fids:
        image = images.decode(tf.io.read_file(str(dataset.root / fid)))
        resized = images.resize(image, (28, 18) if crop else SIZE)
        embs.append(
            network(images.variants(resized, SIZE, flip, crop), training=False)["emb"].numpy()
        )
    return np.stack(embs, axis=1)


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [4, 256])
def test_plain_embeddings_are_in_the_order_of_the_csv(batch_size, trained, dataset, tmp_path):
    run(trained, dataset, f"--filename={tmp_path / 'out.h5'}", f"--batch_size={batch_size}")
    file = read(tmp_path / "out.h5")
    assert file.keys() == {"emb", "augmentation_types"}
    assert file["emb"].dtype == np.float32
    assert file["augmentation_types"].tolist() == [b"original_resize"]
    close(file["emb"], expected(trained, dataset, False, None)[0])


def test_the_default_name_is_that_of_the_dataset(trained, dataset):
    run(trained, dataset, "--crop_augment=center")
    close(
        read(trained / "all_embeddings.h5")["emb"], expected(trained, dataset, False, "center")[0]
    )


@pytest.mark.parametrize("aggregator", ["mean", "normalized_mean"])
@pytest.mark.parametrize(
    "flip, crop", [(True, None), (True, "center"), (False, "five"), (True, "five")]
)
def test_variants_are_kept_and_aggregated(flip, crop, aggregator, trained, dataset, tmp_path):
    flags = [f"--filename={tmp_path / 'out.h5'}", f"--aggregator={aggregator}", "--batch_size=25"]
    flags += ["--flip_augment"] if flip else []
    flags += [f"--crop_augment={crop}"] if crop else []
    run(trained, dataset, *flags)
    file, embs = read(tmp_path / "out.h5"), expected(trained, dataset, flip, crop)
    assert file["augmentation_types"].astype(str).tolist() == images.variant_names(flip, crop)
    close(file["emb_aug"], embs)
    mean = embs.mean(axis=0)
    if aggregator == "normalized_mean":
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    close(file["emb"], mean)


def test_a_checkpoint_by_name(trained, dataset, tmp_path):
    run(trained, dataset, f"--filename={tmp_path / 'out.h5'}", "--checkpoint=checkpoint-0")
    close(
        read(tmp_path / "out.h5")["emb"], expected(trained, dataset, False, None, "checkpoint-0")[0]
    )


@pytest.mark.parametrize(
    "flags, warned",
    [([], True), (["--crop_augment=center"], False), (["--crop_augment=center", "--quiet"], False)],
)
def test_crops_unlike_those_of_the_training_are_warned_about(
    flags, warned, trained, dataset, tmp_path, capfd
):
    argv = [
        f"--experiment_root={trained}",
        f"--dataset={dataset.csv}",
        f"--filename={tmp_path / 'out.h5'}",
    ]
    embed.main(embed.parse_args([*argv, *flags]))
    err = capfd.readouterr().err
    assert ("WARNING" in err) == warned
    assert ("--quiet" in flags) == (err == "")


def test_the_projector_is_given_the_first_embeddings(
    trained, dataset, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(projector, "MOST_IMAGES", 5)
    argv = [
        f"--experiment_root={trained}",
        f"--dataset={dataset.csv}",
        f"--filename={tmp_path / 'some.h5'}",
    ]
    embed.main(embed.parse_args([*argv, "--crop_augment=center", "--projector"]))
    assert "shows the first 5 of the 19 images" in capfd.readouterr().err
    (entry,) = projector.read_config(trained).embeddings
    assert entry.tensor_name == "some"
    shown = np.loadtxt(trained / entry.tensor_path)
    np.testing.assert_allclose(shown, read(tmp_path / "some.h5")["emb"][:5], rtol=1e-5)
    rows = (trained / entry.metadata_path).read_text().splitlines()[1:]
    assert rows == [
        f"{pid}\t{fid}" for pid, fid in zip(dataset.pids[:5], dataset.fids[:5], strict=True)
    ]


def test_a_net_that_takes_only_the_size_of_its_training_is_told_with_avgpool(trained, tmp_path):
    root = tmp_path / "exp"
    shutil.copytree(trained, root)
    files.write_json(
        root / "args.json", args_json.read(root) | {"pre_crop_height": 96, "pre_crop_width": 64}
    )
    with pytest.raises(
        common.UserError, match="does not fit.*With --crop_augment avgpool images are 96×64"
    ):
        embed.Embedder(root, crop_augment="avgpool")


BAD_FLAGS = {
    "no experiment_root": (["--dataset=CSV"], "--experiment_root"),
    "no dataset": (["--experiment_root=EXP"], "--dataset"),
    "missing dataset": (
        ["--dataset=nowhere.csv"],
        "--dataset: should be an existing file. Received: nowhere.csv",
    ),
    "missing image_root": (["--image_root=nowhere"], "--image_root.*nowhere"),
    "flip without aggregator": (["--flip_augment"], "--aggregator: needed"),
    "five crops without aggregator": (["--crop_augment=five"], "--aggregator: needed"),
    "aggregator without variants": (
        ["--aggregator=mean"],
        "--aggregator: mean has nothing to aggregate",
    ),
    "aggregator of one crop": (
        ["--aggregator=mean", "--crop_augment=center"],
        "nothing to aggregate",
    ),
    "unknown aggregator": (
        ["--flip_augment", "--aggregator=median"],
        "--aggregator.*'median'.*normalized_mean",
    ),
    "unknown crop": (["--crop_augment=six"], "--crop_augment.*'six'.*center.*avgpool.*five"),
    "batch_size": (["--batch_size=0"], "--batch_size.*at least 1. Received: 0"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_flag_ends_with_what_is_wrong(case, trained, dataset, capsys):
    argv, message = BAD_FLAGS[case]
    if not case.startswith("no "):
        argv = ["--experiment_root=EXP", "--dataset=CSV", *argv]
    argv = [flag.replace("EXP", str(trained)).replace("CSV", str(dataset.csv)) for flag in argv]
    with pytest.raises(SystemExit) as end:
        embed.parse_args(argv)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])


def test_bad_input_is_told_and_nothing_is_written(trained, dataset, tmp_path):
    missing, broken = tmp_path / "missing.csv", tmp_path / "broken.csv"
    missing.write_text("1,nowhere.png\n")
    broken.write_text("1,a.png\n1,bad.png\n")
    (tmp_path / "a.png").write_bytes((dataset.root / dataset.fids[0]).read_bytes())
    (tmp_path / "bad.png").write_bytes(b"GIF89a or so")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["emb"] = [b"the result of before"]
    old = (tmp_path / "old.h5").read_bytes()
    before = (
        sorted(path.name for path in tmp_path.iterdir()),
        sorted(path.name for path in trained.iterdir()),
    )
    cases = {
        "1 of the 1 images of .*missing.csv.*nowhere.png": [f"--dataset={missing}"],
        "bad.png cannot be read": [
            f"--dataset={broken}",
            f"--image_root={tmp_path}",
            f"--filename={tmp_path}/old.h5",
        ],
        "checkpoint-7.*Available: checkpoint-0, checkpoint-2": ["--checkpoint=checkpoint-7"],
        "args.json does not exist": [f"--experiment_root={tmp_path}"],
        "--filename.*does not exist": [f"--filename={tmp_path}/no/out.h5"],
        "--filename.*is a directory": [f"--filename={tmp_path}"],
    }
    for message, flags in cases.items():
        with pytest.raises(common.UserError, match=message):
            run(trained, dataset, *flags)
    assert (
        sorted(path.name for path in tmp_path.iterdir()),
        sorted(path.name for path in trained.iterdir()),
    ) == before
    assert (tmp_path / "old.h5").read_bytes() == old


# ------------------------------------------------------------------------- from Python


@pytest.fixture(scope="module")
def embedder(trained):
    return embed.Embedder(trained, batch_size=4)


def test_files_and_arrays_are_embedded(embedder, trained, dataset):
    paths = [dataset.root / fid for fid in dataset.fids]
    wanted = expected(trained, dataset, False, None)[0]
    embs = embedder(paths)
    assert (embs.dtype, embs.shape) == (np.float32, (len(paths), 8))
    close(embs, wanted)
    close(embedder([str(path) for path in paths[:3]]), wanted[:3])
    arrays = [images.decode(tf.io.read_file(str(path))).numpy() for path in paths]
    close(embedder(arrays), wanted)
    close(embedder(np.stack(arrays)), wanted)
    close(embedder([array.astype(float) for array in arrays[:3]]), wanted[:3])
    assert embedder([]).shape == (0, 8)
    assert (
        embedder._embed.experimental_get_tracing_count() == 1
    )  # whatever is left for the last batch


def test_arrays_of_different_sizes_are_embedded(embedder):
    sizes = (24, 16), (50, 31), (12, 40)
    arrays = [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    resized = tf.stack([images.resize(array, SIZE) for array in arrays])
    close(embedder(arrays), embedder.network(resized, training=False)["emb"])


def test_variants_are_aggregated_from_python_too(trained, dataset):
    embedder = embed.Embedder(
        trained, "checkpoint-0", flip_augment=True, crop_augment="five", aggregator="mean"
    )
    assert embedder.checkpoint == trained / "checkpoint-0"
    assert embedder.variant_names == images.variant_names(True, "five")
    embs = embedder([dataset.root / fid for fid in dataset.fids[:3]])
    close(embs, expected(trained, dataset, True, "five", "checkpoint-0").mean(axis=0)[:3])


def test_what_is_no_image_is_told(embedder, dataset, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    image = np.zeros((24, 16, 3), np.uint8)
    cases = {
        "Received: uint8 \\[16, 3\\].*\\[image\\], not image": image,
        "Received: uint8 \\[24, 16\\]": [image[..., 0]],
        "Received: uint8 \\[24, 16, 4\\]": [np.zeros((24, 16, 4), np.uint8)],
        "Received one: a.png. Put it into a list": "a.png",
        "bad.png cannot be read": [dataset.root / dataset.fids[0], tmp_path / "bad.png"],
    }
    for message, given in cases.items():
        with pytest.raises(common.UserError, match=message):
            embedder(given)


def test_an_aggregator_is_needed_from_python_too(trained):
    with pytest.raises(common.UserError, match="--aggregator: needed"):
        embed.Embedder(trained, flip_augment=True)


# ------------------------------------------------------------------------- several devices

TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import embed
embed.main(embed.parse_args(sys.argv[1:]))
"""
# 19 images: the last batch is not full, and two replicas cannot have equally many.
VARIANTS = ["--flip_augment", "--crop_augment=five", "--aggregator=mean", "--batch_size=60"]


def start(command, trained, dataset, filename, **environment):
    flags = [
        f"--experiment_root={trained}",
        f"--dataset={dataset.csv}",
        f"--filename={filename}",
        *VARIANTS,
    ]
    return subprocess.Popen(
        [sys.executable, *command, *flags],
        cwd=common.HERE,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
    )


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes_on(kind, trained, dataset, filename):
    if kind == "two devices":
        return [start(["-c", TWO_DEVICES, "--strategy=mirrored"], trained, dataset, filename)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    configs = [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]
    return [start(["embed.py"], trained, dataset, filename, TF_CONFIG=config) for config in configs]


@pytest.mark.parametrize("kind", ["two devices", "two workers"])
def test_several_devices_give_the_file_of_one(kind, trained, dataset, tmp_path):
    run(trained, dataset, f"--filename={tmp_path / 'one.h5'}", *VARIANTS)
    processes = processes_on(kind, trained, dataset, tmp_path / "several.h5")
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    assert "on 2 devices" in errors[0] and "Wrote the embeddings, 19 of 8 numbers" in errors[0]
    assert not any("INFO" in text for text in errors[1:])
    one, several = read(tmp_path / "one.h5"), read(tmp_path / "several.h5")
    assert one.keys() == several.keys()
    np.testing.assert_array_equal(several["augmentation_types"], one["augmentation_types"])
    for name in ("emb", "emb_aug"):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-6, atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 2
