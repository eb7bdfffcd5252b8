"""Ten-crop embedding from files into an HDF5 file: its speed and its memory.

    python -m benchmarks.embedding
    python -m benchmarks.embedding --model_name lunet_narrow --head_name direct

The baseline of speed is the network alone, on batches of the same size that are there already.
Memory is the peak of embed.py in a process of its own, with a small network, for few images and for
many. This takes five minutes with the ResNet-50 on two cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import common
import embed
from benchmarks import _measure
from experiment import args_json
from experiment.flags import Settings
from runtime.tensorflow import import_tensorflow

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m benchmarks.embedding"
    parser.add_argument("--model_name", type=common.plugin_name("nets"), default="resnet_v1_50")
    parser.add_argument("--head_name", type=common.plugin_name("heads"), default="fc1024")
    common.add_flag(
        parser, "batch_size", help="Number of crops that go through the network at a time."
    )
    parser.add_argument(
        "--batches",
        type=common.positive_int,
        default=3,
        metavar="N",
        help="Number of batches in each measurement.",
    )
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=5,
        metavar="N",
        help="Number of measurements of each of the two ways. The median counts.",
    )
    return parser.parse_args(argv)


def make_images(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Write JPEGs of soft colors, each of size (height, width).

    Returns:
        Their names, relative to the folder.
    """
    rng = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(count)]
    for name in names:
        colors = Image.fromarray(rng.integers(0, 256, (8, 4, 3), np.uint8))
        colors.resize(size[::-1]).save(folder / name, quality=90)
    return names


def make_experiment(settings: Settings) -> None:
    """Write an untrained experiment: args.json, and a checkpoint of random weights."""
    import_tensorflow()
    from network import checkpoints, model

    root = Path(settings.experiment_root)
    root.mkdir()
    args_json.write(settings)
    network = model.build(
        settings.model_name, settings.head_name, settings.embedding_dim, (*settings.net_size, 3)
    )
    checkpoints.save(root, 0, checkpoints.named_variables(network))


def peak_memory(*command: str) -> float:
    """MiB that a Python command of ours took at its peak."""
    # import_tensorflow sets this here; with it the command would print TensorFlow's notes.
    environment = {name: text for name, text in os.environ.items() if name != _LOG_LEVEL}
    process = subprocess.Popen([sys.executable, *command], cwd=common.HERE, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / 1024  # Linux counts in KiB


def compare_memory(folder: Path, counts: tuple[int, ...]) -> None:
    settings = Settings(
        experiment_root=str(folder / "small"),
        model_name="lunet_narrow",
        head_name="direct",
        embedding_dim=32,
        net_input_height=32,
        net_input_width=16,
        pre_crop_height=36,
        pre_crop_width=18,
        crop_augment=True,
    )
    make_experiment(settings)
    names = make_images(folder, max(counts), settings.net_size)
    for count in counts:
        dataset = folder / f"{count}.csv"
        dataset.write_text("".join(f"0,{name}\n" for name in names[:count]))
        flags = f"--experiment_root={folder}/small --dataset={dataset} --image_root={folder}"
        flags += " --crop_augment=five --flip_augment --aggregator=mean --quiet"
        peaks = [peak_memory("embed.py", *flags.split()) for _ in range(3)]
        print(f"{count:6d} images: at most {np.median(peaks):.0f} MiB of memory")


def compare_throughput(folder: Path, args: argparse.Namespace) -> None:
    settings = Settings(
        experiment_root=str(folder / "exp"),
        model_name=args.model_name,
        head_name=args.head_name,
        crop_augment=True,
    )
    make_experiment(settings)
    embedder = embed.Embedder(
        settings.experiment_root,
        flip_augment=True,
        crop_augment="five",
        aggregator="mean",
        batch_size=args.batch_size,
    )
    images_a_batch = max(1, args.batch_size // 10)
    images = folder / "images"
    images.mkdir()
    names = make_images(images, args.batches * images_a_batch, settings.net_size)
    paths = [str(images / name) for name in names]

    import tensorflow as tf

    @tf.function
    def bare(images):
        return embedder.network(images, training=False)["emb"]

    ready = tf.random.uniform([images_a_batch * 10, *settings.net_size, 3], maxval=255)
    seconds = _measure.medians(
        {
            "the bare network": lambda: [bare(ready).numpy() for _ in range(args.batches)],
            "from files to HDF5": lambda: embed.write(folder / "embs.h5", embedder, paths),
        },
        args.rounds,
    )
    for name, time in seconds.items():
        rate = len(paths) * 10 / time
        share = seconds["the bare network"] / time
        print(f"{args.model_name}, {name:18}: {rate:7.1f} crops/s, {share:.1%}")


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compare_memory(Path(folder), (1000, 20000))
        compare_throughput(Path(folder), args)


if __name__ == "__main__":
    common.run(main, parse_args)
