"""What the loop of train.py costs beside its images and its network.

    python -m benchmarks.training_loop

train.py trains a net that looks at a few pixels, logs and all: its images a second are those of the
loop. Beside it the bare pipeline loads the same batches, and nothing uses them. Then a ResNet-50
with Adam's state saves checkpoints while it trains: how much longer than the others are iterations
that run beside a save?
"""

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

import common
import train
from benchmarks.input_pipeline import make_images
from data import dataset
from experiment.flags import Settings
from runtime.cluster import Cluster
from runtime.tensorflow import import_tensorflow

P, K = 18, 4
# The first iterations trace, and take what was loaded ahead.
LEFT_OUT = 20


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--iterations",
        type=common.positive_int,
        default=200,
        metavar="N",
        help=f"Iterations of the loop that are measured; {LEFT_OUT} others come before them.",
    )
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=5,
        metavar="N",
        help="Number of measurements of the loop and of the pipeline. The median counts.",
    )
    parser.add_argument(
        "--saves",
        type=common.positive_int,
        default=3,
        metavar="N",
        help="Number of checkpoints of the ResNet-50 that are measured.",
    )
    return parser.parse_args(argv)


def build_trivial(input_shape):
    """A linear layer of 8 pixels: images -> features [B, 16]."""
    import keras

    images = keras.Input(input_shape, dtype="float32", name="images")
    pixels = images[:, :: input_shape[0] // 4, :: input_shape[1] // 2]
    features = keras.layers.Dense(16, name="trivial.linear")(keras.layers.Flatten()(pixels) / 255.0)
    return keras.Model(images, features, name="trivial")


def time_training(settings: Settings) -> np.ndarray:
    """Train with train.py. Returns: when each iteration was started, in seconds."""
    from training import loop

    times = []

    def make_timed_step(*arguments):
        step = make_step(*arguments)

        def timed(*inputs, **named_inputs):
            times.append(time.perf_counter())
            return step(*inputs, **named_inputs)

        return timed

    make_step = loop.make_step
    with (
        mock.patch.object(loop, "make_step", make_timed_step),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        train.main(train.Call(settings, given={}, resume=False))
    return np.array(times)


def time_pipeline(settings: Settings) -> np.ndarray:
    """Load the batches of a training. Returns: when each was there, in seconds."""
    import tensorflow as tf

    from training.batches import Batches

    train_set = dataset.load(settings.train_set)
    batches = Batches(train_set, settings, tf.distribute.get_strategy(), Cluster())
    return np.array([time.perf_counter() for _ in batches.starting_at(0)])


def compare_with_pipeline(settings: Iterator[Settings], rounds: int) -> None:
    trivial = SimpleNamespace(build=build_trivial)
    rates = {"pipeline": [], "loop": []}
    for _ in range(rounds):
        rates["pipeline"].append(images_a_second(time_pipeline(next(settings))))
        with common.plugin("nets", "lunet_narrow", trivial):
            rates["loop"].append(images_a_second(time_training(next(settings))))
    pipeline = statistics.median(rates["pipeline"])
    loop = statistics.median(rates["loop"])
    print(
        f"bare pipeline {pipeline:,.0f} images/s, training loop {loop:,.0f}: {loop / pipeline:.0%}"
    )


def images_a_second(times: np.ndarray) -> float:
    measured = times[LEFT_OUT:]
    return P * K * (len(measured) - 1) / (measured[-1] - measured[0])


def compare_with_saves(settings: Settings) -> None:
    every = settings.checkpoint_frequency
    usual, beside = [], []
    # Iteration 0 traces. The save after every fifth one falls into the time until the next, and
    # runs beside it.
    for number, seconds in enumerate(np.diff(time_training(settings))[2:], start=3):
        (beside if number % every in (0, 1) else usual).append(seconds)
    median = statistics.median(usual)
    print(
        f"ResNet-50 with Adam: {median:.2f} s an iteration, up to {max(beside):.2f} s beside a save: "
        f"{max(beside) / median - 1:.0%} longer"
    )


def main(args: argparse.Namespace) -> None:
    import_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = make_images(folder, 1500, mixed=False)
        rows = [f"{number // 15},{Path(path).name}\n" for number, path in enumerate(paths)]
        (folder / "train.csv").write_text("".join(rows))
        numbers = itertools.count()

        def settings(**flags) -> Settings:
            """Those of the original on Market-1501, in a new directory."""
            return Settings(
                experiment_root=str(folder / f"exp{next(numbers)}"),
                train_set=str(folder / "train.csv"),
                image_root=str(folder),
                batch_p=P,
                batch_k=K,
                crop_augment=True,
                flip_augment=True,
                seed=1,
                **flags,
            )

        trivial = {
            "model_name": "lunet_narrow",
            "head_name": "direct",
            "image_frequency": 0,
            "train_iterations": LEFT_OUT + args.iterations + 1,
        }
        compare_with_pipeline((settings(**trivial) for _ in itertools.count()), args.rounds)
        every = 5
        compare_with_saves(
            settings(checkpoint_frequency=every, train_iterations=every * (args.saves + 1))
        )


if __name__ == "__main__":
    common.run(main, parse_args)
