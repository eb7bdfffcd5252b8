r"""The time of a training iteration, beside stock Keras and beside the machine's own peak.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --model_name mobilenet_v1_1_224 --batch_p 16 \
        --net_input_height 128 --net_input_width 64

The network, the loss and the optimizer are those of train.py, on images that are there already.
Beside them the same with Keras' batch norm in the net, and with that and Keras' Adam. The peak is
that of a large convolution, which is measured in turns with the iterations; the work of an
iteration is counted as that of its convolutions and dense layers, forward, to the inputs and to the
kernels. The last line says which --precision to take on this machine.
"""

import argparse
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

import common
from benchmarks._measure import medians
from experiment import flags
from experiment.flags import Architecture, Settings
from runtime.tensorflow import import_tensorflow

# Two times that differ by a smaller part are equal here: medians of the same thing do.
_NOISE = 0.05


class Way(NamedTuple):
    """One way to do a job."""

    run: Callable[[], object]
    operations: float  # multiplications and additions in each run


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    for field in flags.rows(Architecture):
        parser.add_argument(f"--{field.name}", **field.metadata["options"])
    # A triplet is two images of one pid and one of another.
    parser.add_argument(
        "--batch_p",
        type=common.integer(2),
        default=18,
        metavar="P",
        help="Number of pids in a batch.",
    )
    parser.add_argument(
        "--batch_k",
        type=common.integer(2),
        default=4,
        metavar="K",
        help="Number of images of each pid.",
    )
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=5,
        metavar="N",
        help="Number of measurements of each way. The median counts.",
    )
    return parser.parse_args(argv)


def iteration(settings: Settings, keras_norm: bool = False, keras_adam: bool = False) -> Callable:
    """A function that does a whole iteration of train.py."""
    import keras
    import tensorflow as tf

    from training.state import State
    from training.step import make_step

    strategy = tf.distribute.get_strategy()
    net = settings.model_name
    with contextlib.ExitStack() as stack:
        if keras_norm:
            stack.enter_context(common.plugin("nets", net, with_keras_norm(net)))
        state = State(settings, np.full(settings.batch_p, settings.batch_k), strategy)
    if keras_adam:
        state.optimizer = keras.optimizers.Adam(settings.learning_rate, epsilon=1e-8)
        state.optimizer.build(state.trainable)
    step = make_step(strategy, state, settings)
    B = settings.batch_p * settings.batch_k
    images = tf.random.uniform([B, *settings.net_size, 3], maxval=255.0)
    labels = tf.constant(np.repeat(np.arange(settings.batch_p), settings.batch_k))
    first = tf.constant(0, tf.int64)
    rate = tf.constant(1e-6)
    stop = tf.constant(0)

    def run():
        result = step(images, labels, iteration=first, rate=rate, stop=stop, frozen=False)
        return result["loss"].numpy()

    return run


def with_keras_norm(name: str) -> SimpleNamespace:
    """The net `name`, to stand in for itself, with the batch norm of Keras."""
    import keras

    from network.layers import BatchNorm

    ours = common.load_plugin("nets", name)

    def convert(layer):
        if not isinstance(layer, BatchNorm):
            return layer
        return keras.layers.BatchNormalization(
            momentum=layer.decay, epsilon=layer.epsilon, name=layer.name, dtype=layer.dtype_policy
        )

    def build(input_shape, **options):
        net = ours.build(input_shape, **options)
        return keras.models.clone_model(net, clone_function=convert, recursive=True)

    return SimpleNamespace(build=build)


def training_operations(settings: Settings) -> float:
    """Multiplications and additions that an iteration takes for its convolutions and dense layers.

    Each is computed three times: forward, and backward to inputs and to kernels.
    """
    from keras import layers

    from network import model

    network = model.build(
        settings.model_name,
        settings.head_name,
        settings.embedding_dim,
        (*settings.net_size, 3),
        flags.net_options(settings),
    )
    operations = 0
    for layer in network._flatten_layers():
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
            # A kernel has as many weights as each pixel or token of the output takes products,
            # depthwise or not.
            places = int(np.prod(layer.output.shape[1:-1]))
            operations += 3 * 2 * int(np.prod(layer.kernel.shape)) * places
    return float(settings.batch_p * settings.batch_k * operations)


def convolution(dtype: str) -> Way:
    """A large convolution."""
    import tensorflow as tf

    images = tf.ones([16, 64, 32, 256], dtype)
    kernel = tf.ones([3, 3, 256, 256], dtype)
    convolve = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))
    return Way(lambda: convolve()[0, 0, 0, 0].numpy(), 2.0 * 16 * 64 * 32 * 9 * 256 * 256)


def main(args: argparse.Namespace) -> None:
    import_tensorflow()

    def settings(precision: str = "float32") -> Settings:
        return Settings(
            experiment_root="none",
            seed=1,
            precision=precision,
            batch_p=args.batch_p,
            batch_k=args.batch_k,
            **flags.architecture_flags(args),
        )

    trained = {
        "float32": iteration(settings()),
        "mixed_bfloat16": iteration(settings("mixed_bfloat16")),
        "Keras' batch norm": iteration(settings(), keras_norm=True),
        "Keras' batch norm and Adam": iteration(settings(), keras_norm=True, keras_adam=True),
    }
    operations = training_operations(settings())
    ways = {
        **{name: Way(run, operations) for name, run in trained.items()},
        "peak float32": convolution("float32"),
        "peak bfloat16": convolution("bfloat16"),
    }
    seconds = medians({name: way.run for name, way in ways.items()}, args.rounds)
    print_table(settings(), ways, seconds)
    print(advice(seconds["mixed_bfloat16"] / seconds["float32"]))


def print_table(settings: Settings, ways: dict[str, Way], seconds: dict[str, float]) -> None:
    height, width = settings.net_size
    print(f"{settings.model_name}, {settings.batch_p}x{settings.batch_k} of {height}x{width}")
    print(f"{'':28}  seconds  GFLOP/s  of the peak  time of float32")
    rates = {name: ways[name].operations / time / 1e9 for name, time in seconds.items()}
    for name, time in seconds.items():
        line = f"{name:28}{time:9.3f}{rates[name]:9.0f}"
        if not name.startswith("peak"):
            peak = rates["peak bfloat16" if "bfloat16" in name else "peak float32"]
            line += f"{rates[name] / peak:13.0%}{time / seconds['float32']:17.2f}"
        print(line)


def advice(ratio: float) -> str:
    """Which --precision to take, by the time of mixed_bfloat16 divided by that of float32."""
    took = f"--precision mixed_bfloat16 takes {ratio:.2f} of the time of float32 here"
    if ratio < 1 - _NOISE:
        return f"{took}, and half the memory: use it."
    if ratio > 1 + _NOISE:
        return f"{took}: stay with float32, unless you need half the memory."
    return f"{took}, which is no difference: use it if you need half the memory."


if __name__ == "__main__":
    common.run(main, parse_args)
