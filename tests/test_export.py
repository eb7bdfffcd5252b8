import base64
import gc
import json
import os
import re
import resource
import subprocess
import sys

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
import small_network
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from image_kinds import BY_PILLOW, BY_TENSORFLOW, REFUSED, oriented
from PIL import Image
from safetensors import safe_open
from small_network import SIZE

import common
import export
from experiment import args_json
from experiment.flags import Settings
from network import checkpoints, formats, model, pretrained
from network.embedder import Embedder
from reports import model_card
from runtime import files

# Reloads with nothing of ours, and answers a request as TensorFlow Serving does: what is {"b64": ...}
# in JSON comes to the signature as bytes.
ALONE = """
import base64, json, sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1] + "/saved_model")
request = json.load(open(sys.argv[3]))
signature = model.signatures[request["signature_name"]]
files = [base64.b64decode(each["image_bytes"]["b64"]) for each in request["instances"]]
np.save(sys.argv[2], signature(image_bytes=tf.constant(files))["emb"])
assert not [name for name in sys.modules if name.split(".")[0] in ("network", "nets", "heads", "data")]
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments") / "exp"
    small_network.write_experiment(
        root, head_name="fc1024_normalize", crop_augment=False, orientation="exif"
    )
    return root


@pytest.fixture(scope="module")
def embedder(experiment):
    """Embeds as the exported networks should."""
    return Embedder(experiment)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEG files of different sizes, and a PNG."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = [folder / name for name in ("0.jpg", "1.jpg", "2.jpg", "3.png")]
    for path, size in zip(paths, [(16, 24), (31, 50), (40, 12), (60, 90)], strict=True):
        small = Image.fromarray(rng.integers(0, 256, (6, 4, 3), np.uint8))
        small.resize(size).save(path)
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


def test_saved_model_embeds_files_in_a_process_without_us(embedder, exported, photos, tmp_path):
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in photos]
    instances = [{"image_bytes": {"b64": text}} for text in encoded]
    request = {"signature_name": "encoded", "instances": instances}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [
        sys.executable,
        "-c",
        ALONE,
        exported,
        tmp_path / "emb.npy",
        tmp_path / "request.json",
    ]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    emb = np.load(tmp_path / "emb.npy")
    assert emb.dtype == np.float32
    np.testing.assert_allclose(emb, embedder(photos), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [SIZE, (40, 33)])
def test_saved_model_embeds_decoded_images_of_any_size(size, embedder, exported):
    images = np.random.default_rng(1).integers(0, 256, (3, *size, 3), np.uint8)
    signatures = tf.saved_model.load(exported / "saved_model").signatures
    assert set(signatures) == {"images", "encoded", "serving_default"}
    expected = embedder(images)
    for name in ("images", "serving_default"):
        emb = signatures[name](images=tf.constant(images))["emb"].numpy()
        np.testing.assert_allclose(emb, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [*BY_TENSORFLOW, "JPEG with EXIF"])
def test_saved_model_embeds_what_files_show(kind, embedder, exported, tmp_path):
    file = oriented(6) if kind == "JPEG with EXIF" else BY_TENSORFLOW[kind][0]
    (tmp_path / "file").write_bytes(file)
    encoded = tf.saved_model.load(exported / "saved_model").signatures["encoded"]
    emb = encoded(image_bytes=tf.constant([file]))["emb"].numpy()
    np.testing.assert_allclose(emb, embedder([tmp_path / "file"]), rtol=1e-4, atol=1e-6)


def test_saved_model_refuses_what_it_would_show_wrong(exported):
    encoded = tf.saved_model.load(exported / "saved_model").signatures["encoded"]
    for file, _, _ in BY_PILLOW.values():
        with pytest.raises(tf.errors.InvalidArgumentError, match="save it as PNG"):
            encoded(image_bytes=tf.constant([file]))
    for file, _ in REFUSED.values():
        with pytest.raises(tf.errors.InvalidArgumentError):
            encoded(image_bytes=tf.constant([file]))


def test_crops_and_checkpoints_are_chosen_as_in_embed(experiment, embedder, photos, tmp_path):
    run(experiment, tmp_path / "out", "--crop_augment=center", "--checkpoint=checkpoint-0")
    encoded = tf.saved_model.load(tmp_path / "out/saved_model").signatures["encoded"]
    emb = encoded(image_bytes=tf.constant([path.read_bytes() for path in photos]))["emb"].numpy()
    expected = Embedder(experiment, "checkpoint-0", crop_augment="center")(photos)
    np.testing.assert_allclose(emb, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(emb - embedder(photos)).max() > 1e-3


def test_a_generalized_mean_and_a_neck_are_exported(photos, tmp_path):
    root = tmp_path / "exp"
    root.mkdir()
    names = {"model_name": "mobilenet_v1_1_224", "head_name": "bnneck", "embedding_dim": 1024}
    options = {"pooling": "gem", "last_stride": 1}
    size = {"net_input_height": SIZE[0], "net_input_width": SIZE[1]}
    files.write_json(root / "args.json", names | options | size)
    network = model.build(
        **names, input_shape=(*SIZE, 3), options={"pooling": None, "last_stride": 1}
    )
    state = checkpoints.named_variables(network)
    for name, variable in state.items():
        if name.endswith("moving_variance"):
            variable.assign(np.full(variable.shape, 0.03))  # maps neither vanish nor explode
    state["gem/p"].assign(2.0)
    checkpoints.save(root, 1, state)
    run(root, tmp_path / "out")
    encoded = tf.saved_model.load(tmp_path / "out/saved_model").signatures["encoded"]
    emb = encoded(image_bytes=tf.constant([path.read_bytes() for path in photos]))["emb"].numpy()
    expected = Embedder(root)(photos)
    assert emb.shape == (4, 1024) and np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(emb, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def images():
    """Of the network's input size, as model.onnx and model.tflite take them."""
    return np.random.default_rng(2).uniform(0, 255, (3, *SIZE, 3)).astype(np.float32)


