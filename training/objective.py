"""What a training minimizes: from embeddings to losses, and what is logged of them."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

import common
import loss
from experiment.flags import Settings
from runtime import devices
from training.memory import Memory
from training.state import State


class Objective(NamedTuple):
    """The losses of a batch, on one replica, which has b of its B images.

    Attributes:
        scaled: float32 scalar to be minimized, times the optimizer's scale of losses. Its sum over
            the replicas counts.
        means: its parts by name, float32 scalars, without their weights and that scale; and
            id_top1, which is only logged: the share of images to which the classifier gives their
            own pid.
        losses: float32 [b].
        dists: float32 [b, B].
        emb, all_embs: float32 [b, D] and [B, D], which the losses were taken of.
    """

    scaled: tf.Tensor
    means: dict[str, tf.Tensor]
    losses: tf.Tensor
    dists: tf.Tensor
    emb: tf.Tensor
    all_embs: tf.Tensor


def of_embeddings(
    embs: Mapping[str, tf.Tensor], labels: tf.Tensor, iteration, state: State, settings: Settings
) -> Objective:
    """In a replica: take the losses of its own anchors.

    Args:
        embs: what the network gave for this replica's images.
        labels: int [B], pids as numbers, of the whole batch.
        iteration: int64, the number of finished ones.
    """
    # A head may be trained on another output than the one that is embedded (bnneck).
    head = common.load_plugin("heads", settings.head_name)
    emb = embs[getattr(head, "LOSS_ON", "emb")]
    companions = state.companions
    context = tf.distribute.get_replica_context()
    b = emb.shape[0]
    offset = context.replica_id_in_sync_group * b
    pids = labels[offset : offset + b]

    all_embs = devices.gather(emb)
    dists = loss.cdist(emb, all_embs, settings.metric)
    losses, counts = _triplet_losses(
        emb, all_embs, dists, labels, iteration, companions.memory, settings
    )
    # The mean over the whole batch, of which this is the replica's part.
    total_count = tf.reduce_sum(devices.gather(counts))
    means = {"loss": tf.reduce_sum(losses * counts) / tf.maximum(total_count, 1)}
    R = context.num_replicas_in_sync
    if companions.classifier:
        scores = companions.classifier(embs["emb"])
        if companions.id_loss.of_whole_batch:
            means["id_loss"] = companions.id_loss.mean(devices.gather(scores), labels) / R
        else:
            means["id_loss"] = companions.id_loss.mean(scores, pids) / R
        is_own = tf.equal(tf.argmax(scores, axis=1, output_type=pids.dtype), pids)
        means["id_top1"] = tf.reduce_mean(tf.cast(is_own, tf.float32)) / R
    if companions.centers:
        means["center_loss"] = tf.reduce_mean(companions.centers(emb, pids)) / R
    weights = {
        "loss": settings.loss_weight,
        "id_loss": settings.id_loss_weight,
        "center_loss": settings.center_loss_weight,
    }
    total = tf.add_n([weight * means[name] for name, weight in weights.items() if weight])
    scaled = state.optimizer.scale_loss(total)
    return Objective(scaled, means, losses, dists, emb, all_embs)


def measurements(
    objective: Objective, emb_raw: tf.Tensor, labels: tf.Tensor, stop, settings: Settings
) -> dict[str, tf.Tensor]:
    """In a replica: what the step gives for the whole batch; see step.make_step.

    Args:
        emb_raw: float32 [b, D], of this replica.
        labels: int [B].
        stop: int32, the number of the signal that told this worker to stop.
    """
    losses, dists = objective.losses, objective.dists
    b = emb_raw.shape[0]
    offset = tf.distribute.get_replica_context().replica_id_in_sync_group * b
    columns = loss.Columns(labels, offset)
    pids = labels[offset : offset + b]
    nearest = settings.images_per_pid - 1
    top1, precision = loss.retrieval_in_batch(dists, pids, nearest, columns)
    lengths = tf.norm(emb_raw, axis=1)
    furthest = tf.reduce_max(dists, axis=1)
    of_anchors = tf.stack([losses, top1, precision, lengths, furthest], axis=1)
    losses, top1, precision, lengths, furthest = tf.unstack(devices.gather(of_anchors), axis=1)
    means = objective.means
    return {
        **{name: tf.reduce_sum(devices.gather(mean[None])) for name, mean in means.items()},
        "losses": losses,
        "top1": _mean_of_queries(top1, labels, settings),
        "precision": _mean_of_queries(precision, labels, settings),
        "active_count": tf.math.count_nonzero(losses > 1e-5, dtype=tf.int32),
        "emb": objective.all_embs,
        "emb_lengths": lengths,
        "furthest": tf.reduce_max(furthest),
        "stop": tf.reduce_max(devices.gather(stop[None])),
    }


def _mean_of_queries(values: tf.Tensor, labels: tf.Tensor, settings: Settings) -> tf.Tensor:
    """The mean of a figure of retrieval, [B]. An image without another of its pid does not count,
    which batches that are not P×K may have; the mean is 0 where there is no other.
    """
    if settings.sampler == "pk":
        return tf.reduce_mean(values)
    found = tf.reduce_any(loss.pair_masks(labels)[0], axis=1)
    values = tf.where(found, values, 0.0)
    return tf.math.divide_no_nan(
        tf.reduce_sum(values), tf.math.count_nonzero(found, dtype=tf.float32)
    )


def _triplet_losses(
    emb, all_embs, dists, labels, iteration, memory: Memory | None, settings: Settings
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of each anchor of this replica, and the number of terms that it is the mean of.

    Args:
        emb: float32 [b, D], of the anchors. all_embs: float32 [B, D], of the whole batch.
        dists: float32 [b, B], between them.
        labels: int [B], of the whole batch.
        memory: embeddings of earlier batches to compare with, too.

    Returns:
        two of float32 [b]. The number is 1, but any with --loss_ignore_zero.
    """
    place = tf.distribute.get_replica_context().replica_id_in_sync_group
    b = emb.shape[0]
    own = slice(place * b, place * b + b)
    if settings.mining == "local":
        part, offset, stream = own, 0, place  # each replica draws its own
    else:
        part, offset, stream = slice(None), place * b, 0
    columns = loss.Columns(
        pids=labels[part],
        offset=offset,
        seed=tf.stack([settings.seed + tf.cast(stream, tf.int64), iteration]),
        embs=all_embs[part],
    )
    dists = dists[:, part]
    if memory:
        columns = memory.append_to(columns, in_use=iteration >= settings.memory_start)
        dists = tf.concat([dists, loss.cdist(emb, memory.embs, settings.metric)], axis=1)
    choice = loss.Choice(
        name=settings.loss,
        margin=settings.margin,
        ignore_zero=settings.loss_ignore_zero,
        constants=settings.constants_of_loss,
    )
    return loss.per_anchor(choice, emb, dists, labels[own], columns)
