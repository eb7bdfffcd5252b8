"""Batch norm that does not go with flags: refused for new experiments, told for old ones."""

from types import SimpleNamespace

import keras
import pytest
import replicas

import common
import train
from experiment import args_json
from experiment.flags import Settings
from network import layers, model
from runtime import files
from training import norms


def build(input_shape, norm=None, strides=8):
    """A convolution, and a layer of batch norm if one is given: images -> features [B, 4]."""
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = keras.layers.Conv2D(4, 3, strides=strides, padding="same", name="one.conv")(images)
    x = norm(x) if norm else x
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(dtype="float32")(x), name="one")


def faults(norm=None, devices=1, strides=8, **flags):
    """What is told of a network of 16×16 pixels, with batch norm as it is in a training."""
    flags = {"head_name": "direct", "batch_p": 4, "batch_k": 2} | flags
    settings = Settings(experiment_root="exp", model_name="lunet_narrow", **flags)
    made = SimpleNamespace(build=lambda shape: build(shape, norm, strides))
    with common.plugin("nets", "lunet_narrow", made):
        network = model.build("lunet_narrow", settings.head_name, 3, (16, 16, 3))
    if settings.bn_frozen:
        model.freeze_statistics(network)
    return norms.faults(network, settings, devices)


@pytest.mark.parametrize(
    "flags, given",
    [
        ({"chunk": 4}, "--chunk"),
        ({"remat": True}, "--remat"),
        ({"bn_frozen": True}, "--bn_frozen"),
        ({"chunk": 4, "remat": True}, "--chunk and --remat"),
    ],
)
def test_keras_own_batch_norm_is_told_by_name(flags, given):
    norm = keras.layers.BatchNormalization(name="one.norm")
    (line,) = faults(norm, **flags)
    assert line.startswith(f"{given} should have batch norm by network.layers.BatchNorm only.")
    assert "Received: the keras.layers.BatchNormalization one.norm in --model_name lunet" in line
    assert line.endswith(f"Put network.layers.BatchNorm in its place, or leave out {given}.")


def test_batch_norm_that_is_as_it_should_be():
    assert not faults(keras.layers.BatchNormalization())
    assert not faults(keras.layers.BatchNormalization(trainable=False), chunk=4, remat=True)
    assert not faults(layers.BatchNorm(), chunk=4, remat=True, bn_frozen=True)
    assert not faults(chunk=4, remat=True)


def test_nets_of_keras_have_our_batch_norm():
    network = model.build("mobilenet_v3_large", "fc1024", 3, (32, 32, 3))
    assert len(model.batch_norms(network)) > 40 and not model.other_batch_norms(network)


def test_nothing_to_freeze_is_told():
    (line,) = faults(bn_frozen=True)
    assert "--bn_frozen has no effect" in line and "--head_name direct has no batch norm" in line
    assert not faults(bn_frozen=True, head_name="bnneck")


@pytest.mark.parametrize(
    "flags, received",
    [
        ({"chunk": 1}, "--chunk 1"),
        ({"chunk": 1, "devices": 2, "no_sync_batch_norm": True}, "--chunk 1 with --no_sync"),
        ({"devices": 8, "no_sync_batch_norm": True}, "1 image on each device with --no_sync"),
    ],
)
@pytest.mark.parametrize(
    "network, layer",
    [
        ({"head_name": "fc1024"}, "fully_connected.BatchNorm"),
        ({"head_name": "bnneck"}, "emb.BatchNorm"),
        ({"norm": layers.BatchNorm, "strides": 16}, "one.norm"),
    ],
)
def test_batch_norm_of_single_numbers_is_told(flags, received, network, layer):
    if "norm" in network:
        network = network | {"norm": layers.BatchNorm(name=layer)}
    (line,) = faults(**network, **flags)
    assert f"of one, {layer} makes a constant" in line and f"Received: {received}" in line


def test_batch_norm_of_several_numbers():
    assert not faults(head_name="fc1024", chunk=2)
    assert not faults(head_name="fc1024", chunk=1, devices=2)
    assert not faults(head_name="fc1024", chunk=1, bn_frozen=True)
    assert not faults(layers.BatchNorm(), chunk=1)  # four pixels of an image
    assert not faults(head_name="fc1024", devices=8)


def test_a_new_training_is_refused_and_an_old_one_goes_on(dataset, tmp_path, capsys):
    data = [f"--train_set={dataset.csv}", f"--image_root={dataset.root}", "--image_frequency=0"]
    data += ["--model_name=lunet_narrow", "--head_name=direct", "--embedding_dim=4", "--batch_p=3"]
    data += ["--batch_k=2", "--net_input_height=24", "--net_input_width=16"]

    def run(name, *flags):
        train.main(train.parse_args([f"--experiment_root={tmp_path / name}", *flags]))

    with replicas.plain_net():
        with pytest.raises(common.UserError, match="--bn_frozen has no effect"):
            run("new", *data, "--bn_frozen", "--train_iterations=1")
        with pytest.raises(SystemExit):
            run("new", *data, "--bn_frozen", "--no_sync_batch_norm")
        assert "error: --no_sync_batch_norm has no effect" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
        run("old", *data, "--train_iterations=1", "--decay_start_iteration=-1")
        begun = args_json.read(tmp_path / "old") | {"bn_frozen": True, "no_sync_batch_norm": True}
        files.write_json(tmp_path / "old" / "args.json", begun)
        run("old", "--resume", "--train_iterations=2")
    told = capsys.readouterr().err
    assert "[WARNING] train: --bn_frozen has no effect" in told
    assert (tmp_path / "old" / "checkpoint-2.index").exists()
