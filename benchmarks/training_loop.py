"""What the loop of train.py costs beside its images and its network.

    python -m benchmarks.training_loop

A net that looks at a few pixels is trained by train.py as it is, logs and all: its images a second
are those of the loop. Beside it the bare pipeline, with the same flags and nothing behind it. Then
a ResNet-50 with Adam's state
saves checkpoints while it trains: how much longer than the others do iterations take that run
    beside a save?
"""

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import common
from benchmarks.input_pipeline import make_images
from runtime.tensorflow import import_tensorflow


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--iterations", type=common.positive_int, default=200, metavar="N", help="Of the loop."
    )
    parser.add_argument(
        "--rounds", type=common.positive_int, default=5, metavar="N", help="Of loop and pipeline."
    )
    parser.add_argument(
        "--saves", type=common.positive_int, default=3, metavar="N", help="Of the ResNet-50."
    )
    return parser.parse_args(argv)


def build_trivial(input_shape):
    """A linear layer of 8 pixels: images -> features [B, 16]."""
    import keras

    images = keras.Input(input_shape, dtype="float32", name="images")
    pixels = keras.layers.Flatten()(images[:, :: input_shape[0] // 4, :: input_shape[1] // 2])
    return keras.Model(
        images, keras.layers.Dense(16, name="trivial.linear")(pixels / 255.0), name="trivial"
    )


@contextlib.contextmanager
def trivial_net():
    """Within the context every net is build_trivial's."""
    load_plugin = common.load_plugin
    trivial = SimpleNamespace(build=build_trivial)
    common.load_plugin = lambda folder, name: (
        trivial if folder == "nets" else load_plugin(folder, name)
    )
    try:
        yield
    finally:
        common.load_plugin = load_plugin


def train_seconds(flags: list[str]) -> np.ndarray:
    """Train with train.py. Returns: when each iteration began, seconds."""
    import train
    from training import step as train_step

    make, times = train_step.make, []

    def timed(*arguments):
        step = make(*arguments)

        def run(*inputs):
            times.append(time.perf_counter())
            return step(*inputs)

        return run

    train_step.make = timed
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            train.main(train.parse_args(flags))
    finally:
        train_step.make = make
    return np.array(times)


def pipeline_seconds(folder: Path, rows: list[tuple[str, str]], iterations: int) -> np.ndarray:
    """When each batch of the bare pipeline was there."""
    from data import images, pk_sampler

    pids, fids = zip(*rows, strict=True)
    batches = images.training_batches(
        pk_sampler.batches(pk_sampler.group_by_pid(pids), 18, 4, 1, 0, iterations),
        72,
        [str(folder / fid) for fid in fids],
        1,
        0,
        images.Augmentation((256, 128), (288, 144), random_flip=True),
        8,
    )
    return np.array([time.perf_counter() for _ in batches])


def main(args: argparse.Namespace) -> None:
    import_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = make_images(folder, 1500, mixed=False)
        rows = [(str(number // 15), Path(path).name) for number, path in enumerate(paths)]
        (folder / "train.csv").write_text("".join(f"{pid},{fid}\n" for pid, fid in rows))
        flags = f"--train_set={folder}/train.csv --image_root={folder} --batch_p=18 --batch_k=4 --crop_augment"
        flags = [*flags.split(), "--flip_augment", "--seed=1"]
        roots = (f"--experiment_root={folder}/exp{number}" for number in itertools.count())

        # The first iterations trace, and take what was loaded ahead.
        speed = {"bare pipeline": [], "training loop": []}
        for _ in range(args.rounds):
            taken = pipeline_seconds(folder, rows, args.iterations)
            with trivial_net():
                loop = [
                    *flags,
                    f"--train_iterations={args.iterations}",
                    "--head_name=direct",
                    "--image_frequency=0",
                ]
                looped = train_seconds([*loop, next(roots)])
            for name, times in zip(speed, (taken, looped), strict=True):
                speed[name].append(72 * (len(times) - 21) / (times[-1] - times[20]))
        pipeline, loop = map(statistics.median, speed.values())
        print(
            f"bare pipeline {pipeline:,.0f} images/s, training loop {loop:,.0f}: {loop / pipeline:.0%}"
        )

        every = 5
        iterations = f"--train_iterations={every * (args.saves + 1)}"
        times = train_seconds([*flags, iterations, f"--checkpoint_frequency={every}", next(roots)])
        usual, beside = [], []
        # Iteration 0 traces; the save after every fifth one falls into the time until the next, and
        # runs beside it.
        for number, seconds in enumerate(np.diff(times)[2:], start=3):
            (beside if number % every in (0, 1) else usual).append(seconds)
        delay = max(beside) - statistics.median(usual)
        print(
            f"ResNet-50 with Adam: {statistics.median(usual):.2f} s an iteration, up to {max(beside):.2f} s beside a "
            f"save: {delay / statistics.median(usual):.0%} longer"
        )


if __name__ == "__main__":
    common.run(main, parse_args)
