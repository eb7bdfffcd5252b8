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
import small_network
from image_kinds import oriented
from PIL import Image, ImageOps
from small_network import close

import common
import embed
import network.embedder
from benchmarks import _file_operations
from data.augment import Views
from data.dataset import load
from evaluation import embeddings_file
from evaluation.embeddings_file import Origin
from experiment import args_json, provenance
from network import checkpoint_paths
from reports import projector
from runtime import files


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments") / "exp"
    small_network.write_experiment(root, image_root=str(dataset.root), crop_augment=True)
    return root


@pytest.fixture(scope="module")
def expected(trained, dataset):
    """The embeddings by the network alone; see small_network.Expected."""
    return small_network.Expected(trained, dataset)


def run(trained, dataset, *more):
    embed.main(
        embed.parse_args(
            [f"--experiment_root={trained}", f"--dataset={dataset.csv}", "--quiet", *more]
        )
    )


def read(path):
    with h5py.File(path) as file:
        return {name: value[()] for name, value in file.items()}


@pytest.mark.parametrize("batch_size", [4, 256])
def test_plain_embeddings_are_in_the_order_of_the_csv(
    batch_size, trained, expected, dataset, tmp_path
):
    run(trained, dataset, f"--filename={tmp_path / 'out.h5'}", f"--batch_size={batch_size}")
    file = read(tmp_path / "out.h5")
    assert file.keys() == {"emb", "augmentation_types", "fids"}
    assert [fid.decode() for fid in file["fids"]] == list(dataset.fids)
    assert embeddings_file.origin(tmp_path / "out.h5") == Origin(
        checkpoint=str(trained / "checkpoint-3"),
        augmentation_types=("original_resize",),
        image_root=str(dataset.root),
        network=checkpoint_paths.fingerprint(trained / "checkpoint-3"),
        data=json.dumps(provenance.fingerprint([dataset.csv], load(dataset.csv), dataset.root)),
    )
    assert file["emb"].dtype == np.float32
    assert file["augmentation_types"].tolist() == [b"original_resize"]
    close(file["emb"], expected(False, None)[0])


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_the_suffix_of_the_file_tells_its_kind(name, trained, expected, dataset, tmp_path):
    views = ["--flip_augment", "--aggregator=mean"]
    run(trained, dataset, f"--filename={tmp_path / name}", *views)
    embs, fids = embeddings_file.load_alone(tmp_path / name)
    close(embs, expected(True, None).mean(axis=0))
    assert fids == (None if name == "out.npy" else list(dataset.fids))


def test_the_default_name_is_that_of_the_dataset(trained, expected, dataset):
    run(trained, dataset, "--crop_augment=center")
    close(read(trained / "all_embeddings.h5")["emb"], expected(False, "center")[0])


def test_images_are_turned_as_in_the_training(trained, tmp_path):
    root = tmp_path / "exp"
    shutil.copytree(trained, root)
    args = json.loads((root / "args.json").read_text())
    (root / "args.json").write_text(json.dumps(args | {"orientation": "exif"}))
    paths = [tmp_path / f"{orientation}.png" for orientation in range(1, 9)]
    for orientation, path in enumerate(paths, 1):
        path.write_bytes(oriented(orientation, format="PNG"))
    (tmp_path / "turned.csv").write_text("".join(f"1,{path.name}\n" for path in paths))
    argv = [f"--dataset={tmp_path}/turned.csv", f"--image_root={tmp_path}", "--crop_augment=center"]
    turned = [np.asarray(ImageOps.exif_transpose(Image.open(path))) for path in paths]
    stored = [np.asarray(Image.open(path)) for path in paths]
    embedder = embed.Embedder(root, crop_augment="center")
    for folder, images, orientation in ((root, turned, "exif"), (trained, stored, None)):
        filename = tmp_path / f"{orientation}.h5"
        flags = [f"--experiment_root={folder}", f"--filename={filename}"]
        embed.main(embed.parse_args([*argv, *flags]))
        close(read(filename)["emb"], embedder(images))
        assert embeddings_file.origin(filename).orientation == orientation


def test_several_data_sets_are_embedded_in_one_start(trained, expected, dataset, tmp_path):
    lines = dataset.csv.read_text().splitlines(keepends=True)
    (tmp_path / "query.csv").write_text("".join(lines[3:7]))
    (tmp_path / "gallery.csv").write_text("".join(lines[::-1]))
    run(trained, dataset, "--dataset", str(tmp_path / "query.csv"), str(tmp_path / "gallery.csv"))
    embs = expected(False, None)[0]
    close(read(trained / "query_embeddings.h5")["emb"], embs[3:7])
    close(read(trained / "gallery_embeddings.h5")["emb"], embs[::-1])


