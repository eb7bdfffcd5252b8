"""Embed a data set with a trained experiment and write the embeddings to a file.

    python embed.py --experiment_root exp --dataset query.csv gallery.csv
    python embed.py --experiment_root exp --dataset query.csv --flip_augment --crop_augment five \
        --aggregator mean
    python embed.py --experiment_root exp --dataset query.csv --projector  # then: tensorboard
    --logdir exp

An HDF5 file holds `emb` float32 [N, D] in the order of the CSV, the `fids` of its rows, and
`augmentation_types`, byte strings [A]; with several views of each image also `emb_aug` float32
[A, N, D]. With `--filename query.parquet` or `query.npy` it is a file of that kind. A file that has
other embeddings is only replaced with --overwrite. Several devices or workers share the images
(--strategy); the chief writes the files.

From Python, for files or arrays (network/embedder.py tells the rest):

    from embed import Embedder
    embs = Embedder("exp")(["a.jpg", "b.png"])
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import common
from common import UserError
from data import cameras, dataset, pictures
from data.dataset import ImageFiles
from data.view_names import view_names
from evaluation import embeddings_file
from evaluation.embeddings_file import Origin
from experiment import args_json, flags, provenance
from experiment.flags import Architecture
from network import checkpoint_paths, view_flags
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
    common.add_flag(
        group,
        "dataset",
        nargs="+",
        help="The images to embed: CSVs of pid,fid. Several take less time together.",
    )
    group.add_argument(
        "--split",
        nargs="+",
        choices=dataset.SPLITS,
        metavar="NAME",
        help="Embed only the rows of these splits, as the CSV's column split has them, each into a file of its own: "
        f"{', '.join(dataset.SPLITS)}. Without this flag, all rows.",
    )
    common.add_flag(
        group,
        "image_root",
        help="Directory that the file ids of the CSV are relative to. Without this flag, that of the training.",
    )
    common.add_flag(group, "allow_any_path")
    common.add_flag(group, "no_file_check")
    group.add_argument(
        "--filename",
        metavar="FILE",
        help="File to write, relative to the experiment_root, for one dataset: HDF5, or Parquet or NumPy's array if it "
        "ends in .parquet or .npy, which hold no single views. Without this flag, "
        "<name of the dataset>_embeddings.h5, or with --split <name of the dataset>_<split>_embeddings.h5.",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="Also replace a file with embeddings of other images, by another checkpoint or of other views.",
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
        help="Number of images, each view counted, that go through the network at a time, on all devices "
        "together.",
    )
    common.add_flag(group, "loading_threads")
    common.add_flag(group, "strategy")
    group = parser.add_argument_group("views of an image")
    view_flags.add(group)
    parser.add_argument(
        "--quiet", action="store_true", help="Show neither progress nor warnings on the terminal."
    )
    args = view_flags.parse_args(parser, argv)
    _check_names(parser, args)
    return args


def _check_names(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with an error where several data sets would get one file."""
    count = len(args.dataset) * len(args.split or [None])
    if args.filename and count > 1:
        parser.error(
            f"argument --filename: is the file of one dataset. Received: {args.filename} for {count} of "
            "them. Leave it out, for <name of the dataset>_embeddings.h5 each, or embed them one by one"
        )
    csv_of: dict[str, str] = {}
    for csv in args.dataset:
        first = csv_of.setdefault(embeddings_file.default_name(csv), csv)
        if first is not csv:
            parser.error(
                f"argument --dataset: {first} and {csv} have one name, so their embeddings would get one file. Embed "
                "them one by one, each with a --filename"
            )


class Job(NamedTuple):
    """A data set to embed."""

    images: dataset.Dataset
    image_root: str
    filename: str  # of the embeddings
    camera_rule: str | None  # as of the training's flags

    @property
    def files(self) -> ImageFiles:
        """Where the pixels are, and the cameras, if the network is told any."""
        return cameras.files(self.images, self.image_root, self.camera_rule)


