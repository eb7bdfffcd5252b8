r"""The time per image of a large batch in chunks, beside a small batch in one piece.

    python -m benchmarks.chunks
    python -m benchmarks.chunks --batch_p 16 --large_k 8 --precision mixed_bfloat16

The network, the loss and the optimizer are those of train.py, on images that are there already.
Two networks are in memory, one for each batch.
"""

import argparse
import time

import common
from benchmarks._measure import medians
from benchmarks.train_step import iteration
from experiment import flags
from experiment.flags import Architecture, Settings
from runtime.tensorflow import import_tensorflow

_CLOCKS = {"elapsed": time.perf_counter, "processor": time.process_time}


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    for field in flags.rows(Architecture):
        parser.add_argument(f"--{field.name}", **field.metadata["options"])
    numbers = {
        "batch_p": (18, "P", "Number of pids in each batch."),
        "batch_k": (4, "K", "Number of images of each pid in the small batch."),
        "large_k": (16, "K", "Number of images of each pid in the large batch."),
        "chunk": (32, "N", "Number of images in a chunk of the large batch."),
        "rounds": (5, "N", "Number of measurements of each way. The median counts."),
    }
    for name, (default, metavar, text) in numbers.items():
        # A triplet is two images of one pid and one of another.
        kind = common.positive_int if name in ("chunk", "rounds") else common.integer(2)
        parser.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=text)
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        default="float32",
        help="As the flag of train.py.",
    )
    parser.add_argument(
        "--clock",
        choices=_CLOCKS,
        default="elapsed",
        help="What counts: the time that passes, or that of all threads on the processor, where the machine does other "
        "work, too.",
    )
    args = parser.parse_args(argv)
    large = args.batch_p * args.large_k
    if large % args.chunk:
        parser.error(
            f"argument --chunk: should divide the {large} images of the large batch. Received: {args.chunk}"
        )
    return args


def main(args: argparse.Namespace) -> None:
    import_tensorflow()

    def settings(images_per_pid: int, chunk: int) -> Settings:
        return Settings(
            experiment_root="none",
            seed=1,
            precision=args.precision,
            batch_p=args.batch_p,
            batch_k=images_per_pid,
            chunk=chunk,
            **flags.architecture_flags(args),
        )

    small = args.batch_p * args.batch_k
    large = args.batch_p * args.large_k
    images = {f"{small} in one piece": small, f"{large} in chunks of {args.chunk}": large}
    runs = iteration(settings(args.batch_k, 0)), iteration(settings(args.large_k, args.chunk))
    seconds = medians(dict(zip(images, runs, strict=True)), args.rounds, _CLOCKS[args.clock])

    height, width = settings(args.batch_k, 0).net_size
    print(f"{args.model_name}, images of {height}x{width}, {args.precision}, {args.clock} time")
    print(f"{'images of an iteration':28}  seconds  ms an image  times one piece")
    per_image = {name: seconds[name] / count for name, count in images.items()}
    first = next(iter(per_image.values()))
    for name, each in per_image.items():
        print(f"{name:28}{seconds[name]:9.3f}{1e3 * each:13.1f}{each / first:17.2f}")


if __name__ == "__main__":
    common.run(main, parse_args)