def test_litert_embeds_as_we_do(images, embedder, exported):
    runner = Interpreter(str(exported / "model.tflite")).get_signature_runner()
    emb = runner(images=images)["emb"]
    np.testing.assert_allclose(emb, embedder(images), rtol=1e-4, atol=1e-5)
    # Operations beyond LiteRT's own begin with Flex; phones lack them.
    assert b"Flex" not in (exported / "model.tflite").read_bytes()


def test_onnx_embeds_as_we_do(images, embedder, experiment, tmp_path):
    thresholds = gc.get_threshold()
    run(experiment, tmp_path / "out", "--formats", "onnx")
    assert gc.get_threshold() == thresholds and not gc.get_freeze_count()
    session = onnxruntime.InferenceSession(
        tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"]
    )
    (emb,) = session.run(["emb"], {"images": images})
    np.testing.assert_allclose(emb, embedder(images), rtol=1e-4, atol=1e-5)


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

    monkeypatch.setitem(formats.WRITERS, "saved_model", full)
    with pytest.raises(
        common.UserError, match="cannot write saved_model: No space left.*Make room"
    ):
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


def test_every_format_is_written():
    assert formats.WRITERS.keys() == export.FORMATS.keys()


def test_a_second_export_into_a_directory_ends_at_once(tmp_path):
    with (
        files.complete_directory(tmp_path / "out"),
        pytest.raises(common.UserError, match="out is being written by another process"),
    ):
        run(tmp_path / "no experiment", tmp_path / "out")  # which would be told next
    with pytest.raises(common.UserError, match="no experiment"):
        run(tmp_path / "no experiment", tmp_path / "out")


