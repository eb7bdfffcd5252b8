"""What a training shows in TensorBoard. Everything goes to the default writer, at its iteration."""

import argparse

import numpy as np
import tensorflow as tf

import loss


def write_scalars(iteration: int, result: dict, args: argparse.Namespace, rate: float, seconds: float) -> None:
    """The original's scalars for TensorBoard, into the default writer."""
    scalars = {
        "loss": result["loss"],
        "batch_top1": result["top1"],
        f"batch_prec_at_{args.batch_k - 1}": result["precision"],
        "active_count": result["active_count"],
        "learning_rate": rate,
        "secs_per_iter": seconds,
    }
    for tag, value in scalars.items():
        tf.summary.scalar(tag, value, step=iteration)


def write_histograms(iteration: int, result: dict, labels: np.ndarray) -> None:
    """The original's histograms for TensorBoard, into the default writer; labels: int [B], of the batch."""
    positives, negatives = loss.pair_masks(tf.constant(labels))
    histograms = {
        "loss_distribution": result["losses"],
        "embedding_dists": result["dists"],
        "embedding_pos_dists": result["dists"][positives.numpy()],
        "embedding_neg_dists": result["dists"][negatives.numpy()],
        "embedding_lengths": result["emb_lengths"],
    }
    for tag, values in histograms.items():
        tf.summary.histogram(tag, values, step=iteration)
