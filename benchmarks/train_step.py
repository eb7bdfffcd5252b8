r"""The time of a training iteration, beside stock Keras and beside the machine's own peak.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --model_name mobilenet_v1_1_224 --batch_p 16 \
        --net_input_height 128 --net_input_width 64

The network, the loss and the optimizer are those of train.py, on images that are there already.
Beside them the same with Keras' batch norm, and with Keras' batch norm and Adam. The peak is that
of a large convolution, which is measured in turns with the iterations; the work of an iteration is
counted as that of its convolutions, forward, to the inputs and to the kernels.
"""

import argparse
import functools

import numpy as np

import common
import experiment
from benchmarks._measure import medians
from runtime.tensorflow import import_tensorflow


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    experiment.add_architecture_flags(parser)
    parser.add_argument("--batch_p", type=common.positive_int, default=18, metavar="P")
    parser.add_argument("--batch_k", type=common.positive_int, default=4, metavar="K")
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=5,
        metavar="N",
        help="Measurements of each way.",
    )
    return parser.parse_args(argv)


def iteration(
    args: argparse.Namespace,
    precision: str = "float32",
    keras_norm: bool = False,
    keras_adam: bool = False,
):
    """A function that does an iteration, and the floating-point operations that its convolutions
    take.
    """
    import keras
    import tensorflow as tf

    from network import model
    from training import companions as companions_of
    from training import optimizers
    from training import step as train_step

    flags = vars(
        experiment.make_parser().parse_args(["--experiment_root=none", f"--precision={precision}"])
    )
    names = set(experiment.ARCHITECTURE) | {"batch_p", "batch_k"}
    flags = argparse.Namespace(
        **(flags | {name: getattr(args, name) for name in names} | {"seed": 1})
    )
    with keras_batch_norm(keras_norm):
        network = model.build(
            args.model_name,
            args.head_name,
            args.embedding_dim,
            (args.net_input_height, args.net_input_width, 3),
            precision=precision,
        )
    if keras_adam:
        optimizer = keras.optimizers.Adam(flags.learning_rate, epsilon=1e-8)
        optimizer.build(network.trainable_variables)
    else:
        optimizer = optimizers.build(flags, network.trainable_variables)
    companions = companions_of.companions(args.batch_p, flags)
    step = train_step.make(tf.distribute.get_strategy(), network, companions, optimizer, flags)
    B = args.batch_p * args.batch_k
    images = tf.random.uniform([B, args.net_input_height, args.net_input_width, 3], maxval=255.0)
    labels, zero = (
        tf.constant(np.repeat(np.arange(args.batch_p), args.batch_k)),
        tf.constant(0, tf.int64),
    )
    rate, stop = tf.constant(1e-6), tf.constant(0)
    return lambda: step(images, labels, zero, rate, stop, False)[
        "loss"
    ].numpy(), B * training_operations(network)


class keras_batch_norm:
    """Within the context nets and heads are built with Keras' batch norm, if `wanted`."""

    def __init__(self, wanted: bool):
        self._modules = []
        if wanted:
            from heads import _layers
            from nets import _keras, _lunet, _resnet_v1, mobilenet_v1_1_224

            self._modules = [_layers, _keras, _lunet, _resnet_v1, mobilenet_v1_1_224]

    def __enter__(self):
        import keras

        self._before = [module.BatchNorm for module in self._modules]
        for module in self._modules:
            module.BatchNorm = lambda decay, epsilon, **options: keras.layers.BatchNormalization(
                momentum=decay, epsilon=epsilon, **options
            )

    def __exit__(self, *_):
        for module, ours in zip(self._modules, self._before, strict=True):
            module.BatchNorm = ours


def training_operations(network) -> float:
    """Multiplications and additions of an image's convolutions: each is computed three times in
    training.
    """
    import keras

    operations = 0
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            _, height, width, _ = layer.output.shape
            # A kernel has as many weights as each pixel of the output takes products, depthwise or
            # not.
            operations += 3 * 2 * int(np.prod(layer.kernel.shape)) * height * width
    return float(operations)


def convolution(dtype: str):
    """A function that computes a large convolution, and its floating-point operations."""
    import tensorflow as tf

    images, kernel = tf.ones([16, 64, 32, 256], dtype), tf.ones([3, 3, 256, 256], dtype)
    convolve = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))
    return lambda: convolve()[0, 0, 0, 0].numpy(), 2.0 * 16 * 64 * 32 * 9 * 256 * 256


def main(args: argparse.Namespace) -> None:
    import_tensorflow()
    step = functools.partial(iteration, args)
    ways = {
        "float32": step(),
        "mixed_bfloat16": step("mixed_bfloat16"),
        "Keras' batch norm": step(keras_norm=True),
        "Keras' batch norm and Adam": step(keras_norm=True, keras_adam=True),
        "peak float32": convolution("float32"),
        "peak bfloat16": convolution("bfloat16"),
    }
    seconds = medians({name: run for name, (run, _) in ways.items()}, args.rounds)
    rates = {name: ways[name][1] / time / 1e9 for name, time in seconds.items()}
    print(
        f"{args.model_name}, {args.batch_p}x{args.batch_k} of {args.net_input_height}x{args.net_input_width}"
    )
    print(f"{'':28}  seconds  GFLOP/s  of the peak  time of float32")
    for name, time in seconds.items():
        peak = rates["peak bfloat16" if "bfloat16" in name else "peak float32"]
        beside = (
            ""
            if name.startswith("peak")
            else f"{rates[name] / peak:13.0%}{time / seconds['float32']:17.2f}"
        )
        print(f"{name:28}{time:9.3f}{rates[name]:9.0f}{beside}")


if __name__ == "__main__":
    common.run(main, parse_args)
