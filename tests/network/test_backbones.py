"""The nets of keras.applications, and the weights that they start from."""

import importlib
import shutil

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from golden.nets import deviation

from common import UserError
from network import checkpoints, model

NETS = {
    "resnet50": 2048,
    "efficientnet_v2_b0": 1280,
    "efficientnet_v2_s": 1280,
    "convnext_tiny": 768,
    "mobilenet_v3_large": 960,
    "densenet121": 1024,
}
PREPROCESSED = {"resnet50": "resnet", "densenet121": "densenet"}  # the others do it themselves
SMALL = "mobilenet_v3_large"

# Keras' own saver and NumPy 2 do not agree.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


def plugin(net):
    return importlib.import_module(f"nets.{net}")


def original(net, **options):
    return plugin(net).APPLICATION(
        **({"weights": None, "include_top": False, "pooling": "avg"} | options)
    )


def scramble(variables):
    """Values that differ from each other and from the initial ones, without making the net's maps
    too large.
    """
    rng = np.random.default_rng(0)
    for weight in variables:
        values = weight.numpy() * rng.uniform(0.9, 1.1, weight.shape)
        weight.assign(
            values + rng.uniform(0, 0.05, weight.shape) if len(weight.shape) == 1 else values
        )


def images(*size, count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, 3)).astype(np.float32)


def body(net, size=(64, 32)):
    """Its body, and the variables of that but for random states."""
    network = plugin(net).build((*size, 3))
    return network, weights(network)


def weights(network):
    named = checkpoints.named_variables(network)
    return {name: variable for name, variable in named.items() if "seed_generator" not in name}


def keras_features(net, theirs, batch):
    if net in PREPROCESSED:
        batch = getattr(keras.applications, PREPROCESSED[net]).preprocess_input(batch.copy())
    return theirs(batch, training=False)


def step(network, optimizer, batch):
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(network(batch, training=True)["emb"] ** 2)
    optimizer.apply(tape.gradient(total, network.trainable_variables), network.trainable_variables)


def make(net, size):
    network = model.build(net, "direct", 8, (*size, 3))
    optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-8)
    optimizer.build(network.trainable_variables)
    return network, optimizer, checkpoints.named_variables(network, optimizer)


@pytest.fixture(scope="module", params=NETS)
def made(request):
    """A net of each kind, for images of any size, its optimizer and their state."""
    keras.backend.clear_session()
    return request.param, *make(request.param, (None, None))


def test_features_are_keras_own(made):
    net, network, _, _ = made
    theirs = original(net, input_shape=(None, None, 3))
    scramble(theirs.weights)
    ours = model.body(network)
    for variable, weight in zip(weights(ours).values(), theirs.weights, strict=True):
        variable.assign(weight)
    features = ours(images(64, 32), training=False)
    assert features.shape == (2, NETS[net])
    assert features.dtype == tf.float32
    assert deviation(features, keras_features(net, theirs, images(64, 32)).numpy()) < 1e-5


def test_training_steps_and_embeddings_at_two_sizes(made):
    net, network, optimizer, state = made
    assert all(name.startswith((f"{net}/", "emb/")) or name == "global_step" for name in state)
    before = {name: variable.numpy() for name, variable in state.items()}
    for size in (128, 64), (256, 128):
        step(network, optimizer, images(*size))
    for name, variable in state.items():
        assert np.isfinite(variable.numpy()).all(), name
    # Not all of them: stochastic depth passes over some blocks.
    moved = [name for name, variable in state.items() if np.any(variable.numpy() != before[name])]
    assert {"emb/weights", next(iter(state)), "global_step"} <= set(moved)
    assert len(moved) > 0.8 * len(state)
    for size in (128, 64), (256, 128):
        emb = network(images(*size), training=False)["emb"]
        assert emb.shape == (2, 8)
        assert np.isfinite(emb).all()


@pytest.mark.parametrize("net", ["convnext_tiny", SMALL])
def test_names_do_not_depend_on_size_and_on_what_was_built_before(net):
    first, again = body(net, (128, 64))[1], body(net, (256, 128))[1]
    assert {name: variable.shape for name, variable in first.items()} == {
        name: variable.shape for name, variable in again.items()
    }


def test_images_that_are_too_small_are_told():
    with pytest.raises(
        UserError, match="densenet121 takes images of at least 32x32. Received: 64x16"
    ):
        plugin("densenet121").build((64, 16, 3))


def test_stochastic_depth_is_the_same_again_and_after_resuming(tmp_path):
    def start():
        keras.utils.set_random_seed(1)
        return make("efficientnet_v2_b0", (32, 32))

    def values(state):
        return {name: variable.numpy().copy() for name, variable in state.items()}

    network, optimizer, state = start()
    initial, paths = values(state), []
    assert sum(name.endswith("seed_generator_state") for name in state) > 10
    for iteration in (1, 2):
        step(network, optimizer, images(32, 32))
        paths.append(checkpoints.save(tmp_path, iteration, state))
    network, optimizer, again = start()
    for name, variable in again.items():
        np.testing.assert_array_equal(variable.numpy(), initial[name], err_msg=name)
    checkpoints.restore(paths[0], again)
    step(network, optimizer, images(32, 32))
    for name, value in values(state).items():
        np.testing.assert_array_equal(again[name].numpy(), value, err_msg=name)


