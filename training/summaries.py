"""What a training shows in TensorBoard. Everything goes to the default writer, at its iteration."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalars
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_v1
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

import loss
from data.dataset import ImageFiles
from training import pictures

# Numbers of the step that the loop needs, and that nobody looks at.
_NOT_SHOWN = ("furthest", "stop")

# What TensorBoard shows beside each curve. It reads a tag's description from its first event.
DESCRIPTIONS = {
    "loss": "Mean loss of the batch; it should fall. With the margin soft, 0.693 all the time means "
    "that all embeddings have become one point.",
    "batch_top1": "Share of the batch's images whose nearest other image is of the same pid, in "
    "0..1.",
    "batch_prec_at_": "Share of the same pid among the K - 1 nearest of an image in the batch, in "
    "0..1; it should rise.",
    "active_count": "Images of the batch whose loss is above 0.00001. With a number as margin it "
    "falls; with the margin soft it stays at the size of the batch.",
    "id_loss": "Mean loss of identities, --id_loss, without its weight: with softmax the "
    "cross-entropy of a classifier of pids.",
    "id_top1": "Share of the batch's images to which the classifier of --id_loss gives their own pid, "
    "in 0..1; it should rise. Where it stays at 1, the classifier has no more to teach.",
    "center_loss": "Mean squared distance to the center of the pid, without its weight.",
    "learning_rate": "The learning rate of the iteration.",
    "secs_per_iter": "Seconds that the iteration took.",
    "secs_waiting_for_images": "Seconds of them that the network waited for images; it should be "
    "near 0.",
    "images_per_sec": "Images of the batch by the seconds that the iteration took.",
    "loss_distribution": "Losses of the batch's images.",
    "embedding_dists": "Distances of all pairs of embeddings in the batch.",
    "embedding_pos_dists": "Distances of pairs of one pid; they should be left of the others.",
    "embedding_neg_dists": "Distances of pairs of two pids.",
    "embedding_lengths": "Lengths of the embeddings, before a head puts them on the unit sphere.",
    "validation/": "Of queries in a gallery that are not trained on, in 0..1; it should rise. Where it "
    "falls while batch_prec_at_ goes on rising, the network learns the training set by heart.",
    "validation/chance": "How likely chance alone lets the mAP rise as much above that of the start, in 0..1: "
    "--val_beyond_chance.",
    "network_input": "Images of the first pids as the network sees them, a pid a row; any images with "
    "--sampler shuffle or balanced.",
    "hardest_triplets": "The triplets that are most wrong: anchor, furthest image of its pid, "
    "closest of another.",
}

# The page of custom scalars: title, and patterns of the tags in the chart.
_CHARTS = {
    "losses": ["loss", "id_loss", "center_loss"],
    "retrieval in the batch": ["batch_top1", r"batch_prec_at_\d+", "id_top1"],
    "learning rate": ["learning_rate"],
    "images per second": ["images_per_sec"],
    "seconds waiting for images": ["secs_waiting_for_images"],
}
# And of a run with validations.
_VALIDATION_CHART = {"validation": ["validation/mAP", "validation/top-1"]}


def write_layout(iteration: int, validates: bool = False) -> None:
    """Write which curves tell a run's health, for TensorBoard's page of custom scalars.

    Call it at the first iteration. A chart is the same for all runs: TensorBoard merges those of
    several.
    """
    shown = _CHARTS | (_VALIDATION_CHART if validates else {})
    charts = [
        layout_pb2.Chart(
            title=title,
            multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$" for tag in tags]),
        )
        for title, tags in shown.items()
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="health", chart=charts)])
    message = custom_scalars.pb(layout)
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=iteration)


def write_hparams(iteration: int, flags: Mapping) -> None:
    """Write the flags, for TensorBoard's page that compares runs. Call it at the first iteration.

    The page takes the last value of each scalar as its metrics. Without a trial's name it takes the
    directory's: each is a row of its own, wherever it is moved or copied to.

    hparams.hparams would write them at step 0, where rewind would leave them, and a run that begins
    again would double them.
    """
    shown = {
        name: value
        for name, value in flags.items()
        if isinstance(value, bool | int | float | str)
        and name not in ("experiment_root", "image_root")
    }
    message = hparams.hparams_pb(shown, trial_id="")
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=iteration)


def write_end(iterations: int) -> None:
    """Write that a training of `iterations` is finished.

    It follows the last iteration, so that a training that goes on takes it back; see rewind.
    """
    message = hparams_v1.session_end_pb(api_pb2.STATUS_SUCCESS)
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=iterations + 1)


def scalars(result: Mapping, batch_k: int) -> dict[str, float]:
    """Every number that the step returned, by its tag in TensorBoard.

    The tag is the number's name, except where the original has another tag.

    Args:
        result: what the step returned, see step.make_step.
    """
    tags = {"top1": "batch_top1", "precision": f"batch_prec_at_{batch_k - 1}"}
    return {
        tags.get(name, name): value
        for name, value in result.items()
        if np.ndim(value) == 0 and name not in _NOT_SHOWN
    }


def write_scalars(iteration: int, values: Mapping[str, float]) -> None:
    """Write numbers by their tags."""
    summaries = [
        scalar_pb(tag, value, _description(tag, iteration)) for tag, value in values.items()
    ]
    _write(summaries, iteration)


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
    summaries = [
        histogram_pb(tag, values, description=_description(tag, iteration))
        for tag, values in histograms.items()
    ]
    _write(summaries, iteration)


def _description(tag: str, iteration: int) -> str | None:
    """Of a tag, once: with every event it would take more room than the numbers."""
    if tag.startswith("validation/"):  # rare, and nobody knows which is the first
        return DESCRIPTIONS.get(tag, DESCRIPTIONS["validation/"])
    if iteration > 1:
        return None
    return DESCRIPTIONS.get(re.sub("^batch_prec_at_.*", "batch_prec_at_", tag))


def _write(summaries: Sequence[Summary], iteration: int) -> None:
    """One event for all: tf.summary.scalar and .histogram take longer than a small network."""
    event = Summary()
    for summary in summaries:
        event.MergeFrom(summary)
    tf.summary.experimental.write_raw_pb(event.SerializeToString(), step=iteration)


def write_network_input(iteration: int, images: np.ndarray, batch_k: int) -> np.ndarray:
    """Write what the network sees of the first pids.

    Args:
        images: of the batch, float32 RGB in 0..255 [B, H, W, 3].

    Returns:
        The picture, uint8 RGB [H, W, 3].
    """
    picture = pictures.network_input(images, batch_k)
    _write_picture("network_input", picture, iteration)
    return picture


def write_hardest_triplets(
    iteration: int, images: ImageFiles, pids: Sequence[str], dists: np.ndarray
) -> np.ndarray:
    """Write the triplets that are most wrong.

    Args:
        images, pids: of the batch, B of each.
        dists: of the batch, float [B, B].

    Returns:
        The picture, uint8 RGB [H, W, 3].
    """
    picture = pictures.draw_triplets(images, pids, dists)
    _write_picture("hardest_triplets", picture, iteration)
    return picture


def _write_picture(tag: str, picture: np.ndarray, iteration: int) -> None:
    tf.summary.image(tag, picture[None], step=iteration, description=DESCRIPTIONS[tag])