def test_other_embeddings_are_only_replaced_when_asked(trained, expected, dataset, tmp_path, capfd):
    filename = f"--filename={tmp_path / 'out.h5'}"
    lines = dataset.csv.read_text().splitlines(keepends=True)
    (tmp_path / "market").mkdir()
    other = tmp_path / "market" / dataset.csv.name  # another data set of the same file name
    other.write_text("".join(lines[::-1]))

    def embed_again(*more):
        argv = [f"--experiment_root={trained}", f"--dataset={dataset.csv}", filename, *more]
        embed.main(embed.parse_args(argv))
        return capfd.readouterr().err

    assert "Replacing" not in embed_again("--crop_augment=center")
    same = embed_again("--crop_augment=center")
    assert f"Replacing {tmp_path / 'out.h5'}: the same images, embedded alike." in same
    before = (tmp_path / "out.h5").read_bytes()
    for flags, lost in (
        (
            [f"--dataset={other}"],
            f"other images .in row 1 {dataset.fids[0]}, not {dataset.fids[-1]}",
        ),
        (["--checkpoint=checkpoint-0"], "checkpoint .*/checkpoint-3, not .*/checkpoint-0"),
        (
            ["--flip_augment", "--aggregator=mean"],
            "original_center, not original_center, original_f",
        ),
    ):
        flags = ["--crop_augment=center", *flags]
        with pytest.raises(common.UserError, match=f"out.h5 has .*lost: .*{lost}.*--overwrite"):
            embed_again(*flags)
        assert (tmp_path / "out.h5").read_bytes() == before
    assert re.search(
        "Replacing .*out.h5: checkpoint .*/checkpoint-3, not .*/checkpoint-0.",
        embed_again("--crop_augment=center", "--checkpoint=checkpoint-0", "--overwrite"),
    )
    close(read(tmp_path / "out.h5")["emb"], expected(False, "center", "checkpoint-0")[0])


@pytest.mark.parametrize(
    "flip, crop, aggregator",
    [
        (True, None, "mean"),
        (True, "center", "normalized_mean"),
        (False, "five", "normalized_mean"),
        (True, "five", "mean"),
    ],
)
def test_views_are_kept_and_aggregated(
    flip, crop, aggregator, trained, expected, dataset, tmp_path
):
    flags = [f"--filename={tmp_path / 'out.h5'}", f"--aggregator={aggregator}", "--batch_size=25"]
    flags += ["--flip_augment"] if flip else []
    flags += [f"--crop_augment={crop}"] if crop else []
    run(trained, dataset, *flags)
    file, embs = read(tmp_path / "out.h5"), expected(flip, crop)
    assert (
        file["augmentation_types"].astype(str).tolist()
        == Views(small_network.SIZE, flip, crop).names
    )
    close(file["emb_aug"], embs)
    mean = embs.mean(axis=0)
    if aggregator == "normalized_mean":
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    close(file["emb"], mean)


@pytest.fixture
def going_on(trained, tmp_path, monkeypatch):
    """An experiment whose training saves checkpoint-3 and deletes checkpoint-0 while embed.py starts."""
    root = tmp_path / "going on"
    root.mkdir()
    for file in trained.iterdir():
        if not file.name.startswith(("checkpoint-3", "all")):
            shutil.copy(file, root)
    make_strategy = embed.make_strategy

    def save_and_make(name):
        for file in trained.glob("checkpoint-3.*"):
            shutil.copy(file, root)
        for file in root.glob("checkpoint-0.*"):
            file.unlink()
        return make_strategy(name)

    monkeypatch.setattr(embed, "make_strategy", save_and_make)
    return root


def test_beside_a_training_the_newest_checkpoint_is_taken(going_on, expected, dataset, tmp_path):
    run(going_on, dataset, f"--filename={tmp_path / 'out.h5'}")
    close(read(tmp_path / "out.h5")["emb"], expected(False, None)[0])
    made_by = embeddings_file.origin(tmp_path / "out.h5").checkpoint
    assert made_by == str(going_on / "checkpoint-3")


