"""What a training shows in TensorBoard. Everything goes to the default writer, at its iteration."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

import loss
from training import pictures

# Numbers of the step that the loop needs, and that nobody looks at.
_NOT_SHOWN = ("furthest", "stop")


def write_hparams(iteration: int, flags: Mapping) -> None:
    """Write the flags, for TensorBoard's page that compares runs. Call it at the first iteration.

    hparams.hparams would write them at step 0, where rewind would leave them, and a run that begins
    again would double them.
    """
    shown = {
        name: value
        for name, value in flags.items()
        if isinstance(value, bool | int | float | str)
        and name not in ("experiment_root", "image_root")
    }
    message = hparams.hparams_pb(shown, trial_id=flags["experiment_root"])
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=iteration)


def scalars(result: Mapping, batch_k: int) -> dict[str, float]:
    """Every number that the step returned, by its tag in TensorBoard.

    The tag is the number's name, except where the original has another tag.

    Args:
        result: what the step returned, see training/step.py.
    """
    tags = {"top1": "batch_top1", "precision": f"batch_prec_at_{batch_k - 1}"}
    return {
        tags.get(name, name): value
        for name, value in result.items()
        if np.ndim(value) == 0 and name not in _NOT_SHOWN
    }


def write_scalars(iteration: int, values: Mapping[str, float]) -> None:
    """Write numbers by their tags."""
    _write([scalar_pb(tag, value) for tag, value in values.items()], iteration)


def write_histograms(iteration: int, result: dict, dists: np.ndarray, labels: np.ndarray) -> None:
    """Write the original's histograms.

    Args:
        dists: of the batch, float32 [B, B].
        labels: of the batch, int [B].
    """
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
    """One event for all: tf.summary.scalar and .histogram take longer than a small network."""
    event = Summary()
    for summary in summaries:
        event.MergeFrom(summary)
    tf.summary.experimental.write_raw_pb(event.SerializeToString(), step=iteration)


def write_network_input(iteration: int, images: np.ndarray, batch_k: int) -> None:
    """Write what the network sees of the first pids.

    Args:
        images: of the batch, float32 RGB in 0..255 [B, H, W, 3].
    """
    tf.summary.image("network_input", pictures.network_input(images, batch_k)[None], step=iteration)


def write_hardest_triplets(
    iteration: int, paths: Sequence[str], pids: Sequence[str], dists: np.ndarray
) -> None:
    """Write the triplets that are most wrong.

    Args:
        paths, pids: of the batch, B of each.
        dists: of the batch, float [B, B].
    """
    tf.summary.image(
        "hardest_triplets", pictures.draw_triplets(paths, pids, dists)[None], step=iteration
    )
