import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import common
from nets import _vit
from network import checkpoints, model
from reports.activations import Activations, _stretched, last_maps
from runtime import files


@pytest.mark.parametrize(
    "name, shape, averaged",
    [
        ("lunet_narrow", (2, 4, 2, 64), False),  # its last maps go through dense layers
        (
            "mobilenet_v1_1_224",
            (2, 2, 1, 1024),
            True,
        ),  # after them comes their mean, also of rank 4
        ("resnet50", (2, 2, 1, 2048), True),  # a model within the model, behind operations
    ],
)
def test_the_maps_are_the_last_before_the_features(name, shape, averaged):
    size = (64, 32)
    net = common.load_plugin("nets", name).build((*size, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.float32)
    maps = last_maps(net)(images, training=False).numpy()
    assert maps.shape == shape
    if averaged:
        np.testing.assert_allclose(
            maps.mean(axis=(1, 2)), net(images, training=False), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("class_token", [False, True])
def test_the_maps_of_a_vision_transformer_are_its_last_patch_tokens(class_token):
    shape = _vit.Shape(patch=8, channels=64, depth=1)
    net = _vit.build((24, 16, 3), "vit", shape, class_token=class_token)
    images = np.random.default_rng(0).uniform(0, 255, (2, 24, 16, 3)).astype(np.float32)
    tokens = keras.Model(net.input, net.get_layer("vit.norm").output)(images).numpy()
    expected = tokens[:, 1:].reshape(2, 3, 2, 64)
    np.testing.assert_array_equal(last_maps(net)(images), expected)


def test_a_net_without_maps_has_none():
    images = keras.Input((8, 8, 3))
    features = keras.layers.Dense(4)(keras.layers.Flatten()(images))
    assert last_maps(keras.Model(images, features)) is None


def test_maps_are_stretched_to_0_and_1_each_and_flat_ones_are_0():
    strengths = np.float32([[[1, 3], [2, 5]], [[4, 4], [4, 4]]])
    np.testing.assert_array_equal(_stretched(strengths), [[[0, 0.5], [0.25, 1]], [[0, 0], [0, 0]]])


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments")
    args = {
        "model_name": "lunet_narrow",
        "head_name": "direct",
        "embedding_dim": 4,
        "crop_augment": True,
    }
    args |= {
        "net_input_height": 64,
        "net_input_width": 32,
        "pre_crop_height": 72,
        "pre_crop_width": 36,
    }
    files.write_json(root / "args.json", args)
    keras.utils.set_random_seed(1)
    network = model.build("lunet_narrow", "direct", 4, (64, 32, 3))
    checkpoints.save(root, 0, checkpoints.named_variables(network))
    return root, network


def test_files_have_the_lengths_of_their_maps(experiment, dataset):
    root, network = experiment
    paths = [str(dataset.root / fid) for fid in dataset.fids]
    maps = Activations(root)(paths)
    assert (maps.shape, maps.dtype) == ((len(paths), 4, 2), np.float32)
    for path, map_ in zip(paths[:3], maps, strict=False):
        with Image.open(path) as image:
            resized = tf.compat.v1.image.resize(np.asarray(image)[None], (64, 32))
        values = (
            last_maps(model.net_of(network))(resized, training=False).numpy()[0].astype(np.float64)
        )
        lengths = np.array([[np.sqrt((place**2).sum()) for place in row] for row in values])
        expected = (lengths - lengths.min()) / (lengths.max() - lengths.min())
        np.testing.assert_allclose(map_, expected, atol=1e-4)


def test_a_file_that_cannot_be_decoded_is_named(experiment, dataset, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(common.UserError, match="bad.png cannot be read"):
        Activations(experiment[0])([dataset.root / dataset.fids[0], tmp_path / "bad.png"])


def test_a_net_without_maps_is_refused(experiment, monkeypatch):
    monkeypatch.setattr("reports.activations.last_maps", lambda net: None)
    with pytest.raises(common.UserError, match="lunet_narrow, has no layer that gives maps"):
        Activations(experiment[0])
