"""What search.py and serve.py share: the flags of a gallery, and what they mean."""

import argparse

import common
from common import UserError
from evaluation import gallery as galleries
from evaluation import gallery_index
from evaluation.gallery import Gallery, Threshold
from evaluation.search import Exact, Searcher
from experiment import args_json
from runtime.terminal import log


def add_gallery(group: argparse._ActionsContainer) -> None:
    """Add the flags of the gallery and its embeddings."""
    group.add_argument(
        "--gallery",
        required=True,
        type=common.readable_file,
        metavar="FILE",
        help="The images to search in: a file of embeddings that says its fids (HDF5 or Parquet of embed.py), or the "
        "CSV that was embedded, which also tells pids and cameras.",
    )
    group.add_argument(
        "--gallery_embeddings",
        type=common.readable_file,
        metavar="FILE",
        help="Embeddings of a gallery that is a CSV. Without this flag, <name of the CSV>_embeddings.h5 in the "
        "experiment_root.",
    )


def add_metric(group: argparse._ActionsContainer) -> None:
    """Add the flag of the metric."""
    common.add_flag(
        group,
        "metric",
        help="Distance between embeddings. Without this flag, that of the index or of the training.",
    )


def add_threshold(group: argparse._ActionsContainer) -> None:
    """Add the flags of a distance below which two images count as the same."""
    group.add_argument(
        "--threshold",
        metavar="X",
        help="A distance below which two images count as the same: a number, or the JSON file that evaluate.py writes "
        "with --roc.",
    )
    group.add_argument(
        "--threshold_at",
        default="0.001",
        metavar="FPR",
        help="Which distance of that file: at this share of wrong pairs that are accepted, such as 0.0001 or 0.01, or "
        "EER, at equal errors.",
    )


def check_threshold(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with an error for a --threshold_at that has no effect."""
    if args.threshold is None and args.threshold_at != parser.get_default("threshold_at"):
        parser.error("argument --threshold_at: has no effect without --threshold. Give it, too")


def add_index(group: argparse._ActionsContainer) -> None:
    """Add the flag of an index."""
    group.add_argument(
        "--index",
        metavar="DIR",
        help="Search in this index of the gallery, which search.py makes with --build.",
    )


def metric(args: argparse.Namespace) -> str:
    """The metric that is given, or that of the index, or of the training.

    Raises:
        UserError: nothing tells it, or the index or args.json cannot be read.
    """
    if args.metric is not None:
        return args.metric
    if args.index and not getattr(args, "build", None):
        return gallery_index.about(args.index).metric
    if args.experiment_root is None:
        raise UserError("which --metric? Give it, or the --experiment_root of the training.")
    return args_json.metric_of_training(args.experiment_root)


def threshold(args: argparse.Namespace, gallery: Gallery, metric: str) -> Threshold | None:
    """The threshold that is asked for. Raises: UserError, as of evaluation.gallery.threshold."""
    if args.threshold is None:
        return None
    network = gallery.origin.network
    return galleries.threshold(args.threshold, args.threshold_at, metric, network)


def tell_recall(index: gallery_index.Index, wanted: float) -> None:
    """Log the recall of an index; a warning where it is below the one that is wanted."""
    about = index.about
    told = f"Recall@{gallery_index.RECALL_AT} against the exact search is {about.recall:.4f}."
    if about.recall < wanted:
        log.warning(f"{told} That is below --recall {wanted}, however far the search looks.")
    else:
        log.info(told)


def searcher(args: argparse.Namespace, gallery: Gallery, metric: str) -> Searcher:
    """What searches the gallery: an index, or without one a comparison with all images.

    Raises:
        UserError: the index cannot be used, as of gallery_index.load.
    """
    if args.index is None:
        return Exact(gallery.embs, metric, args.batch_size)
    index = gallery_index.load(args.index, gallery.embs, metric)
    if not getattr(args, "build", None):
        tell_recall(index, 0)
    return index
