"""Nets of PyTorch against PyTorch's own numbers, with weights from a safetensors file."""

import json
from pathlib import Path

import keras
import keras_nets
import numpy as np
import pytest
import tensorflow as tf
from golden.nets import assign_moved, deviation
from golden.torch_fill import fill
from safetensors.numpy import save_file

import common
import loss
from network import checkpoints, pretrained
from training.adam import Adam

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(GOLDEN / "torch_nets.npz")
SHAPES = json.loads((GOLDEN / "torch_nets_shapes.json").read_text())
TRAINED = ["mobilenet_v2_torch", "resnet50_torch", "resnet50_ibn_a"]
# Of the others there are numbers of inference alone; test_vit.py has the vision transformers.
NETS = [*TRAINED, "resnet101_torch", "convnext_tiny_torch"]
CLASSIFIERS = {
    "mobilenet_v2_torch": ["classifier.1.bias", "classifier.1.weight"],
    "resnet50_torch": ["fc.bias", "fc.weight"],
    "resnet50_ibn_a": ["fc.bias", "fc.weight"],
    "resnet101_torch": ["fc.bias", "fc.weight"],
    "convnext_tiny_torch": [],
}
# Losses may be so many times as far from PyTorch's as from those of weights that are moved by their
# last bit. MobileNet's were 1.5 times as far, those of the others as far.
OF_ROUNDING = 4
FIRST_NORM = {"mobilenet_v2_torch": "features/0/1"}


@pytest.fixture(scope="module", params=NETS)
def loaded(request, tmp_path_factory):
    """The name of a net, the net with PyTorch's weights, and what load_net told of them."""
    name = request.param
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    tensors = {key: fill(key, shape) for key, shape in SHAPES[name].items()}
    save_file({f"module.backbone.{key}": np.asarray(each) for key, each in tensors.items()}, path)
    net = common.load_plugin("nets", name).build((None, None, 3))
    return name, net, pretrained.load_net(path, name, checkpoints.named_variables(net))


def test_all_weights_are_found_behind_their_prefix(loaded):
    name, net, told = loaded
    assert told.missing == []
    assert len(told.taken) == len(checkpoints.named_variables(net))
    assert told.passed_over == [f"module.backbone.{each}" for each in CLASSIFIERS[name]]


# As in test_nets.py.
LAYERS = {
    "mobilenet_v2_torch": (19, False),
    "resnet50_torch": (4, True),
    "resnet50_ibn_a": (4, True),
    "resnet101_torch": (4, True),
    "convnext_tiny_torch": (18, True),
}


def test_layers(loaded):
    name, net, _ = loaded
    assert keras_nets.layers(name, net) == LAYERS[name]


@pytest.mark.parametrize("size", ["64x32", "128x64"])
def test_features_are_those_of_pytorch(loaded, size):
    name, net, _ = loaded
    images = ARRAYS[f"images/{size}"][:2].astype(np.float32)
    assert deviation(net(images, training=False), ARRAYS[f"{name}/{size}"]) < 1e-5


def test_last_stride_1_doubles_the_last_map():
    for name in TRAINED:  # ResNet-101 is built as ResNet-50 is
        build = common.load_plugin("nets", name).build
        maps = [
            build((64, 32, 3), pooling=None, last_stride=stride).output.shape for stride in (2, 1)
        ]
        assert [each[1:3] for each in maps] == [(2, 1), (4, 2)]


@pytest.mark.parametrize("loaded", TRAINED, indirect=True)
def test_training_steps_are_those_of_pytorch(loaded):
    name, net, _ = loaded
    before = net.get_weights()
    optimizer = Adam(1e-5, epsilon=1e-8)
    optimizer.build(net.trainable_variables)
    state = [*net.variables, *optimizer.variables]
    start = [np.array(variable.numpy()) for variable in state]
    images = tf.constant(ARRAYS["images/64x32"].astype(np.float32))
    pids = tf.constant(ARRAYS["pids"])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            features = net(images, training=True)
            losses = loss.batch_hard(loss.cdist(features, features), pids, "soft")
            mean = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(mean, net.trainable_variables), net.trainable_variables)
        return features, losses

    features, losses = step()
    # Statistics of eight images: the last maps have 16 pixels, and magnify rounding.
    assert deviation(features[:2], ARRAYS[f"{name}/train_features"]) < 1e-3
    variables = checkpoints.named_variables(net)
    running = variables[f"{name}/{FIRST_NORM.get(name, 'bn1')}/moving_variance"]
    np.testing.assert_allclose(running.numpy(), ARRAYS[f"{name}/running_var"], rtol=1e-4)
    assert deviation(losses, ARRAYS[f"{name}/losses"][0]) < 1e-3
    # Adam's first step is as long for a gradient of rounding errors as for a large one: from here
    # on rounding decides single losses, in PyTorch as here. How far it goes is seen with weights that
    # are moved by their last bit: one draw may miss what another does to a single loss.
    _, losses = step()
    by_rounding = []
    for seed in range(3):
        assign_moved(state, start, seed)
        step()
        _, moved = step()
        by_rounding.append(deviation(moved, losses))
    difference = deviation(losses, ARRAYS[f"{name}/losses"][1])
    assert difference < OF_ROUNDING * max(by_rounding), (difference, by_rounding)
    net.set_weights(before)
    keras.backend.clear_session()
