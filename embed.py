"""Embed a data set with a trained experiment and write the embeddings to an HDF5 file.

    python embed.py --experiment_root exp --dataset query.csv
    python embed.py --experiment_root exp --dataset query.csv --flip_augment --crop_augment five \
        --aggregator mean
    python embed.py --experiment_root exp --dataset query.csv --projector  # then: tensorboard
    --logdir exp

The file holds `emb` float32 [N, D] in the order of the CSV and `augmentation_types`, byte strings
[A]; with several variants of each image also `emb_aug` float32 [A, N, D]. Several devices or
workers share the images (--strategy); the chief writes the file.

From Python, for files or arrays (network/embedder.py tells the rest):

    from embed import Embedder
    embs = Embedder("exp")(["a.jpg", "b.png"])
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import common
from common import UserError
from data import dataset
from evaluation import embeddings_file, pooling
from experiment import args_json, flags
from experiment.flags import Architecture
from reports import projector
from runtime import terminal
from runtime.cluster import explain_lost_workers, find_cluster, make_strategy
from runtime.tensorflow import import_tensorflow
from runtime.terminal import log

if TYPE_CHECKING:
    from network.embedder import Embedder


def __getattr__(name: str):
    """`from embed import Embedder` imports TensorFlow, but quietly; --help does not."""
    if name != "Embedder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_tensorflow()
    from network.embedder import Embedder

    return Embedder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    flags.add_experiment_flags(parser)
    group = parser.add_argument_group("data")
    common.add_flag(group, "dataset")
    common.add_flag(
        group,
        "image_root",
        help="Directory that the file ids of the CSV are relative to. Without this flag, that of the training.",
    )
    common.add_flag(group, "allow_any_path")
    group.add_argument(
        "--filename",
        metavar="HDF5",
        help="File to write, relative to the experiment_root. Without this flag, "
        "<name of the dataset>_embeddings.h5.",
    )
    group.add_argument(
        "--projector",
        action="store_true",
        help="Also prepare TensorBoard's projector, with the images; if there are more than "
        f"{projector.MOST_IMAGES}, with the first of them.",
    )
    group = parser.add_argument_group("devices")
    common.add_flag(
        group,
        "batch_size",
        help="Number of images, each variant counted, that go through the network at a time, on all devices "
        "together.",
    )
    common.add_flag(group, "loading_threads")
    common.add_flag(group, "strategy")
    group = parser.add_argument_group("views of an image")
    group.add_argument(
        "--flip_augment", action="store_true", help="Also embed the mirror image of each image."
    )
    group.add_argument(
        "--crop_augment",
        choices=("center", "avgpool", "five"),
        help="Resize to the pre_crop size of the training, then embed the crop of the net_input size at the center, "
        "or five of them, center and corners, or the whole image at once (avgpool). Without this flag, resize to the "
        "net_input size.",
    )
    group.add_argument(
        "--aggregator",
        choices=tuple(pooling.AGGREGATORS),
        help="How the embeddings of the variants of an image become one. Give it with --flip_augment and with "
        "--crop_augment five, and only then.",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="Show neither progress nor warnings on the terminal."
    )
    args = parser.parse_args(argv)
    try:
        pooling.check_aggregator(args.aggregator, args.flip_augment, args.crop_augment)
    except UserError as error:
        parser.error(str(error))
    return args


def write(
    filename: str | os.PathLike, embedder: "Embedder", paths: Sequence[str], quiet: bool = True
) -> None:
    """Embed image files into an HDF5 file; evaluation/embeddings_file.py tells what it holds.

    Rows are written as they come, so memory does not grow with their number.

    Args:
        quiet: no live line on the terminal.
    """
    N = len(paths)
    with (
        embeddings_file.create(
            filename,
            count=N,
            dim=embedder.flags.embedding_dim,
            augmentation_types=embedder.variant_names,
            checkpoint=embedder.checkpoint,
        ) as file,
        terminal.bar(N, "img", show=not quiet) as bar,
    ):
        for variants in embedder.batches(paths):
            file.add(embedder.aggregate(variants), variants)
            bar.update(variants.shape[1])


def main(args: argparse.Namespace) -> None:
    """Check all that can be wrong before anything slow and before anything is written; embed."""
    cluster = find_cluster(args.strategy)
    terminal.setup_logging("embed")
    if args.quiet or not cluster.is_chief:
        log.setLevel("ERROR")
    architecture = args_json.architecture(args.experiment_root, flags.architecture_flags(args))
    images, image_root = _load_dataset(args, architecture)
    filename = _check_filename(args)
    if args.projector:
        projector.read_config(args.experiment_root)

    strategy = make_strategy(args.strategy)  # imports TensorFlow
    from network.embedder import Embedder
    from runtime import devices

    with explain_lost_workers(cluster), strategy.scope():
        embedder = Embedder(
            args.experiment_root,
            args.checkpoint,
            flip_augment=args.flip_augment,
            crop_augment=args.crop_augment,
            aggregator=args.aggregator,
            batch_size=args.batch_size,
            loading_threads=args.loading_threads,
            **flags.architecture_flags(architecture),  # all, so that no warning comes twice
        )
        paths = images.paths(image_root)
        if cluster.is_chief:
            R = strategy.num_replicas_in_sync
            on = f", on {R} devices" if R > 1 else ""
            log.info(
                f"Embedding {len(paths)} images of {args.dataset} with {embedder.checkpoint}{on}."
            )
            write(filename, embedder, paths, args.quiet)
            log.info(
                f"Wrote the embeddings, {len(paths)} of {architecture.embedding_dim} numbers, to {filename}."
            )
            if args.projector:
                _write_projector(args.experiment_root, filename, images, paths)
        else:
            for _ in embedder.batches(paths):
                pass
        devices.barrier(strategy, cluster)  # until then nobody leaves


def _load_dataset(
    args: argparse.Namespace, trained: Architecture
) -> tuple[dataset.Dataset, str | os.PathLike]:
    """The images to embed, which are there, and the directory of their files."""
    image_root = args.image_root or getattr(trained, "image_root", None)
    if image_root is None:
        raise UserError(
            f"{args.experiment_root} has no args.json that names an image_root. Give --image_root."
        )
    images = dataset.load(args.dataset)
    try:
        dataset.check_images(args.dataset, image_root, images.fids, args.allow_any_path)
    except UserError as error:
        if args.image_root:
            raise
        raise UserError(
            f"{error} (--image_root is that of {args.experiment_root}/args.json; give another.)"
        ) from None
    return images, image_root


def _check_filename(args: argparse.Namespace) -> str:
    """The file to write. Raises: UserError if it cannot be, or would replace another kind."""
    default_name = f"{Path(args.dataset).stem}_embeddings.h5"
    filename = os.path.join(args.experiment_root, args.filename or default_name)
    try:
        common.writeable_file(filename)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--filename: {error}.") from None
    holds_something = os.path.exists(filename) and os.path.getsize(filename) > 0
    if holds_something and not embeddings_file.is_hdf5(filename):
        raise UserError(
            f"--filename: should not be a file of another kind, which it would replace. Received: {filename}. Give "
            "another name, or take the file away."
        )
    return filename


def _write_projector(
    experiment_root: str, filename: str, images: dataset.Dataset, paths: list[str]
) -> None:
    most = projector.MOST_IMAGES
    if len(paths) > most:
        log.warning(f"The projector shows the first {most} of the {len(paths)} images.")
    name = Path(filename).stem
    projector.write(
        experiment_root,
        name,
        embeddings_file.head(filename, most),
        pids=images.pids[:most],
        fids=images.fids[:most],
        paths=paths[:most],
    )
    log.info(f"Wrote {name} for the projector: tensorboard --logdir {experiment_root}")


if __name__ == "__main__":
    common.run(main, parse_args)
