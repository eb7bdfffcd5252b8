"""What a training shows in TensorBoard. Everything goes to the default writer, at its iteration."""

import argparse
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

import loss
from training import pictures


def write_hparams(iteration: int, args: argparse.Namespace) -> None:
    """The flags, for TensorBoard's page that compares runs. Call it at the first iteration.

    hparams.hparams would write them at step 0, where rewind would leave them, and a run that begins
    again doubles them.
    """
    flags = {
        name: value
        for name, value in vars(args).items()
        if isinstance(value, bool | int | float | str)
    }
    for name in ("experiment_root", "image_root", "resume"):
        flags.pop(name, None)
    message = hparams.hparams_pb(flags, trial_id=args.experiment_root)
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=iteration)


def write_scalars(
    iteration: int,
    result: dict,
    args: argparse.Namespace,
    rate: float,
    seconds: float,
    waited: float,
) -> None:
    """The original's scalars, and the seconds for which the iteration waited for its images."""
    scalars = {
        "loss": result["loss"],
        "batch_top1": result["top1"],
        f"batch_prec_at_{args.batch_k - 1}": result["precision"],
        "active_count": result["active_count"],
        "learning_rate": rate,
        "secs_per_iter": seconds,
        "secs_waiting_for_images": waited,
    }
    scalars |= {tag: result[tag] for tag in ("id_loss", "center_loss") if tag in result}
    _write([scalar_pb(tag, value) for tag, value in scalars.items()], iteration)


def write_histograms(iteration: int, result: dict, dists: np.ndarray, labels: np.ndarray) -> None:
    """The original's histograms; dists: float32 [B, B], of the batch; labels: int [B]."""
    positives, negatives = loss.pair_masks(tf.constant(labels))
    histograms = {
        "loss_distribution": result["losses"],
        "embedding_dists": dists,
        "embedding_pos_dists": dists[positives.numpy()],
        "embedding_neg_dists": dists[negatives.numpy()],
        "embedding_lengths": result["emb_lengths"],
    }
    _write([histogram_pb(tag, values) for tag, values in histograms.items()], iteration)


def _write(summaries: Sequence[Summary], iteration: int) -> None:
    """As one event: tf.summary.scalar and tf.summary.histogram, one by one, take longer than a
    small network does.
    """
    event = Summary()
    for summary in summaries:
        event.MergeFrom(summary)
    tf.summary.experimental.write_raw_pb(event.SerializeToString(), step=iteration)


def write_network_input(iteration: int, images: np.ndarray, batch_k: int) -> None:
    """What the network sees of the first pids; images: float32 RGB 0..255 [B, H, W, 3], of the
    batch.
    """
    tf.summary.image("network_input", pictures.network_input(images, batch_k)[None], step=iteration)


def write_hardest_triplets(
    iteration: int, paths: Sequence[str], pids: Sequence[str], dists: np.ndarray
) -> None:
    """The triplets that are most wrong; paths, pids: of the batch, [B] each; dists: float [B, B]."""
    tf.summary.image(
        "hardest_triplets", pictures.draw_triplets(paths, pids, dists)[None], step=iteration
    )
