"""Trainings of a transformer that is told which camera an image is of: --camera_embeddings."""

import csv
import json
import shutil

import h5py
import numpy as np
import pytest
import replicas
import small_network
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import common
import embed
import evaluate
import export
import search
import train
from benchmarks import kill_and_resume
from common import UserError
from data.dataset import ImageFiles
from experiment import metrics_log
from network import checkpoints, layers, pretrained
from network.embedder import Embedder

NAME = "vit/sie/camera_embeddings"
# A large factor, so that it matters which camera the network is told.
FLAGS = "--model_name=vit_small_patch16 --cameras=market1501 --camera_embeddings=20 --pooling=token"
FLAGS += " --head_name=direct --embedding_dim=8 --net_input_height=24 --net_input_width=16 --drop_path=0.2"
FLAGS += " --batch_p=3 --batch_k=2 --seed=1 --ema=0.5 --chunk=3 --train_iterations=4 --checkpoint_frequency=2"
FLAGS += " --val_excluder=market1501 --val_frequency=2 --image_frequency=0 --detailed_logs"


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with replicas.tiny_transformer():
        yield


def flags_of(dataset):
    sets = [f"--train_set={dataset.csv}", f"--image_root={dataset.root}"]
    return [*sets, f"--val_query={dataset.csv}", f"--val_gallery={dataset.csv}", *FLAGS.split()]


def run(root, *argv):
    train.main(train.parse_args([f"--experiment_root={root}", *argv]))


