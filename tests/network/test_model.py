import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden import nets as golden
from golden.fill import fill
from weights import write_v2

import common
from network import checkpoints, model, pretrained
from training.adam import Adam

# Steps of Adam that are compared. With these weights the deep nets make a rounding difference ten- to
# a thousandfold with each step. (With the original's rounding in the distances too, those of float32
# differences, all eight steps of ResNet-101 are equal to the bit.)
STEPS = {"mobilenet_v1_1_224": 8, "resnet_v1_50": 3, "resnet_v1_101": 3}
CLOSE = 1e-3
# Where rounding decides, as on processors without AVX-512, losses may be so many times as far from the
# original's as from those of weights that are moved by their last bit.
OF_ROUNDING = 10


@pytest.fixture(scope="module", params=golden.CASES)
def built(request, tmp_path_factory):
    """A case's name, its model, and an optimizer; every variable has the value of golden.fill.

    Where the original's training state is known, the values come from a checkpoint of it: with
    Adam's slots, the powers of beta and the step, in TensorFlow 1's format and names.
    """
    case = request.param
    keras.backend.clear_session()
    network = model.build(*case.split("/"), golden.EMBEDDING_DIM, golden.INPUT_SHAPE)
    optimizer = Adam(epsilon=1e-8)
    optimizer.build(network.trainable_variables)
    state = checkpoints.named_variables(network, optimizer)
    if f"{case}/train_state" in golden.VARIABLES:
        shapes = golden.VARIABLES[f"{case}/train_state"]
        arrays = {name: fill(name, shape) for name, shape in shapes.items()}
        path = write_v2(tmp_path_factory.mktemp("original") / "checkpoint-5", arrays)
        checkpoints.restore(path, state)
        shutil.rmtree(path.parent)
    else:
        golden.assign_filled(state)
    assert int(optimizer.iterations) == 5
    return case, network, optimizer


def test_variables_have_the_originals_names_and_shapes(built):
    case, network, optimizer = built
    ours = {
        name: list(variable.shape)
        for name, variable in checkpoints.named_variables(network).items()
    }
    # The original built the classifier of MobileNet too and never used it.
    theirs = {
        name: shape for name, shape in golden.VARIABLES[case].items() if "/Logits/" not in name
    }
    assert ours == theirs
    net = checkpoints.named_variables(model.net_of(network))
    prefix = golden.VARIABLES[f"{case.split('/')[0]}/prefix"] + "/"
    assert set(net) == {name for name in theirs if name.startswith(prefix)}

    if f"{case}/train_state" in golden.VARIABLES:
        state = checkpoints.named_variables(network, optimizer)
        # Keras computes the powers of beta from the number of iterations.
        unused = {"beta1_power", "beta2_power"}
        theirs = {
            name: shape
            for name, shape in golden.VARIABLES[f"{case}/train_state"].items()
            if name not in unused
        }
        theirs = {name: shape for name, shape in theirs.items() if "/Logits/" not in name}
        assert {name: list(variable.shape) for name, variable in state.items()} == theirs


# The tests below run in this order: training changes the variables.
def test_inference_gives_the_originals_embeddings(built):
    case, network, _ = built
    outputs = network(golden.images(), training=False)
    assert set(outputs) == {"emb_raw", "emb"}
    for name, output in outputs.items():
        assert output.dtype == tf.float32
        assert golden.deviation(output, golden.ARRAYS[f"{case}/infer/{name}"]) < 1e-4
    if f"{case}/infer/model_output" in golden.ARRAYS:
        features = model.net_of(network)(golden.images(), training=False)
        assert golden.deviation(features, golden.ARRAYS[f"{case}/infer/model_output"]) < 1e-4


