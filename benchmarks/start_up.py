"""How long a training of many images takes to its first batch, step by step, and the memory.

    python -m benchmarks.start_up

Makes small images, links to a few, 1,000 in a folder, in a temporary directory.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import common
import train
from data import dataset, pk_sampler
from experiment import flags

_IN_A_FOLDER = 1000
_LINKS = 10_000  # of one file: file systems have a limit


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--images",
        type=common.positive_int,
        default=1_000_000,
        metavar="N",
        help="Number of images, 20 of each pid.",
    )
    parser.add_argument(
        "--no_file_check", action="store_true", help="As train.py is called with this flag."
    )
    return parser.parse_args(argv)


def make_dataset(folder: Path, count: int) -> None:
    """Write train.csv and the images that it names."""
    rng = np.random.default_rng(0)
    with open(folder / "train.csv", "w") as csv:
        for number in range(count):
            fid = f"{number // _IN_A_FOLDER:04d}/{number:07d}_c{number % 6}s1.jpg"
            if number % _IN_A_FOLDER == 0:
                (folder / fid).parent.mkdir()
            if number % _LINKS == 0:
                file = folder / f"{number}.jpg"
                Image.fromarray(rng.integers(0, 256, (128, 64, 3), np.uint8)).save(file)
            os.link(file, folder / fid)
            csv.write(f"{number // 20:05d},{fid}\n")


def steps(folder: Path, no_file_check: bool) -> Iterator[str]:
    """What train.py does up to its first batch; yields what was done."""
    argv = f"--experiment_root={folder}/exp --train_set={folder}/train.csv --image_root={folder} --batch_p=18"
    argv += " --net_input_height=64 --net_input_width=32 --seed=1"
    argv += " --no_file_check" if no_file_check else ""
    settings = train.parse_args(argv.split()).settings
    paths = flags.several(settings.train_set)
    images = dataset.load_sets(paths, "train")
    yield "the CSV is read"
    pk_sampler.make_sampler(images, settings.batch_p, settings.batch_k, seed=0)
    yield "pids are grouped"
    dataset.check_sets(images, paths, [str(folder)], False, False, no_file_check)
    yield "files are looked for"

    from runtime.cluster import find_cluster, make_strategy

    strategy = make_strategy("one")
    from training.batches import Batches

    yield "TensorFlow is imported"
    batches = Batches(images, settings, strategy, find_cluster("one"))
    next(batches.starting_at(0))
    yield "the first batch is there"


def main(args: argparse.Namespace) -> None:
    import resource  # not on Windows

    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), args.images)
        print("seconds  of the processor  MB at most")
        began = time.perf_counter()
        processor = time.process_time()
        for step in steps(Path(folder), args.no_file_check):
            seconds = time.perf_counter() - began
            megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{seconds:7.1f}  {time.process_time() - processor:16.1f}  {megabytes:10.0f}  {step}"
            )


if __name__ == "__main__":
    common.run(main, parse_args)
