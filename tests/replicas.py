"""Runs trainings under one strategy in a process of its own, for test_distribution.py.

python tests/replicas.py STRATEGY '["flag", ...]' ...: one training for each list of flags;
"mirrored" has two virtual CPUs. "plain" in front of the flags of a list puts a net without batch
norm in the place of lunet_narrow.
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
        plain = flags[0] == "plain"
        with plain_net() if plain else contextlib.nullcontext():
            train.main(train.parse_args([*flags[plain:], f"--strategy={strategy}"]))


if __name__ == "__main__":
    common.run(lambda argv: main(*argv), lambda: sys.argv[1:])
