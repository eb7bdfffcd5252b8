"""Runs trainings under one strategy in a process of its own, for test_distribution.py.

python tests/replicas.py STRATEGY '["flag", ...]' ...: one training for each list of flags;
"mirrored" has two virtual CPUs. "plain" in front of the flags of a list puts a net without batch
norm in the place of lunet_narrow, "tiny" a small transformer in that of vit_small_patch16.
"""

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent))

import common
from runtime.tensorflow import import_tensorflow


def build_plain(input_shape):
    """Two convolutions and a mean: images -> features [B, 16]."""
    import keras

    images = keras.Input(input_shape, dtype="float32", name="images")
    x = images / 128.0 - 1.0
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="plain.conv1")(x)
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="plain.conv2")(x)
    features = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    return keras.Model(images, features, name="plain")


def plain_net():
    """Within the context the plain net stands in for lunet_narrow."""
    return common.plugin(
        "nets", "lunet_narrow", SimpleNamespace(build=build_plain, LAYERS=r"conv\d")
    )


def build_tiny(input_shape, class_token=False, drop_path=0.0, cameras=None):
    """Two blocks on patches of 8x8: images -> features [B, 64]."""
    from nets import _vit

    shape = _vit.Shape(patch=8, channels=64, depth=2, layer_scale=0.5)
    return _vit.build(input_shape, "vit", shape, class_token, drop_path, cameras)


def tiny_transformer():
    """Within the context it stands in for vit_small_patch16."""
    made = SimpleNamespace(build=build_tiny, LAYERS=r"blocks/\d+")
    return common.plugin("nets", "vit_small_patch16", made)


STAND_INS = {"plain": plain_net, "tiny": tiny_transformer}


def main(strategy: str, *trainings: str) -> None:
    tf = import_tensorflow()
    if strategy == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )

    import train
    from runtime.cluster import make_strategy

    # A process can have one strategy only, whatever it trains with it.
    made = make_strategy(strategy)
    train.make_strategy = lambda name: made
    for flags in map(json.loads, trainings):
        stand_in = STAND_INS.get(flags[0])
        with stand_in() if stand_in else contextlib.nullcontext():
            given = flags[1:] if stand_in else flags
            train.main(train.parse_args([*given, f"--strategy={strategy}"]))


if __name__ == "__main__":
    common.run(lambda argv: main(*argv), lambda: sys.argv[1:])
