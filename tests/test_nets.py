import keras
import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import common
import model

# name: features, the scope of its variables, (total parameters, trainable parameters) at 128x64
NETS = {
    "lunet": (512, "lunet", (4_940_416, 4_928_512)),
    "lunet_narrow": (256, "lunet_narrow", (831_712, 829_344)),
    "mobilenet_v1_1_224": (1024, "MobilenetV1", (3_228_864, 3_206_976)),
    "resnet_v1_50": (2048, "resnet_v1_50", (23_561_152, 23_508_032)),
    "resnet_v1_101": (2048, "resnet_v1_101", (42_605_504, 42_500_160)),
}


def build(name, shape=(128, 64, 3)):
    return common.load_plugin("nets", name).build(shape)


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def test_every_net_of_the_table_is_found_by_name():
    assert set(NETS) <= set(common.plugin_names("nets"))


@pytest.fixture(scope="module", params=NETS)
def built(request):
    return request.param, build(request.param)


def test_features_and_parameters(built):
    name, net = built
    features, scope, parameters = NETS[name]
    assert net.input.shape == (None, 128, 64, 3)
    assert net.output.shape == (None, features)
    assert net.output.dtype == "float32"
    assert (count(net.variables), count(net.trainable_variables)) == parameters
    assert all(variable.startswith(f"{scope}/") for variable in checkpoints.named_variables(net))


def test_kernels_start_with_the_spread_of_their_initialiser(built):
    name, net = built
    for variable_name, variable in checkpoints.named_variables(net).items():
        if "weights" not in variable_name or count([variable]) < 4000:
            continue
        spread = np.sqrt(2 / np.prod(variable.shape[:-1]))
        if name == "mobilenet_v1_1_224":
            spread = 0.09 * 0.8796  # cut off at two standard deviations
        if variable_name.endswith("linear/weights"):
            spread = np.sqrt(2 / sum(variable.shape))
        assert np.std(variable) == pytest.approx(spread, rel=0.1), variable_name


def test_names_do_not_depend_on_what_was_built_before():
    first, second = (list(checkpoints.named_variables(build("lunet_narrow", (48, 48, 3)))) for _ in range(2))
    assert first == second


def test_lunet_with_a_linear_layer_is_the_papers_net():
    network = model.build("lunet", "direct", 128, (128, 64, 3))
    assert count(network.trainable_variables) == 4_994_176
    assert network.count_params() == 5_006_080
    # Table 9: five max-pools halve the map, and the last block's 4x2x128 are the 1024 that the linear layer takes.
    shapes = [layer.output.shape[1:] for layer in model.body(network).layers if "MaxPool" in type(layer).__name__]
    assert shapes == [(64, 32, 128), (32, 16, 256), (16, 8, 256), (8, 4, 512), (4, 2, 512)]
    assert model.body(network).get_layer("lunet.linear").kernel.shape == (1024, 512)


@pytest.mark.parametrize("size", [(48, 48), (64, 32), (33, 21), (16, 16)])
@pytest.mark.parametrize("name", ["lunet_narrow", "mobilenet_v1_1_224"])
def test_small_and_odd_sizes(name, size):
    images = np.random.default_rng(0).uniform(0, 255, (3, *size, 3)).astype(np.float32)
    features = build(name, (*size, 3))(images, training=True).numpy()
    assert features.shape == (3, NETS[name][0])
    assert np.isfinite(features).all()


@pytest.mark.parametrize("name", ["mobilenet_v1_1_224", "resnet_v1_50"])
def test_one_net_takes_any_size_and_gives_the_same_as_one_of_that_size(name):
    free, fixed = build(name, (None, None, 3)), build(name, (70, 45, 3))
    fixed.set_weights(free.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 70, 45, 3)).astype(np.float32)
    np.testing.assert_allclose(free(images), fixed(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lunet", "lunet_narrow"])
def test_lunet_without_a_size_is_told(name):
    with pytest.raises(common.UserError, match="fixed input size"):
        build(name, (None, None, 3))


def test_lunet_narrow_learns():
    keras.utils.set_random_seed(0)
    network = model.build("lunet_narrow", "direct", 4, (32, 32, 3))
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (16, 32, 32, 3)).astype(np.float32)
    targets = tf.constant(rng.normal(size=(16, 4)).astype(np.float32))
    optimizer = keras.optimizers.Adam(1e-2)
    errors = []
    for _ in range(10):
        with tf.GradientTape() as tape:
            error = tf.reduce_mean((network(images, training=True)["emb"] - targets) ** 2)
        optimizer.apply(tape.gradient(error, network.trainable_variables), network.trainable_variables)
        errors.append(float(error))
    assert errors[-1] < 0.5 * errors[0], errors
