import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import common
import embed
import export
from network import checkpoints, model
from runtime import files

SIZE = (24, 16)
# Reloads with nothing of ours.
ALONE = """
import sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1] + "/saved_model")
files = [open(name, "rb").read() for name in sys.argv[3:]]
np.save(sys.argv[2], model.signatures["encoded"](image_bytes=tf.constant(files))["emb"])
assert not [name for name in sys.modules if name.split(".")[0] in ("layers", "model", "nets", "heads", "data")]
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments") / "exp"
    root.mkdir()
    args = {
        "model_name": "lunet_narrow",
        "head_name": "fc1024_normalize",
        "embedding_dim": 8,
        "crop_augment": False,
    }
    args |= {
        "net_input_height": 24,
        "net_input_width": 16,
        "pre_crop_height": 28,
        "pre_crop_width": 18,
    }
    files.write_json(root / "args.json", args)
    for iteration in (0, 3):
        network = model.build("lunet_narrow", "fc1024_normalize", 8, (*SIZE, 3))
        rng = np.random.default_rng(iteration)
        for name, variable in checkpoints.named_variables(network).items():
            if not name.endswith("weights"):  # running statistics too should matter
                variable.assign(variable.numpy() + rng.uniform(0, 0.5, variable.shape))
        checkpoints.save(root, iteration, checkpoints.named_variables(network))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEG files of different sizes, and a PNG."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for number, (height, width) in enumerate([(24, 16), (50, 31), (12, 40), (90, 60)]):
        small = Image.fromarray(rng.integers(0, 256, (6, 4, 3), np.uint8))
        paths.append(folder / (f"{number}.jpg" if number < 3 else f"{number}.png"))
        small.resize((width, height)).save(paths[-1])
    return paths


def run(experiment, directory, *more):
    export.main(
        export.parse_args([f"--experiment_root={experiment}", f"--directory={directory}", *more])
    )


@pytest.fixture(scope="module")
def exported(experiment, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "all"
    run(experiment, directory, "--formats", "saved_model", "litert")
    return directory


def test_only_what_was_asked_for_is_there(exported):
    assert sorted(path.name for path in exported.iterdir()) == ["model.tflite", "saved_model"]
    assert [path.name for path in exported.parent.iterdir()] == ["all"]


def test_saved_model_embeds_files_in_a_process_without_us(experiment, exported, photos, tmp_path):
    command = [sys.executable, "-c", ALONE, exported, tmp_path / "emb.npy", *photos]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    emb = np.load(tmp_path / "emb.npy")
    assert emb.dtype == np.float32
    np.testing.assert_allclose(emb, embed.Embedder(experiment)(photos), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [SIZE, (40, 33)])
def test_saved_model_embeds_decoded_images_of_any_size(size, experiment, exported):
    images = np.random.default_rng(1).integers(0, 256, (3, *size, 3), np.uint8)
    signatures = tf.saved_model.load(exported / "saved_model").signatures
    assert set(signatures) == {"images", "encoded", "serving_default"}
    expected = embed.Embedder(experiment)(images)
    for name in ("images", "serving_default"):
        emb = signatures[name](images=tf.constant(images))["emb"].numpy()
        np.testing.assert_allclose(emb, expected, rtol=1e-4, atol=1e-6)


def test_crops_and_checkpoints_are_chosen_as_in_embed(experiment, photos, tmp_path):
    run(experiment, tmp_path / "out", "--crop_augment=center", "--checkpoint=checkpoint-0")
    encoded = tf.saved_model.load(tmp_path / "out/saved_model").signatures["encoded"]
    emb = encoded(image_bytes=tf.constant([path.read_bytes() for path in photos]))["emb"].numpy()
    expected = embed.Embedder(experiment, "checkpoint-0", crop_augment="center")(photos)
    np.testing.assert_allclose(emb, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(emb - embed.Embedder(experiment)(photos)).max() > 1e-3


def test_a_generalised_mean_and_a_neck_are_exported(photos, tmp_path):
    root, names = tmp_path / "exp", ("mobilenet_v1_1_224", "bnneck", 1024)
    root.mkdir()
    args = {"net_input_height": 24, "net_input_width": 16, "pooling": "gem", "last_stride": 1}
    args |= dict(zip(("model_name", "head_name", "embedding_dim"), names, strict=True))
    files.write_json(root / "args.json", args)
    state = checkpoints.named_variables(model.build(*names, (*SIZE, 3), "gem", 1))
    for name, variable in state.items():
        if name.endswith("moving_variance"):
            variable.assign(np.full(variable.shape, 0.03))  # maps neither vanish nor explode
    state["gem/p"].assign(2.0)
    checkpoints.save(root, 1, state)
    run(root, tmp_path / "out")
    encoded = tf.saved_model.load(tmp_path / "out/saved_model").signatures["encoded"]
    emb = encoded(image_bytes=tf.constant([path.read_bytes() for path in photos]))["emb"].numpy()
    expected = embed.Embedder(root)(photos)
    assert emb.shape == (4, 1024) and np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(emb, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def inputs_and_embeddings(experiment):
    embedder = embed.Embedder(experiment)
    images = np.random.default_rng(2).uniform(0, 255, (3, *SIZE, 3)).astype(np.float32)
    return images, embedder(images)


def test_litert_embeds_as_we_do(experiment, exported):
    images, expected = inputs_and_embeddings(experiment)
    runner = Interpreter(str(exported / "model.tflite")).get_signature_runner()
    np.testing.assert_allclose(runner(images=images)["emb"], expected, rtol=1e-4, atol=1e-5)
    # Operations beyond LiteRT's own begin with Flex; phones lack them.
    assert b"Flex" not in (exported / "model.tflite").read_bytes()


def test_onnx_embeds_as_we_do(experiment, tmp_path):
    run(experiment, tmp_path / "out", "--formats", "onnx")
    images, expected = inputs_and_embeddings(experiment)
    session = onnxruntime.InferenceSession(
        tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"]
    )
    (emb,) = session.run(["emb"], {"images": images})
    np.testing.assert_allclose(emb, expected, rtol=1e-4, atol=1e-5)


def test_onnx_without_its_packages_is_told(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "tf2onnx" else name)
    with pytest.raises(
        common.UserError,
        match=r"--formats onnx needs tf2onnx: pip install -e \"\.\[export\]\"",
    ):
        run(experiment, tmp_path / "out", "--formats", "saved_model", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_told(experiment, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").touch()
    for name in ("file", "full"):
        with pytest.raises(
            common.UserError, match=f"--directory .*{name} exists and is no empty directory"
        ):
            run(experiment, tmp_path / name)
    with pytest.raises(
        common.UserError, match="nowhere/out cannot be written: .*nowhere is no writeable directory"
    ):
        run(experiment, tmp_path / "nowhere/out")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "file",
        "full",
        "full/precious",
    ]


def test_what_goes_wrong_leaves_nothing(experiment, tmp_path, monkeypatch):
    def full(embedder, directory):
        (directory / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_saved_model", full)
    with pytest.raises(OSError, match="No space left"):
        run(experiment, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--formats", "pb"], "--formats: invalid choice: 'pb' .*saved_model.*onnx.*litert"),
        (["--crop_augment=five"], "--crop_augment: invalid choice: 'five'"),
        ([], "--directory"),
    ],
)
def test_a_bad_flag_ends_with_what_is_wrong(flags, message, capsys):
    directory = ["--directory=out"] if flags else []
    with pytest.raises(SystemExit) as end:
        export.parse_args(["--experiment_root=exp", *directory, *flags])
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])