def write(
    filename: str | os.PathLike,
    embedder: "Embedder",
    images: Sequence[str] | ImageFiles,
    origin: Origin | None = None,
    fids: Sequence[str] | None = None,
    quiet: bool = True,
) -> None:
    """Embed image files into a file; evaluation/embeddings_file.py tells what it holds.

    Rows are written as they come, so memory does not grow with their number.

    Args:
        images: paths, also with boxes.
        origin, fids: what the file says of the embeddings beyond checkpoint and views.
        quiet: no live line on the terminal.
    """
    N = len(images)
    origin = (origin or Origin())._replace(
        checkpoint=str(embedder.checkpoint),
        network=checkpoint_paths.fingerprint(embedder.checkpoint),
        weights=embedder.weights,
        augmentation_types=tuple(embedder.view_names),
        orientation="exif" if embedder.flags.upright else None,
    )
    with (
        embeddings_file.create(
            filename,
            count=N,
            dim=embedder.flags.embedding_dim,
            origin=origin,
            fids=fids,
        ) as file,
        terminal.bar(N, "img", show=not quiet) as bar,
    ):
        for views in embedder.batches(images):
            file.add(embedder.aggregate(views), views)
            bar.update(views.shape[1])


def main(args: argparse.Namespace) -> None:
    """Check all that can be wrong before anything slow and before anything is written; embed."""
    cluster = find_cluster(args.strategy)
    terminal.setup_logging("embed")
    if args.quiet or not cluster.is_chief:
        log.setLevel("ERROR")
    _check_is_utf8(os.path.abspath(args.experiment_root))
    architecture = args_json.architecture(args.experiment_root, flags.architecture_flags(args))
    splits = args.split or [None]
    jobs = [_check_job(args, csv, split, architecture) for csv in args.dataset for split in splits]
    if args.projector:
        for job in jobs:
            projector.check(args.experiment_root, Path(job.filename).stem)
    checkpoint = checkpoint_paths.find(args.experiment_root, args.checkpoint)
    origin = Origin(
        checkpoint=os.path.abspath(checkpoint),
        network=checkpoint_paths.fingerprint(checkpoint),
        weights=checkpoint_paths.chosen_weights(checkpoint, args.weights),
        augmentation_types=tuple(view_names(args.flip_augment, args.crop_augment)),
        aggregator=args.aggregator,
    )
    for job in jobs:
        _check_replaced(job, origin, args.overwrite)
        pictures.check_sample(job.images.files(job.image_root))

    strategy = make_strategy(args.strategy)  # imports TensorFlow
    from network import checkpoints
    from network.embedder import Embedder
    from runtime import devices

    with explain_lost_workers(cluster), strategy.scope():
        embedder = Embedder(
            args.experiment_root,
            args.checkpoint,
            weights=args.weights,
            flip_augment=args.flip_augment,
            crop_augment=args.crop_augment,
            aggregator=args.aggregator,
            batch_size=args.batch_size,
            loading_threads=args.loading_threads,
            **flags.architecture_flags(architecture),  # all, so that no warning comes twice
        )
        # A training that goes on can have saved another one meanwhile, even between two workers.
        devices.assign_those_of_chief(
            strategy, cluster, checkpoints.named_variables(embedder.network)
        )
        if cluster.is_chief and embedder.checkpoint != checkpoint:
            origin = origin._replace(
                checkpoint=os.path.abspath(embedder.checkpoint), weights=embedder.weights
            )
            for job in jobs:
                _check_replaced(job, origin, args.overwrite)
        R = strategy.num_replicas_in_sync
        on = f", on {R} devices" if R > 1 else ""
        for job in jobs:
            if cluster.is_chief:
                log.info(
                    f"Embedding {len(job.images)} images of {job.images.path} with {embedder.source}{on}."
                )
                _embed(job, embedder, origin, args)
            else:
                for _ in embedder.batches(job.files):
                    pass
        devices.barrier(strategy, cluster)  # until then nobody leaves


def _embed(job: Job, embedder: "Embedder", origin: Origin, args: argparse.Namespace) -> None:
    images = job.files
    data = provenance.fingerprint([job.images.path], job.images, job.image_root)
    origin = origin._replace(image_root=job.image_root, data=json.dumps(data))
    write(job.filename, embedder, images, origin, job.images.names(), args.quiet)
    log.info(
        f"Wrote the embeddings, {len(images)} of {embedder.flags.embedding_dim} numbers, to {job.filename}."
    )
    if args.projector:
        _write_projector(args.experiment_root, job.filename, job.images, images)