@pytest.fixture(scope="module")
def trained(dataset, tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("cameras") / "exp"
    run(root, *flags_of(dataset))
    return root


@pytest.fixture(scope="module")
def embedder(trained):
    return Embedder(trained)


@pytest.fixture(scope="module")
def arrays(dataset):
    """The images, of the size of the network's input."""
    return [np.asarray(Image.open(dataset.root / fid)) for fid in dataset.fids]


def of_network(embedder, arrays, numbers):
    """The network's embeddings, one image after the other."""
    embs = []
    for array, number in zip(arrays, numbers, strict=True):
        cameras = None if number is None else tf.constant([number])
        with layers.seen_by(cameras):
            embs.append(embedder.network(array[None].astype(np.float32), training=False)["emb"][0])
    return np.array(embs)


def cameras_of(dataset):
    return [fid[fid.index("_c") + 2] for fid in dataset.fids]


def unknown(arrays):
    return [None] * len(arrays)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------- training


def test_the_cameras_are_recorded_and_a_resumed_training_is_the_whole_one(
    trained, dataset, tmp_path
):
    assert json.loads((trained / "args.json").read_text())["camera_names"] == ["1", "2", "3"]
    vectors = checkpoints.read(trained / "checkpoint-4").get_tensor(NAME)
    begun = checkpoints.read(trained / "checkpoint-0").get_tensor(NAME)
    assert (np.abs(vectors - begun).max(axis=1) > 1e-5).all()
    resumed = shutil.copytree(trained, tmp_path / "resumed")
    for file in resumed.glob("checkpoint-4.*"):
        file.unlink()
    (events,) = resumed.glob("events.out.tfevents.*")
    events.rename(resumed / "events.out.tfevents.1.first")
    run(resumed, *flags_of(dataset), "--start_or_resume")
    assert kill_and_resume.differences(trained, resumed) == []


def test_a_validation_is_told_cameras(trained, embedder, dataset, arrays, tmp_path):
    """It finds what evaluate.py finds with embed.py's embeddings, and not without cameras."""
    embed.main(
        embed.parse_args([f"--experiment_root={trained}", f"--dataset={dataset.csv}", "--quiet"])
    )
    file = trained / "all_embeddings.h5"
    result = tmp_path / "result.json"
    argv = [f"--{part}_dataset={dataset.csv}" for part in ("query", "gallery")]
    argv += ["--excluder=market1501", "--metric=euclidean", f"--filename={result}"]

    def mean_ap(file):
        files = [f"--{part}_embeddings={file}" for part in ("query", "gallery")]
        evaluate.main(evaluate.parse_args([*argv, *files]))
        return json.loads(result.read_text())["mAP"]

    (*_, last) = (line for line in metrics_log.read(trained) if "validation/mAP" in line)
    assert mean_ap(file) == pytest.approx(last["validation/mAP"], abs=1e-6)
    with h5py.File(file) as stored:
        names = [{"1": 0, "2": 1, "3": 2}[camera] for camera in cameras_of(dataset)]
        close(stored["emb"], of_network(embedder, arrays, names))
    shutil.copy(file, tmp_path / "other.h5")
    with h5py.File(tmp_path / "other.h5", "r+") as stored:
        stored["emb"][:] = of_network(embedder, arrays, unknown(arrays))
    assert abs(mean_ap(tmp_path / "other.h5") - last["validation/mAP"]) > 0.005


def test_another_training_takes_all_but_the_cameras(trained, dataset):
    net = replicas.build_tiny((24, 16, 3), cameras=(3, 1.0))
    variables = checkpoints.named_variables(net)
    before = variables[NAME].numpy()
    loaded = pretrained.load_net(trained, "vit_small_patch16", variables)
    assert loaded.missing == [] and NAME in loaded.passed_over
    np.testing.assert_array_equal(variables[NAME], before)
    other = train.parse_args(["--experiment_root=x", f"--like={trained}"])
    assert other.settings.camera_embeddings == 20 and other.settings.camera_names is None


# ------------------------------------------------------------------------- embedding


def test_files_and_arrays_are_told_the_same_cameras(embedder, dataset, arrays):
    names = cameras_of(dataset)
    expected = of_network(embedder, arrays, [int(name) - 1 for name in names])
    paths = [dataset.root / fid for fid in dataset.fids]
    close(embedder(paths), expected)
    close(embedder(paths[:3]), expected[:3])  # so few are loaded in another way
    close(embedder(ImageFiles(list(map(str, paths)))), expected)
    close(embedder(arrays, names), expected)
    close(embedder(paths, names[::-1])[:1], of_network(embedder, arrays[:1], [int(names[-1]) - 1]))


def test_every_view_of_an_image_is_of_its_camera(trained, dataset, arrays):
    views = Embedder(trained, flip_augment=True, aggregator="mean", batch_size=6)
    numbers = [int(name) - 1 for name in cameras_of(dataset)]
    mirrored = [array[:, ::-1] for array in arrays]
    expected = [of_network(views, each, numbers) for each in (arrays, mirrored)]
    close(views(arrays, cameras_of(dataset)), np.mean(expected, axis=0))


def test_an_image_of_another_camera_is_of_the_mean_of_all(embedder, arrays, capfd):
    vectors = next(each for each in embedder.network.weights if each.name == "camera_embeddings")
    own = of_network(embedder, arrays, [0] * len(arrays))
    expected = of_network(embedder, arrays, unknown(arrays))
    assert np.abs(own - expected).max() > 1e-3
    before = vectors.numpy()
    vectors.assign(np.tile(before.mean(axis=0), (3, 1)))
    close(of_network(embedder, arrays, [2] * len(arrays)), expected)
    vectors.assign(before)

    close(embedder(arrays), expected)
    names = ["2", "7", "", *["1"] * (len(arrays) - 3)]
    got = embedder(arrays, names)
    close(got[:4], of_network(embedder, arrays[:4], [1, None, None, 0]))
    told = capfd.readouterr().err
    N = len(arrays)
    assert f"{N} of {N} images are of cameras that the network was not trained with: none." in told
    assert f"2 of {N} images are of cameras that the network was not trained with: none, 7." in told
    close(embedder.embed_loaded(np.array(arrays, np.float32)), expected)  # as the server does


def test_a_search_tells_each_query_its_camera(trained, embedder, dataset, tmp_path):
    embed.main(
        embed.parse_args([f"--experiment_root={trained}", f"--dataset={dataset.csv}", "--quiet"])
    )
    argv = [f"--experiment_root={trained}", f"--gallery={dataset.csv}", "--top_k=1"]
    argv += [f"--query={dataset.root / dataset.fids[4]}", f"--filename={tmp_path / 'found.csv'}"]
    search.main(search.parse_args(argv))
    with open(tmp_path / "found.csv", newline="") as file:
        (found,) = csv.DictReader(file)
    assert found["fid"] == dataset.fids[4] and float(found["distance"]) < 1e-4


def test_an_export_takes_the_mean(trained, embedder, arrays, tmp_path, capfd):
    argv = [f"--experiment_root={trained}", f"--directory={tmp_path / 'out'}", "--formats"]
    export.main(export.parse_args([*argv, "litert", "safetensors"]))
    assert "Images count as of no known camera" in capfd.readouterr().err
    assert "images count as of no known camera" in (tmp_path / "out" / "README.md").read_text()
    runner = Interpreter(str(tmp_path / "out" / "model.tflite")).get_signature_runner()
    got = runner(images=np.array(arrays, np.float32))["emb"]
    close(got, of_network(embedder, arrays, unknown(arrays)))


# ------------------------------------------------------------------------- what is refused


def test_cameras_that_do_not_fit_the_images_or_the_network_are_refused(embedder, arrays, tmp_path):
    with pytest.raises(UserError, match=r"one for each of the 2 images. Received: 3\."):
        embedder(arrays[:2], ["1", "2", "3"])
    small_network.write_experiment(tmp_path / "plain")
    with pytest.raises(UserError, match="the network takes none: .* no --camera_embeddings"):
        Embedder(tmp_path / "plain")(arrays[:1], ["1"])


def test_a_checkpoint_without_args_json_is_refused(trained, tmp_path):
    root = shutil.copytree(trained, tmp_path / "exp")
    (root / "args.json").unlink()
    flags = {"model_name": "vit_small_patch16", "head_name": "direct", "embedding_dim": 8}
    with pytest.raises(UserError, match=r"has embeddings of cameras.*Copy the args\.json"):
        Embedder(root, **flags, net_input_height=24, net_input_width=16)


def test_a_camera_that_has_no_name_is_refused(trained, dataset, tmp_path):
    named = [*flags_of(dataset), "--camera_names", "1", "2"]
    with pytest.raises(UserError, match="cameras that --camera_names lacks: 3. Received: 1, 2."):
        run(tmp_path / "new", *named)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--camera_embeddings=3"], "--camera_embeddings 3 needs --cameras"),
        (
            ["--camera_embeddings=3", "--cameras=column", "--model_name=resnet50"],
            "--camera_embeddings 3.0 is not for --model_name resnet50. Nets that have it: vit_base_patch14_dinov2",
        ),
        (
            ["--camera_embeddings=3", "--cameras=column", "--camera_names", "a", "b", "a"],
            "each camera once. Received twice: a",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(more, message, dataset, capsys):
    argv = ["--experiment_root=x", f"--train_set={dataset.csv}", f"--image_root={dataset.root}"]
    argv += ["--model_name=vit_small_patch16", *more]
    with pytest.raises(SystemExit):
        train.parse_args(argv)
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_shuffle_may_tell_cameras(dataset):
    argv = ["--experiment_root=x", f"--train_set={dataset.csv}", f"--image_root={dataset.root}"]
    argv += ["--model_name=vit_small_patch16", "--sampler=shuffle", "--id_loss_weight=1"]
    argv += ["--cameras=market1501"]
    assert train.parse_args([*argv, "--camera_embeddings=3"]).settings.camera_rule == "market1501"
    with pytest.raises(SystemExit):
        train.parse_args(argv)


def test_it_is_off_by_default(dataset):
    argv = ["--experiment_root=x", f"--train_set={dataset.csv}", f"--image_root={dataset.root}"]
    settings = train.parse_args([*argv, "--cameras=market1501"]).settings
    assert settings.camera_rule is None and settings.camera_numbers == {}
    assert "cameras" in common.build_options("nets", "vit_small_patch16")
    names = checkpoints.named_variables(replicas.build_tiny((24, 16, 3)))
    assert not any("camera" in name for name in names)
