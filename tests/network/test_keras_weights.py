"""Pretrained weights as Keras saves them and downloads them."""

import shutil

import h5py
import keras
import numpy as np
import pytest
from golden.nets import deviation
from keras_nets import SMALL, images, keras_features, net_of, original, scramble, weights

import common
from common import UserError
from network import checkpoints, model, pretrained

# Keras' own saver and NumPy 2 do not agree.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


@pytest.fixture(scope="module")
def small():
    """The lightest net, and Keras' own with other weights."""
    net, theirs = net_of(SMALL), original(SMALL)
    scramble(theirs.weights)
    return net, theirs


@pytest.fixture(scope="module")
def lunet():
    """The variables of a net that is none of Keras'."""
    return weights(net_of("lunet_narrow", (48, 48)))


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
    """A weights file that fits the lightest net."""
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    small[1].save_weights(path)
    return path


def test_weights_of_keras_resnet50_are_loaded(tmp_path):
    theirs = keras.applications.ResNet50(weights=None)
    scramble(theirs.weights)
    path = tmp_path / "resnet50.weights.h5"
    theirs.save_weights(path)
    net = net_of("resnet50", (224, 224))
    loaded = pretrained.load_net(path, "resnet50", checkpoints.named_variables(net))
    assert (loaded.taken, loaded.missing) == (list(weights(net)), [])
    assert loaded.passed_over == ["predictions/0", "predictions/1"]
    batch = images(224, 224, count=1)
    features = keras.Model(theirs.input, theirs.get_layer("avg_pool").output)
    expected = keras_features("resnet50", features, batch).numpy()
    assert deviation(net(batch, training=False), expected) < 1e-5


def check_that_all_is_loaded(path, name, net, theirs):
    variables = weights(net)
    for variable in variables.values():
        variable.assign(np.zeros(variable.shape))
    loaded = pretrained.load_net(path, name, checkpoints.named_variables(net))
    assert (loaded.taken, loaded.passed_over, loaded.missing) == (list(variables), [], [])
    for ours, weight in zip(variables.values(), theirs.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), weight.numpy())


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5", "a.h5"])
def test_every_format_of_keras_is_loaded(name, small, tmp_path):
    net, theirs = small
    (theirs.save_weights if ".weights." in name else theirs.save)(tmp_path / name)
    check_that_all_is_loaded(tmp_path / name, SMALL, net, theirs)


def test_layers_that_keras_numbers_are_loaded(tmp_path):
    theirs = original("convnext_tiny")
    scramble(theirs.weights)
    theirs.save_weights(tmp_path / "a.weights.h5")
    net = net_of("convnext_tiny")
    check_that_all_is_loaded(tmp_path / "a.weights.h5", "convnext_tiny", net, theirs)


def test_our_own_weights_saved_by_keras_are_loaded(lunet, tmp_path):
    network = model.build("lunet_narrow", "direct", 8, (48, 48, 3))
    network.save_weights(tmp_path / "a.weights.h5")
    loaded = pretrained.load_net(tmp_path / "a.weights.h5", "lunet_narrow", lunet)
    assert (loaded.taken, loaded.missing) == (list(lunet), [])
    assert loaded.passed_over == ["emb/0", "emb/1"]


def test_a_file_that_fits_in_part_says_what_is_missing(small, file, tmp_path):
    path = shutil.copy(file, tmp_path)
    with h5py.File(path, "r+") as h5:
        del h5["layers/conv2d"]  # the first
    loaded = pretrained.load_net(path, SMALL, weights(small[0]))
    assert loaded.missing == [f"{SMALL}/conv/weights"]
    assert "1 missing and left at their initial value (mobilenet_v3_large/conv/weights)" in str(
        loaded
    )


BAD_FILES = {
    "nothing": (b"", "a.weights.h5", "cannot read the weights file .*a.weights.h5: "),
    "noise": (b"noise" * 999, "a.h5", "cannot read the weights file .*a.h5: "),
    "no zip": (
        b"noise" * 999,
        "a.keras",
        "cannot read the weights file .*a.keras: .*save or download it again",
    ),
    "truncated": (0.5, "a.weights.h5", "cannot read the weights file .*a.weights.h5: "),
    "another net": (1.0, "a.weights.h5", "does not fit|nothing in .* fits"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_told_and_assigns_nothing(case, small, file, lunet, tmp_path):
    content, name, message = BAD_FILES[case]
    if isinstance(content, float):
        content = file.read_bytes()[: int(content * file.stat().st_size)]
    (tmp_path / name).write_bytes(content)
    variables = lunet if case == "another net" else weights(small[0])
    before = {name: variable.numpy() for name, variable in variables.items()}
    with pytest.raises(UserError, match=message) as error:
        pretrained.load_net(tmp_path / name, SMALL, variables)
    assert "\n" not in str(error.value)
    for variable, value in zip(variables.values(), before.values(), strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_file_without_weights_is_told(small, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["emb"] = np.zeros((2, 3))
    with pytest.raises(
        UserError, match="cannot read the weights file .*a.h5: there are no weights in it"
    ):
        pretrained.load_net(tmp_path / "a.h5", SMALL, weights(small[0]))


# ------------------------------------------------------------------------- imagenet


def test_imagenet_is_what_keras_downloads(small, monkeypatch):
    net, theirs = small
    given = {}

    def application(**options):
        given.update(options)
        return theirs

    monkeypatch.setattr(common.load_plugin("nets", SMALL), "APPLICATION", application)
    check_that_all_is_loaded("imagenet", SMALL, net, theirs)
    assert given["weights"] == "imagenet"


def test_without_network_the_file_to_fetch_is_told(monkeypatch, small):
    url = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/weights_no_top_v2.h5"

    def offline(**options):
        raise Exception(f"URL fetch failure on {url}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(common.load_plugin("nets", SMALL), "APPLICATION", offline)
    with pytest.raises(UserError, match="cannot download .*mobilenet_v3_large") as error:
        pretrained.load_net("imagenet", SMALL, weights(small[0]))
    for part in (
        f"Fetch {url} ",
        ".keras/models",
        "--initial_checkpoint the file weights_no_top_v2.h5",
    ):
        assert part in str(error.value)


def test_imagenet_for_a_net_without_is_told_with_those_that_have_them(lunet):
    with pytest.raises(
        UserError,
        match="no ImageNet weights for lunet_narrow, but for convnext_tiny, densenet121, .*50",
    ):
        pretrained.load_net("imagenet", "lunet_narrow", lunet)
