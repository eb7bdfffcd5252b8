"""Trains in chunks on two virtual CPUs, and on one with the same chunks, for test_chunks.py.

python tests/chunks_on_two.py FILE.npz: what each variable is at the start, after training on both, on
both with --remat, and on one, goes into the file, as before/NAME, two/NAME, remat/NAME and one/NAME.
A process can have one strategy of several devices only.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.extend(str(Path(__file__).parent / path) for path in ("..", "training"))

import keras
import numpy as np
import tensorflow as tf
from test_chunks import B, K, P, batches, settings, values

import common
from network import layers
from training.state import State
from training.step import make_step

CHUNK = 3  # of each of the two
# Of one device, so that a chunk of twice as many has the images that the two normalize together.
ORDER = np.arange(B).reshape(2, -1, CHUNK).swapaxes(0, 1).ravel()


def build(input_shape):
    """Two convolutions with batch norm, and layers enough for several segments."""
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = images / 128.0 - 1.0
    for number in range(2):
        x = keras.layers.Conv2D(8, 3, strides=2, name=f"two.conv{number}")(x)
        x = keras.layers.ReLU()(layers.BatchNorm(name=f"two.conv{number}.BatchNorm")(x))
        for _ in range(8):
            x = keras.layers.LeakyReLU(0.9)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(dtype="float32")(x), name="two")


def train(strategy, flags, share):
    """Two iterations. Returns: what each variable is before and after.

    Args:
        share: images, labels -> images of each device, and the labels of all.
    """
    state = State(flags, np.full(P, K), strategy)
    before = values(state)
    step = make_step(strategy, state, flags)
    for images, labels, iteration in batches(2):
        images, labels = share(images, labels)
        step(
            images,
            labels,
            iteration=tf.constant(iteration, tf.int64),
            rate=tf.constant(flags.learning_rate),
            stop=tf.constant(0),
            frozen=False,
        )
    return before, values(state)


def main(filename: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def halves(images, labels):
        parts = tf.split(images, 2)
        per_device = strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )
        return per_device, labels

    def ordered(images, labels):
        return tf.gather(images, ORDER), tf.gather(labels, ORDER)

    flags = {"optimizer": "sgd", "learning_rate": 0.1, "head_name": "fc1024", "id_loss_weight": 1.0}
    found = {}
    with common.plugin("nets", "lunet_narrow", SimpleNamespace(build=build)):
        for name, remat in (("two", False), ("remat", True)):
            chosen = settings(chunk=CHUNK, remat=remat, **flags)
            _, found[name] = train(strategy, chosen, halves)
        chosen = settings(chunk=2 * CHUNK, **flags)
        found["before"], found["one"] = train(tf.distribute.get_strategy(), chosen, ordered)
    np.savez(
        filename,
        **{f"{key}/{name}": value for key, all in found.items() for name, value in all.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