def _check_job(args: argparse.Namespace, csv: str, split: str | None, trained: Architecture) -> Job:
    """A data set whose images are there, and its file, which may be written.

    Raises:
        UserError: it is otherwise.
    """
    images, image_root = _load_dataset(args, csv, split, trained)
    filename = _check_filename(args, embeddings_file.default_name(csv, split))
    return Job(images, image_root, filename, trained.camera_rule)


def _check_is_utf8(path: str) -> None:
    """Raises: UserError for a path that the file of embeddings cannot tell, as HDF5 is UTF-8."""
    if not common.is_utf8(path):
        raise UserError(
            f"the path of the experiment should be UTF-8. Received: {ascii(path)}. Rename the folder, or move the "
            "experiment."
        )


def _check_replaced(job: Job, origin: Origin, overwrite: bool) -> None:
    """Log what a file replaces. Raises: UserError for other embeddings, unless it may."""
    if not os.path.exists(job.filename):
        return
    lost = embeddings_file.what_would_be_lost(job.filename, job.images, origin)
    if lost and not overwrite:
        raise UserError(
            f"{job.filename} has something else, which would be lost: {'; '.join(lost)}. Give another --filename, or "
            "--overwrite to replace it."
        )
    log.info(f"Replacing {job.filename}: {'; '.join(lost) or 'the same images, embedded alike'}.")


def _load_dataset(
    args: argparse.Namespace, csv: str, split: str | None, trained: Architecture
) -> tuple[dataset.Dataset, str]:
    """The images to embed, which are there, and the directory of their files."""
    image_root = args.image_root or getattr(trained, "image_root", None)
    if image_root is None:
        raise UserError(
            f"{args.experiment_root} has no args.json that names an image_root. Give --image_root."
        )
    if not isinstance(image_root, str):
        raise UserError(
            f"{args.experiment_root}/args.json has several image_roots: {', '.join(image_root)}. Give the --image_root "
            f"of {csv}."
        )
    images = dataset.load(csv, split)
    if split and images.splits is None:
        raise UserError(
            f"--split {split} needs a column split, which {csv} lacks. Leave it out to embed all rows."
        )
    try:
        dataset.check_sets(
            images,
            [csv],
            [image_root],
            args.allow_any_path,
            allow_links=False,
            only_first=args.no_file_check,
        )
    except UserError as error:
        if args.image_root:
            raise
        raise UserError(
            f"{error} (--image_root is that of {args.experiment_root}/args.json; give another.)"
        ) from None
    return dataclasses.replace(images, upright=trained.upright), image_root


def _check_filename(args: argparse.Namespace, default_name: str) -> str:
    """The file to write. Raises: UserError if it cannot be, or would replace another kind."""
    filename = os.path.join(args.experiment_root, args.filename or default_name)
    try:
        common.writeable_file(filename)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--filename: {error}.") from None
    embeddings_file.check_format(filename)
    holds_something = os.path.exists(filename) and os.path.getsize(filename) > 0
    if holds_something and not embeddings_file.may_be_replaced(filename):
        raise UserError(
            f"--filename: should not be a file of another kind, which it would replace. Received: {filename}. Give "
            "another name, or take the file away."
        )
    return filename


def _write_projector(
    experiment_root: str, filename: str, images: dataset.Dataset, image_files: ImageFiles
) -> None:
    most = projector.MOST_IMAGES
    if len(images) > most:
        log.warning(f"The projector shows the first {most} of the {len(images)} images.")
    name = Path(filename).stem
    projector.write(
        experiment_root,
        name,
        embeddings_file.head(filename, images, most),
        pids=images.pids[:most],
        fids=images.names()[:most],
        images=image_files.select(slice(most)),
    )
    log.info(f"Wrote {name} for the projector: tensorboard --logdir {experiment_root}")


if __name__ == "__main__":
    common.run(main, parse_args)