def test_training_goes_on_with_the_originals_losses(built):
    case, network, optimizer = built
    count = STEPS[case.split("/")[0]]
    state = list(checkpoints.named_variables(network, optimizer).values())
    start = [np.array(variable.numpy()) for variable in state]
    emb_first, losses = golden.adam_steps(network, optimizer, case, count)
    expected = golden.ARRAYS[f"{case}/train/losses"][:count]
    assert golden.deviation(emb_first, golden.ARRAYS[f"{case}/train/emb_first"]) < CLOSE
    assert int(optimizer.iterations) == 5 + count
    if count == 8:
        running = [
            value
            for name, value in checkpoints.named_variables(network).items()
            if "moving_var" in name
        ]
        means = [np.mean(variable) for variable in running[:3]]
        np.testing.assert_allclose(
            means, golden.ARRAYS[f"{case}/train/moving_variance_mean_last"], rtol=1e-4
        )
    deviations = [golden.deviation(*step) for step in zip(losses, expected, strict=True)]
    assert deviations[0] < CLOSE
    if max(deviations) > CLOSE:
        golden.assign_moved(state, start)
        _, moved = golden.adam_steps(network, optimizer, case, count)
        by_rounding = [golden.deviation(*step) for step in zip(moved, losses, strict=True)]
        assert max(deviations) < OF_ROUNDING * max(by_rounding), (deviations, by_rounding)


@pytest.mark.parametrize(
    "names", [("resnet_v1_99", "fc1024"), ("lunet_narrow", "fc1025"), ("../common", "fc1024")]
)
def test_unknown_names_are_told_with_those_there_are(names):
    with pytest.raises(common.UserError, match="Available: .*(lunet_narrow|fc1024)"):
        model.build(*names, 8, (48, 48, 3))


def test_the_same_seed_gives_the_same_weights():
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        network = model.build("lunet_narrow", "fc1024", 8, (48, 48, 3))
        weights.append(checkpoints.named_variables(network))
    assert list(weights[0]) == list(weights[1])
    for first, second in zip(weights[0].values(), weights[1].values(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_half_precision_keeps_variables_and_embeddings_in_float32():
    keras.utils.set_random_seed(3)
    full = model.build("lunet_narrow", "fc1024_normalize", 8, (48, 48, 3))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = model.build("lunet_narrow", "fc1024_normalize", 8, (48, 48, 3))
    finally:
        keras.config.set_dtype_policy(before)
    ours, theirs = checkpoints.named_variables(half), checkpoints.named_variables(full)
    assert {variable.dtype for variable in ours.values()} == {"float32"}
    for name, variable in ours.items():
        variable.assign(theirs[name])
    images = np.random.default_rng(0).uniform(0, 255, (16, 48, 48, 3)).astype(np.float32)
    for training in (True, False):
        emb = half(images, training=training)["emb"]
        assert emb.dtype == tf.float32
        assert golden.deviation(emb, full(images, training=training)["emb"]) < 0.1
    for name, variable in ours.items():
        if "moving" in name:
            np.testing.assert_allclose(variable, theirs[name], rtol=0.05, atol=0.01)


def test_pooling_by_a_generalized_mean_stands_between_net_and_head(tmp_path):
    options = {"last_stride": 1}
    networks = {
        pooling: model.build("mobilenet_v1_1_224", "direct", 8, (64, 32, 3), options | more)
        for pooling, more in {"avg": {}, "gem": {"pooling": None}}.items()
    }
    state = checkpoints.named_variables(networks["avg"])
    gem = checkpoints.named_variables(networks["gem"])
    assert gem.keys() - state.keys() == {"gem/p"} and not state.keys() - gem.keys()
    assert model.net_of(networks["gem"]).output.shape == (None, 4, 2, 1024)

    # Pretrained weights fit: there is nothing that they lack.
    checkpoints.save(tmp_path, 0, state)
    net = checkpoints.named_variables(model.net_of(networks["gem"]))
    loaded = pretrained.load_net(tmp_path, "mobilenet_v1_1_224", net)
    assert not loaded.missing and "emb/weights" in loaded.passed_over
    for name, variable in state.items():
        gem[name].assign(variable)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 32, 3)).astype(np.float32)
    means, other = (
        networks[pooling](images, training=True)["emb"].numpy() for pooling in ("avg", "gem")
    )
    assert golden.deviation(other, means) > 0.1
    gem["gem/p"].assign(1.0)
    assert golden.deviation(networks["gem"](images, training=True)["emb"], means) < 1e-3


def test_a_generalized_mean_is_taken_in_float32_of_half_precision_maps():
    half = model.build(
        "mobilenet_v1_1_224", "bnneck", 1024, (32, 32, 3), {"pooling": None}, "mixed_float16"
    )
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    for emb in half(images, training=True).values():
        assert emb.dtype == tf.float32 and np.isfinite(emb).all()
    assert {variable.dtype for variable in checkpoints.named_variables(half).values()} == {
        "float32"
    }
