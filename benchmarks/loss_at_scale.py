"""Time and memory of the batch-hard loss with its gradient for a large batch, beside its matrix
products alone.

    python -m benchmarks.loss_at_scale

The products are the three that any way of computing these distances needs, in float64, as loss.cdist
computes them: one of all embeddings with each other, and two for the gradient. Memory is the peak
during the first step, minus the peak before it, when TensorFlow was imported already. This needs
about 3 GB and, on two cores, a minute or two.
"""

import argparse
import sys

import common
from benchmarks import _measure
from runtime.tensorflow import import_tensorflow


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m benchmarks.loss_at_scale"
    parser.add_argument(
        "--batch",
        type=common.positive_int,
        default=8192,
        metavar="B",
        help="Number of embeddings in the batch, 4 of each pid.",
    )
    parser.add_argument(
        "--dim",
        type=common.positive_int,
        default=512,
        metavar="D",
        help="Dimension of the embeddings.",
    )
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=3,
        metavar="N",
        help="Number of measurements. The median counts.",
    )
    return parser.parse_args(argv)


def peak_mb() -> float:
    """The most memory that this process has had since it began, in MB."""
    import resource  # not on Windows, where --help should work nevertheless

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(args: argparse.Namespace) -> None:
    tf = import_tensorflow()

    import loss

    embs = tf.random.stateless_normal([args.batch, args.dim], [1, 2])
    pids = tf.range(args.batch) // 4

    @tf.function
    def step(embs, pids):
        with tf.GradientTape() as tape:
            tape.watch(embs)
            dists = loss.cdist(embs, embs)
            mean = tf.reduce_mean(loss.batch_hard(dists, pids, "soft"))
        return tape.gradient(mean, embs)

    @tf.function
    def products(embs):
        embs = tf.cast(embs, tf.float64)
        weights = tf.linalg.matmul(embs, embs, transpose_b=True)
        return tf.linalg.matmul(weights, embs), tf.linalg.matmul(weights, embs, transpose_a=True)

    step(embs[:8], pids[:8])  # so that TensorFlow has what it needs for any step
    before = peak_mb()
    step(embs, pids)[0].numpy()
    memory = peak_mb() - before
    ways = {
        "loss": lambda: step(embs, pids)[0].numpy(),
        "products": lambda: products(embs)[1][0].numpy(),
    }
    seconds = _measure.medians(ways, args.rounds)
    print(f"batch_hard of {args.batch} embeddings of {args.dim} numbers, with its gradient:")
    print(f"peak memory {memory:.0f} MB above the {before:.0f} MB of the process before")
    print(
        f"{seconds['loss']:.2f} s; its matrix products alone {seconds['products']:.2f} s; "
        f"ratio {seconds['loss'] / seconds['products']:.2f}"
    )


if __name__ == "__main__":
    common.run(main, parse_args)
