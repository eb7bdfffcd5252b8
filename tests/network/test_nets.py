import keras
import keras_nets
import numpy as np
import pytest
import tensorflow as tf
from golden.nets import deviation

import common
from network import checkpoints, model

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


# How many layers of --layer_decay each net has, and whether something comes before the first.
LAYERS = {
    "lunet": (6, True),
    "lunet_narrow": (4, True),
    "mobilenet_v1_1_224": (14, False),
    "resnet_v1_50": (4, True),
    "resnet_v1_101": (4, True),
}


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


def test_layers(built):
    name, net = built
    assert keras_nets.layers(name, net) == LAYERS[name]


def test_kernels_start_with_the_spread_of_their_initializer(built):
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
    first, second = (
        list(checkpoints.named_variables(build("lunet_narrow", (48, 48, 3)))) for _ in range(2)
    )
    assert first == second


def test_lunet_with_a_linear_layer_is_the_papers_net():
    network = model.build("lunet", "direct", 128, (128, 64, 3))
    assert count(network.trainable_variables) == 4_994_176
    assert network.count_params() == 5_006_080
    # Table 9: five max-pools halve the map, and the last block's 4x2x128 are the 1024 that the
    # linear layer takes.
    shapes = [
        layer.output.shape[1:]
        for layer in model.net_of(network).layers
        if "MaxPool" in type(layer).__name__
    ]
    assert shapes == [(64, 32, 128), (32, 16, 256), (16, 8, 256), (8, 4, 512), (4, 2, 512)]
    assert model.net_of(network).get_layer("lunet.linear").kernel.shape == (1024, 512)


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


POOLING = [
    "densenet121",
    "efficientnet_v2_b0",
    "efficientnet_v2_s",
    "mobilenet_v1_1_224",
    "mobilenet_v2_torch",
    "mobilenet_v3_large",
    "resnet101_torch",
    "resnet50",
    "resnet50_ibn_a",
    "resnet50_torch",
    "resnet_v1_101",
    "resnet_v1_50",
]


def test_which_nets_have_which_options():
    def having(option):
        return [
            name
            for name in common.plugin_names("nets")
            if option in common.build_options("nets", name)
        ]

    assert having("pooling") == POOLING
    assert having("last_stride") == [
        name for name in POOLING if name not in ("densenet121", "mobilenet_v3_large")
    ]
    transformers = [name for name in common.plugin_names("nets") if name.startswith("vit_")]
    assert having("class_token") == transformers
    assert having("drop_path") == ["convnext_tiny_torch", *transformers]


# The first layer behind the last stride, and which of its pixels there are with that: TensorFlow's
# "same" pads an even size at its end.
LAST_STRIDE = {
    "resnet_v1_50": ("resnet_v1_50.block4.unit_1.bottleneck_v1.conv1", 0),
    "resnet50": ("resnet50.conv5_block1_1_conv", 0),
    "mobilenet_v1_1_224": ("MobilenetV1.Conv2d_12_depthwise", 1),
    "efficientnet_v2_b0": ("efficientnet_v2_b0.block6a_dwconv2", 1),
}


@pytest.mark.parametrize("name", LAST_STRIDE)
def test_without_the_last_stride_the_map_is_twice_as_large_and_holds_the_smaller_one(name):
    keras.utils.set_random_seed(0)
    plain, whole = (
        common.load_plugin("nets", name).build((64, 64, 3), None, stride) for stride in (2, 1)
    )
    assert plain.output.shape[1:3] == (2, 2) and whole.output.shape == (
        None,
        4,
        4,
        plain.output.shape[3],
    )
    ours, theirs = checkpoints.named_variables(whole), checkpoints.named_variables(plain)
    assert [(key, value.shape) for key, value in ours.items()] == [
        (key, value.shape) for key, value in theirs.items()
    ]
    for key, variable in ours.items():
        variable.assign(theirs[key])

    layer, first = LAST_STRIDE[name]
    images, maps = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32), []
    for net in (plain, whole):
        # The nets of Keras are a model in ours.
        net = next((inner for inner in net.layers if isinstance(inner, keras.Model)), net)
        maps.append(keras.Model(net.input, net.get_layer(layer).output)(images, training=False))
    assert deviation(maps[1][:, first::2, first::2], maps[0]) < 1e-4


@pytest.mark.parametrize("name", ["mobilenet_v1_1_224", "mobilenet_v3_large"])
def test_features_are_the_mean_of_the_map(name):
    features, last_map = (
        common.load_plugin("nets", name).build((64, 32, 3), pooling) for pooling in ("avg", None)
    )
    last_map.set_weights(features.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 32, 3)).astype(np.float32)
    mean = last_map(images, training=True).numpy().mean(axis=(1, 2))
    assert deviation(features(images, training=True), mean) < 1e-4


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
        optimizer.apply(
            tape.gradient(error, network.trainable_variables), network.trainable_variables
        )
        errors.append(float(error))
    assert errors[-1] < 0.5 * errors[0], errors