@pytest.mark.parametrize("name", ["saved_model", "litert"])
def test_a_full_disk_is_told_and_nothing_is_left(name, experiment, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(common.UserError, match=f"cannot write {name}: .*too large.*Make room"):
            run(experiment, tmp_path / "out", "--formats", name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------- safetensors, model card


@pytest.fixture(scope="module")
def weights(experiment, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "weights"
    evaluation = {"mAP": 0.5, "CMC": [0.75], "made": {"flags": {"excluder": "a|b"}, "query": {}}}
    files.write_json(experiment / "result.json", evaluation)
    run(experiment, directory, "--formats", "safetensors")
    return directory


def test_our_safetensors_are_loaded_again_bit_for_bit(experiment, weights):
    assert sorted(path.name for path in weights.iterdir()) == ["README.md", "model.safetensors"]
    with safe_open(weights / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
        names = set(file.keys())
    stored = json.loads(metadata["flags"])
    assert (stored["model_name"], stored["embedding_dim"]) == ("lunet_narrow", small_network.DIM)
    assert metadata["checkpoint"] == "checkpoint-3" and "experiment_root" not in stored
    net = common.load_plugin("nets", "lunet_narrow").build((*SIZE, 3))
    wanted = checkpoints.named_variables(net)
    told = pretrained.load_net(weights / "model.safetensors", "lunet_narrow", wanted)
    assert set(told.taken) == set(wanted) and not told.missing
    assert set(told.passed_over) == names - set(wanted)  # the head
    reader = checkpoints.read(experiment / "checkpoint-3")
    for name, variable in wanted.items():
        np.testing.assert_array_equal(variable, reader.get_tensor(name))


def test_folders_of_a_machine_are_not_published(tmp_path):
    flags = Settings(
        experiment_root=str(tmp_path / "exp"),
        train_set=[str(tmp_path / "a.csv"), "b/c.csv"],
        initial_checkpoint="hf:timm/x",
        image_root=str(tmp_path / "images"),
    )
    values = args_json.shareable(flags)
    assert str(tmp_path) not in json.dumps(values)
    assert (values["train_set"], values["image_root"]) == (["a.csv", "b/c.csv"], "images")
    assert values["initial_checkpoint"] == "hf:timm/x"


def test_the_model_card_has_data_figures_and_flags(weights):
    card = (weights / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: triplet-reid\n")
    assert "`lunet_narrow` with the head `fc1024_normalize`" in card
    assert "a\\|b | plain | 50.0% | 75.0% |" in card
    assert "does not say what it was trained on" in card
    assert "--model_name lunet_narrow --head_name fc1024_normalize" in card
    assert "--initial_checkpoint model.safetensors" in card and "saved_model" not in card


@pytest.mark.parametrize(
    "crop, resized, taken",
    [
        (None, "resized to 24 by 16 pixels (height by width) |", "[N, 24, 16, 3]"),
        ("center", "28 by 18 pixels (height by width), of which the 24 by 16 at the center", "[N, 24, 16, 3]"),
        ("avgpool", "resized to 28 by 18 pixels (height by width) |", "[N, 28, 18, 3]"),
    ],
)  # fmt: skip
def test_the_model_card_tells_the_images_that_were_exported_for(crop, resized, taken, experiment):
    flags, _ = args_json.load(experiment)
    network = model_card.Network(flags, "checkpoint-3", None, ["onnx", "litert"], crop)
    card = model_card.text(experiment, network)
    assert resized in card and card.count(f"of {taken}") == 2


class Hub:
    """Stands in for huggingface_hub.HfApi."""

    def __init__(self, fails=None):
        self.calls = []
        self.fails = fails

    def __call__(self):
        return self

    def create_repo(self, repository, private, exist_ok):
        self.calls.append(("create", repository, private, exist_ok))
        if self.fails == "create":
            raise OSError("no token")

    def upload_folder(self, repo_id, folder_path):
        self.calls.append(("upload", repo_id, sorted(os.listdir(folder_path))))
        if self.fails == "upload":
            raise OSError("no connection")


def push(experiment, directory, monkeypatch, fails=None):
    api = Hub(fails)
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    run(experiment, directory, "--formats", "safetensors", "--push_to_hub", "me/net")
    return api.calls


def test_a_folder_is_uploaded_as_it_is(experiment, tmp_path, monkeypatch):
    calls = push(experiment, tmp_path / "out", monkeypatch)
    files_of = ["README.md", "model.safetensors"]
    assert calls == [("create", "me/net", True, True), ("upload", "me/net", files_of)]
    assert "--initial_checkpoint hf:me/net" in (tmp_path / "out/README.md").read_text()


def test_an_upload_that_fails_leaves_what_was_written(experiment, tmp_path, monkeypatch):
    with pytest.raises(common.UserError, match=r"me/net is not possible: no token. Log in"):
        push(experiment, tmp_path / "out", monkeypatch, "create")
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        common.UserError, match="out is written, but was not.*no connection.*hf upl"
    ):
        push(experiment, tmp_path / "out", monkeypatch, "upload")
    assert (tmp_path / "out/model.safetensors").exists()
    with pytest.raises(common.UserError, match="should be like owner/name. Received: net"):
        run(experiment, tmp_path / "other", "--push_to_hub", "net")
