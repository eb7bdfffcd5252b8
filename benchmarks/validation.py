"""The time of a validation, and of embed.py for the same images without its start.

    python -m benchmarks.validation

Images, sizes and net are those of the demo. Both ways read files, embed and leave the result: in an
HDF5 file, or as figures of an evaluation in which each image is looked for among the others. This
takes a minute on two cores.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import common
import embed
from benchmarks import _measure
from benchmarks.embedding import make_experiment, make_images
from data.dataset import Dataset
from experiment.flags import Settings
from runtime.cluster import Cluster
from training import validation_set
from uninterrupt import Uninterrupt


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m benchmarks.validation"
    parser.add_argument("--images", type=common.positive_int, default=500, metavar="N")
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=9,
        metavar="N",
        help="Number of measurements of each of the two ways. The median counts.",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fids = make_images(folder, args.images, (128, 64))
        pids = [str(number // 5) for number in range(args.images)]
        csv = folder / "images.csv"
        csv.write_text("".join(f"{pid},{fid}\n" for pid, fid in zip(pids, fids, strict=True)))
        settings = Settings(
            experiment_root=str(folder / "exp"),
            image_root=str(folder),
            model_name="lunet_narrow",
            head_name="direct",
            embedding_dim=64,
            net_input_height=64,
            net_input_width=32,
            pre_crop_height=72,
            pre_crop_width=36,
            crop_augment=True,
            batch_p=16,
            batch_k=4,
            seed=1,
            val_query=str(csv),
            val_gallery=str(csv),
            val_excluder="diagonal",
        )
        make_experiment(settings)  # imports TensorFlow
        compare(settings, Dataset(["none"], ["none"]), args.rounds)


def compare(settings: Settings, train_set: Dataset, rounds: int) -> None:
    import tensorflow as tf

    from training.state import State
    from training.validation import Validator

    data = validation_set.load(train_set, settings)
    strategy = tf.distribute.get_strategy()
    state = State(settings, pid_images=np.ones(2), strategy=strategy)
    validator = Validator(settings, data.validation, state, strategy, Cluster())
    embedder = embed.Embedder(settings.experiment_root, crop_augment="center")
    paths = data.validation.gallery.paths(settings.image_root)
    embeddings = Path(settings.experiment_root) / "embs.h5"
    seconds = _measure.medians(
        {
            "embed.py": lambda: embed.write(embeddings, embedder, paths),
            "a validation": lambda: validator.figures(1, Uninterrupt()),
        },
        rounds,
    )
    for name, time in seconds.items():
        ratio = time / seconds["embed.py"]
        print(f"{len(paths)} images, {name:12}: {time:.3f} s, {ratio:.2f} times embed.py's")


if __name__ == "__main__":
    common.run(main, parse_args)
