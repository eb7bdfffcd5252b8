"""One iteration on all replicas: images to embeddings, distances, losses, gradients, weights."""

import argparse

import tensorflow as tf

import common
import loss
from network import model
from runtime import devices
from training import optimizers
from training.companions import Companions, id_losses


def make(
    strategy: tf.distribute.Strategy,
    network,
    companions: Companions,
    optimizer,
    args: argparse.Namespace,
):
    """The step, traced once, and once more where --freeze_body_iterations ends.

    Every replica embeds its part of the batch and takes the losses of its own anchors against the
    embeddings of all replicas (with --mining local: against its own). Divided by the number of
    replicas, gradients add up to those that one device would have for the whole batch.

    Returns: a function of
      images: float32 [B, H, W, 3]; with several replicas [B/R, H, W, 3] for each of this worker's.
      labels: int [B], pids as numbers, of the whole batch.
      iteration: int64, the number of finished ones; rate: float32, the learning rate.
      stop: int32, whether this worker has been told to stop.
      frozen: a Python bool, whether the weights of the body stay as they are.
    that gives a dict of tensors of the whole batch, the same on all replicas: loss, id_loss and
      center_loss where there are companions for them, top1 and precision (0..1), furthest (the
      largest distance), float32 scalars; active_count and stop (whether any worker has been told),
      int32 scalars; losses and emb_lengths float32 [B]; emb float32 [B, D], those that the loss was
      taken of.
    """

    # What the triplet loss takes, which a head can have otherwise than what it embeds with.
    loss_on = getattr(common.load_plugin("heads", args.head_name), "LOSS_ON", "emb")
    body = {id(weight) for weight in model.body(network).trainable_variables}
    weights = [*network.trainable_variables, *companions.trainable_variables]

    def replica_step(images, labels, iteration, stop, frozen):
        context = tf.distribute.get_replica_context()
        R, b = context.num_replicas_in_sync, images.shape[0]
        offset = context.replica_id_in_sync_group * b
        own = slice(offset, offset + b)

        with tf.GradientTape() as tape:
            embs = network(images, training=True)
            emb, everyone = embs[loss_on], devices.gather(embs[loss_on])
            dists = loss.cdist(emb, everyone, args.metric)
            columns = (own, 0) if args.mining == "local" else (slice(None), offset)
            place = context.replica_id_in_sync_group if args.mining == "local" else 0
            seed = tf.stack(
                [args.seed + tf.cast(place, tf.int64), iteration]
            )  # each that mines alone draws its own
            losses, counts = _losses(
                emb, everyone, dists, labels[own], labels, *columns, seed, args
            )
            # The mean over the whole batch, of which this is the replica's part.
            mean = tf.reduce_sum(losses * counts) / tf.maximum(
                tf.reduce_sum(devices.gather(counts)), 1
            )
            means = {"loss": mean}
            if companions.classifier:
                logits = companions.classifier(embs["emb"])
                means["id_loss"] = (
                    tf.reduce_mean(id_losses(logits, labels[own], args.label_smoothing)) / R
                )
            if companions.centers:
                means["center_loss"] = tf.reduce_mean(companions.centers(emb, labels[own])) / R
            weight = {
                "loss": 1.0,
                "id_loss": args.id_loss_weight,
                "center_loss": args.center_loss_weight,
            }
            scaled = optimizer.scale_loss(
                tf.add_n([weight[name] * mean for name, mean in means.items()])
            )
        trained = [variable for variable in weights if not (frozen and id(variable) in body)]
        gradients = tape.gradient(scaled, trained)
        if all(gradient is None for gradient in gradients):
            raise common.UserError(
                f"--freeze_body_iterations leaves nothing to train: no weights of --head_name {args.head_name} come "
                "before the loss. Leave it out, or add an --id_loss_weight."
            )
        # A neck has none where the only loss is taken before it.
        gradients = [
            tf.zeros(v.shape) if g is None else g for g, v in zip(gradients, trained, strict=True)
        ]
        if args.precision == "mixed_float16":
            gradients = _agreed(gradients)
        optimizers.apply(optimizer, gradients, trained, args.clip_norm)
        if companions.centers:
            companions.centers.move(everyone, labels)

        top1, precision = loss.retrieval_in_batch(
            dists, labels[own], args.batch_k - 1, labels, offset
        )
        furthest, lengths = tf.reduce_max(dists, axis=1), tf.norm(embs["emb_raw"], axis=1)
        measured = devices.gather(tf.stack([losses, top1, precision, lengths, furthest], axis=1))
        losses, top1, precision, lengths, furthest = tf.unstack(measured, axis=1)
        return {
            **{name: tf.reduce_sum(devices.gather(mean[None])) for name, mean in means.items()},
            "losses": losses,
            "top1": tf.reduce_mean(top1),
            "precision": tf.reduce_mean(precision),
            "active_count": tf.math.count_nonzero(losses > 1e-5, dtype=tf.int32),
            "emb": everyone,
            "emb_lengths": lengths,
            "furthest": tf.reduce_max(furthest),
            "stop": tf.reduce_max(devices.gather(stop[None])),
        }

    # Nothing here needs AutoGraph, which would read the source of all this for seconds.
    @tf.function(autograph=False, jit_compile=args.jit_compile or None)
    def train_step(images, labels, iteration, rate, stop, frozen):
        # Also where float16 made the optimizer leave a step out: its state follows the iteration.
        optimizer.iterations.assign(iteration)
        optimizer.learning_rate.assign(rate)
        result = strategy.run(replica_step, args=(images, labels, iteration, stop, frozen))
        return {
            name: strategy.experimental_local_results(value)[0] for name, value in result.items()
        }

    return train_step


def _losses(
    emb, everyone, dists, pids, all_pids, columns, offset, seed, args
) -> tuple[tf.Tensor, tf.Tensor]:
    """Of each anchor, float32 [b], and how many terms each is the mean of: 1, or with
    --loss_ignore_zero any number.

    Those columns count that `columns` has, of which the first anchor is number `offset`.
    """
    dists, everyone, all_pids = dists[:, columns], everyone[columns], all_pids[columns]
    if args.loss in loss.EMBEDDING_LOSSES:
        losses = loss.EMBEDDING_LOSSES[args.loss](emb, pids, everyone, all_pids, offset)
        return losses, tf.ones_like(losses)
    if args.loss_ignore_zero:
        return loss.WITHOUT_ZEROS[args.loss](dists, pids, args.margin, all_pids, offset, seed)
    losses = loss.LOSS_CHOICES[args.loss](dists, pids, args.margin, all_pids, offset, seed)
    return losses, tf.ones_like(losses)


def _agreed(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """The same, unless those of another replica are not finite: then these must not be, either, so
    that all replicas leave the step out."""
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
    everywhere = tf.reduce_all(devices.gather(tf.cast(finite, tf.float32)[None]) > 0)
    return [tf.where(everywhere, gradient, float("inf")) for gradient in gradients]
