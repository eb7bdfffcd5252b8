"""One iteration on all replicas: images to embeddings, distances, losses, gradients, weights."""

import argparse

import tensorflow as tf

import distribution
import loss
import model
import optimizers


def make(strategy: tf.distribute.Strategy, network, optimizer, args: argparse.Namespace):
    """The step, traced once, and once more where --freeze_body_iterations ends.

    Every replica embeds its part of the batch and takes the losses of its own anchors against the embeddings of all
    replicas (with --mining local: against its own). Divided by the number of replicas, gradients add up to those that
    one device would have for the whole batch.

    Returns: a function of
      images: float32 [B, H, W, 3]; with several replicas [B/R, H, W, 3] for each of this worker's.
      labels: int [B], pids as numbers, of the whole batch.
      iteration: int64, the number of finished ones; rate: float32, the learning rate.
      stop: int32, whether this worker has been told to stop.
      frozen: a Python bool, whether the weights of the body stay as they are.
    that gives a dict of tensors of the whole batch, the same on all replicas: loss, top1 and precision (0..1),
      furthest (the largest distance), float32 scalars; active_count and stop (whether any worker has been told), int32
      scalars; losses and emb_lengths float32 [B]; emb float32 [B, D].
    """

    body = {id(weight) for weight in model.body(network).trainable_variables}

    def replica_step(images, labels, stop, frozen):
        context = tf.distribute.get_replica_context()
        b = tf.shape(images)[0]
        offset = context.replica_id_in_sync_group * b
        own = slice(offset, offset + b)

        with tf.GradientTape() as tape:
            embs = network(images, training=True)
            emb, everyone = embs["emb"], distribution.gather(embs["emb"])
            dists = loss.cdist(emb, everyone, args.metric)
            columns = (dists[:, own], labels[own], 0) if args.mining == "local" else (dists, labels, offset)
            losses = _losses(columns, labels[own], args)
            share = tf.reduce_mean(losses) / context.num_replicas_in_sync
            scaled = optimizer.scale_loss(share)
        weights = [weight for weight in network.trainable_variables if not (frozen and id(weight) in body)]
        gradients = tape.gradient(scaled, weights)
        if args.precision == "mixed_float16":
            gradients = _agreed(gradients)
        optimizers.apply(optimizer, gradients, weights, args.clip_norm)

        top1, precision = loss.retrieval_in_batch(dists, labels[own], args.batch_k - 1, labels, offset)
        furthest, lengths = tf.reduce_max(dists, axis=1), tf.norm(embs["emb_raw"], axis=1)
        measured = distribution.gather(tf.stack([losses, top1, precision, lengths, furthest], axis=1))
        losses, top1, precision, lengths, furthest = tf.unstack(measured, axis=1)
        return {
            "loss": tf.reduce_mean(losses),
            "losses": losses,
            "top1": tf.reduce_mean(top1),
            "precision": tf.reduce_mean(precision),
            "active_count": tf.math.count_nonzero(losses > 1e-5, dtype=tf.int32),
            "emb": everyone,
            "emb_lengths": lengths,
            "furthest": tf.reduce_max(furthest),
            "stop": tf.reduce_max(distribution.gather(stop[None])),
        }

    @tf.function(jit_compile=args.jit_compile or None)
    def train_step(images, labels, iteration, rate, stop, frozen):
        # Also where float16 made the optimizer leave a step out: its state follows the iteration.
        optimizer.iterations.assign(iteration)
        optimizer.learning_rate.assign(rate)
        result = strategy.run(replica_step, args=(images, labels, stop, frozen))
        return {name: strategy.experimental_local_results(value)[0] for name, value in result.items()}

    return train_step


def _losses(columns: tuple, pids: tf.Tensor, args: argparse.Namespace) -> tf.Tensor:
    """Of each anchor: float32 [b]. columns: distances [b, C], pids [C], and the column of the first anchor."""
    dists, column_pids, offset = columns
    return loss.LOSS_CHOICES[args.loss](dists, pids, args.margin, column_pids, offset)


def _agreed(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """The same, unless those of another replica are not finite: then these must not be, either, so that all replicas
    leave the step out."""
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
    everywhere = tf.reduce_all(distribution.gather(tf.cast(finite, tf.float32)[None]) > 0)
    return [tf.where(everywhere, gradient, float("inf")) for gradient in gradients]