def test_half_precision_keeps_variables_and_features_in_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half, variables = body(SMALL)
    finally:
        keras.config.set_dtype_policy(before)
    full, named = body(SMALL)
    for name, variable in variables.items():
        assert variable.dtype == "float32"
        variable.assign(named[name])
    features = half(images(64, 32), training=False)
    assert features.dtype == tf.float32
    assert 0 < deviation(features, full(images(64, 32), training=False).numpy()) < 0.1


# ------------------------------------------------------------------------- weights to start from


def test_weights_of_keras_resnet50_are_loaded(tmp_path):
    theirs = keras.applications.ResNet50(weights=None)
    scramble(theirs.weights)
    path = tmp_path / "resnet50.weights.h5"
    theirs.save_weights(path)
    network, variables = body("resnet50", (224, 224))
    loaded = checkpoints.load_body(path, checkpoints.named_variables(network))
    assert (loaded.taken, loaded.missing) == (list(variables), [])
    assert loaded.passed_over == ["predictions/0", "predictions/1"]
    batch = images(224, 224)
    features = keras.Model(theirs.input, theirs.get_layer("avg_pool").output)
    assert (
        deviation(
            network(batch, training=False), keras_features("resnet50", features, batch).numpy()
        )
        < 1e-5
    )


@pytest.mark.parametrize(
    "net, name",
    [
        (SMALL, "a.keras"),
        (SMALL, "a.weights.h5"),
        (SMALL, "a.h5"),
        ("convnext_tiny", "a.weights.h5"),
    ],
)
def test_every_format_of_keras_is_loaded(net, name, tmp_path):
    theirs = original(net)
    scramble(theirs.weights)
    (theirs.save_weights if ".weights." in name else theirs.save)(tmp_path / name)
    _, variables = body(net)
    loaded = checkpoints.load_body(tmp_path / name, variables)
    assert (loaded.taken, loaded.passed_over, loaded.missing) == (list(variables), [], [])
    for ours, weight in zip(variables.values(), theirs.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), weight.numpy())


def test_our_own_weights_saved_by_keras_are_loaded(tmp_path):
    network = model.build("lunet_narrow", "direct", 8, (48, 48, 3))
    network.save_weights(tmp_path / "a.weights.h5")
    _, variables = body("lunet_narrow", (48, 48))
    loaded = checkpoints.load_body(tmp_path / "a.weights.h5", variables)
    assert (loaded.taken, loaded.passed_over, loaded.missing) == (
        list(variables),
        ["emb/0", "emb/1"],
        [],
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The variables of a body, and a weights file that fits it."""
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    original(SMALL).save_weights(path)
    return body(SMALL)[1], path


def test_a_file_that_fits_in_part_says_what_is_missing(small, tmp_path):
    variables, path = small
    path = shutil.copy(path, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d"]  # the first
    loaded = checkpoints.load_body(path, variables)
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
def test_a_bad_file_is_told_and_assigns_nothing(case, small, tmp_path):
    content, name, message = BAD_FILES[case]
    if isinstance(content, float):
        content = small[1].read_bytes()[: int(content * small[1].stat().st_size)]
    (tmp_path / name).write_bytes(content)
    variables = body("lunet_narrow", (48, 48))[1] if case == "another net" else small[0]
    before = {name: variable.numpy() for name, variable in variables.items()}
    with pytest.raises(UserError, match=message) as error:
        checkpoints.load_body(tmp_path / name, variables)
    assert "\n" not in str(error.value)
    for variable, value in zip(variables.values(), before.values(), strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_file_without_weights_is_told(small, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["emb"] = np.zeros((2, 3))
    with pytest.raises(
        UserError, match="cannot read the weights file .*a.h5: there are no weights in it"
    ):
        checkpoints.load_body(tmp_path / "a.h5", small[0])


def test_imagenet_is_what_keras_downloads(monkeypatch):
    keras_net, given = plugin(SMALL).APPLICATION, {}

    def application(**options):
        given.update(options)
        return keras_net(**(options | {"weights": None}))

    monkeypatch.setattr(plugin(SMALL), "APPLICATION", application)
    network, variables = body(SMALL)
    before = variables[f"{SMALL}/conv/weights"].numpy()
    loaded = checkpoints.load_body("imagenet", checkpoints.named_variables(network))
    assert given["weights"] == "imagenet"
    assert (loaded.taken, loaded.passed_over, loaded.missing) == (list(variables), [], [])
    assert np.any(variables[f"{SMALL}/conv/weights"].numpy() != before)


def test_without_network_the_file_to_fetch_is_told(monkeypatch, small):
    url = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/weights_no_top_v2.h5"

    def offline(**options):
        raise Exception(f"URL fetch failure on {url}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(plugin(SMALL), "APPLICATION", offline)
    with pytest.raises(UserError, match="cannot download .*mobilenet_v3_large") as error:
        checkpoints.load_body("imagenet", small[0])
    for part in (
        f"Fetch {url} ",
        ".keras/models",
        "--initial_checkpoint the file weights_no_top_v2.h5",
    ):
        assert part in str(error.value)


def test_imagenet_for_a_net_without_is_told_with_those_that_have_them():
    with pytest.raises(
        UserError,
        match="no ImageNet weights for lunet_narrow, but for convnext_tiny, densenet121, .*50",
    ):
        checkpoints.load_body("imagenet", body("lunet_narrow", (48, 48))[1])