def test_beside_a_training_embeddings_of_an_earlier_checkpoint_are_not_replaced_unasked(
    going_on, dataset
):
    out = going_on / "out.h5"
    origin = Origin(str(going_on / "checkpoint-0"), ("original_resize",), None, str(dataset.root))
    with embeddings_file.create(out, len(dataset.fids), 8, origin, dataset.fids) as file:
        file.add(np.ones((len(dataset.fids), 8)))
    before = out.read_bytes()
    with pytest.raises(common.UserError, match="checkpoint .*checkpoint-0, not .*checkpoint-3"):
        run(going_on, dataset, "--filename=out.h5")
    assert out.read_bytes() == before


def test_a_kill_at_any_operation_on_files_leaves_the_old_file_or_the_new_one(
    trained, dataset, tmp_path
):
    out = tmp_path / "results" / "out.h5"
    out.parent.mkdir()
    command = [f"--filename={out}", "--flip_augment", "--aggregator=mean"]
    run(trained, dataset, *command, "--checkpoint=checkpoint-0")
    old = read(out)
    left = []

    def copy(moment):
        left.append(shutil.copytree(out.parent, tmp_path / str(moment.number)))

    with _file_operations.watched(out.parent, copy):
        run(trained, dataset, *command, "--overwrite")
    new = read(out)
    assert not np.array_equal(new["emb"], old["emb"])
    assert len(left) > 10
    found = [read(folder / "out.h5")["emb"].tobytes() for folder in left]
    assert found == sorted(found, key=[old["emb"].tobytes(), new["emb"].tobytes()].index)
    # Once more, and nothing is left of the kill.
    last = next(
        folder for folder in reversed(left) if any(map(files.is_leftover, folder.iterdir()))
    )
    for folder in (left[len(left) // 2], last):
        run(trained, dataset, f"--filename={folder / 'out.h5'}", *command[1:], "--overwrite")
        assert [path.name for path in folder.iterdir()] == ["out.h5"]
        assert np.array_equal(read(folder / "out.h5")["emb"], new["emb"])


def test_a_checkpoint_by_name(trained, expected, dataset, tmp_path):
    run(trained, dataset, f"--filename={tmp_path / 'out.h5'}", "--checkpoint=checkpoint-0")
    close(read(tmp_path / "out.h5")["emb"], expected(False, None, "checkpoint-0")[0])


@pytest.mark.parametrize(
    "flags, warned",
    [([], True), (["--crop_augment=center"], False), (["--quiet"], False)],
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


def test_a_net_that_takes_only_the_size_of_its_training_is_told_with_avgpool(
    trained, dataset, tmp_path
):
    root = tmp_path / "exp"
    shutil.copytree(trained, root)
    files.write_json(
        root / "args.json", args_json.read(root) | {"pre_crop_height": 96, "pre_crop_width": 64}
    )
    with pytest.raises(
        common.UserError, match="does not fit.*With --crop_augment avgpool images are 96×64"
    ):
        run(root, dataset, "--crop_augment=avgpool", f"--filename={tmp_path / 'out.h5'}")


def test_embedder_is_found_here_and_importing_the_command_imports_no_tensorflow():
    assert embed.Embedder is network.embedder.Embedder
    code = "import sys, embed; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=common.HERE)
    with pytest.raises(AttributeError, match="no attribute 'Embeder'"):
        embed.Embeder  # noqa: B018


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
    "aggregator without views": (
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
    "one filename for two": (
        ["--dataset", "CSV", "CSV", "--filename=x.h5"],
        "--filename: is the file of one dataset. Received: x.h5 for 2 of them",
    ),
    "two of one name": (["--dataset", "CSV", "CSV"], "--dataset: .*have one name.*one by one"),
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
            "--overwrite",
        ],
        "old.h5 has something else.*no embeddings but emb.*--overwrite": [
            f"--filename={tmp_path}/old.h5"
        ],
        "checkpoint-7.*Available: checkpoint-0, checkpoint-3": ["--checkpoint=checkpoint-7"],
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


def test_a_folder_whose_path_is_no_utf_8_is_told(tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"\xff")
    (folder / "exp").mkdir(parents=True)
    monkeypatch.chdir(folder)
    argv = ["--experiment_root=exp", f"--dataset={__file__}"]
    with pytest.raises(
        common.UserError, match=r"path of the experiment should be UTF-8.*udcff/exp"
    ):
        embed.main(embed.parse_args(argv))


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
