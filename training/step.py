"""One iteration on all replicas: images to embeddings, distances, losses, gradients, weights."""

import tensorflow as tf

import common
import loss
from experiment.flags import Settings
from runtime import devices
from training import averages, optimizers
from training.companions import id_losses
from training.state import State


def make_step(strategy: tf.distribute.Strategy, state: State, settings: Settings):
    """Make the function of one iteration. It is traced once, and again when the net thaws.

    Every replica embeds its part of the batch. It takes the losses of its own anchors against the
    embeddings of all replicas, or with --mining local against its own. Divided by the number of
    replicas, gradients add up to those that one device would have for the whole batch.

    Returns:
        a function of
        images: float32 [B, H, W, 3]; with R replicas [B/R, H, W, 3] for each of this worker's.
        labels: int [B], pids as numbers, of the whole batch.
        iteration: int64, the number of finished ones. rate: float32, the learning rate.
        stop: int32, the number of the signal that told this worker to stop; 0: none.
        frozen: a Python bool, whether the weights of the net stay as they are.
          that gives a dict of tensors of the whole batch, the same on all replicas:
        loss, and where they are used id_loss and center_loss: float32 scalars.
        top1, precision: float32 scalars in 0..1. furthest: float32, the largest distance.
        active_count, stop: int32 scalars; stop is the highest of all workers.
        losses, emb_lengths: float32 [B].
        emb: float32 [B, D], the embeddings that the loss was taken of.
          TensorBoard shows every scalar but furthest and stop, under its name or the original's tag.
    """
    optimizer = state.optimizer
    replica_step = _make_replica_step(state, settings)

    # Nothing here needs AutoGraph, which would read the source of all this for seconds.
    @tf.function(autograph=False, jit_compile=settings.jit_compile or None)
    def step(images, labels, iteration, rate, stop, frozen):
        # Also where float16 made the optimizer skip a step: its state follows the iteration.
        optimizer.iterations.assign(iteration)
        optimizer.learning_rate.assign(rate)
        result = strategy.run(replica_step, args=(images, labels, iteration, stop, frozen))
        if state.average:
            decay = averages.decay_at(settings.ema, iteration + 1)
            averages.move(strategy, state.average, state.network, decay)
        return {
            name: strategy.experimental_local_results(value)[0] for name, value in result.items()
        }

    return step


def _make_replica_step(state: State, settings: Settings):
    # A head may be trained on another output than the one that is embedded (bnneck).
    head = common.load_plugin("heads", settings.head_name)
    trained_output = getattr(head, "LOSS_ON", "emb")
    companions = state.companions

    def replica_step(images, labels, iteration, stop, frozen):
        context = tf.distribute.get_replica_context()
        b = images.shape[0]
        offset = context.replica_id_in_sync_group * b
        pids = labels[offset : offset + b]

        with tf.GradientTape() as tape:
            embs = state.network(images, training=True)
            emb = embs[trained_output]
            all_embs = devices.gather(emb)
            dists = loss.cdist(emb, all_embs, settings.metric)
            losses, counts = _triplet_losses(emb, all_embs, dists, labels, iteration, settings)
            # The mean over the whole batch, of which this is the replica's part.
            total_count = tf.reduce_sum(devices.gather(counts))
            means = {"loss": tf.reduce_sum(losses * counts) / tf.maximum(total_count, 1)}
            R = context.num_replicas_in_sync
            if companions.classifier:
                logits = companions.classifier(embs["emb"])
                of_ids = id_losses(logits, pids, settings.label_smoothing)
                means["id_loss"] = tf.reduce_mean(of_ids) / R
            if companions.centers:
                means["center_loss"] = tf.reduce_mean(companions.centers(emb, pids)) / R
            weight = {
                "loss": 1.0,
                "id_loss": settings.id_loss_weight,
                "center_loss": settings.center_loss_weight,
            }
            total = tf.add_n([weight[name] * mean for name, mean in means.items()])
            scaled = state.optimizer.scale_loss(total)
        _train(state, tape, scaled, frozen, settings)
        if companions.centers:
            companions.centers.move(all_embs, labels)

        columns = loss.Columns(labels, offset)
        top1, precision = loss.retrieval_in_batch(dists, pids, settings.batch_k - 1, columns)
        lengths = tf.norm(embs["emb_raw"], axis=1)
        furthest = tf.reduce_max(dists, axis=1)
        of_anchors = tf.stack([losses, top1, precision, lengths, furthest], axis=1)
        losses, top1, precision, lengths, furthest = tf.unstack(devices.gather(of_anchors), axis=1)
        return {
            **{name: tf.reduce_sum(devices.gather(mean[None])) for name, mean in means.items()},
            "losses": losses,
            "top1": tf.reduce_mean(top1),
            "precision": tf.reduce_mean(precision),
            "active_count": tf.math.count_nonzero(losses > 1e-5, dtype=tf.int32),
            "emb": all_embs,
            "emb_lengths": lengths,
            "furthest": tf.reduce_max(furthest),
            "stop": tf.reduce_max(devices.gather(stop[None])),
        }

    return replica_step


def _triplet_losses(
    emb, all_embs, dists, labels, iteration, settings: Settings
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of each anchor of this replica, and the number of terms that it is the mean of.

    Args:
        emb: float32 [b, D], of the anchors. all_embs: float32 [B, D], of the whole batch.
        dists: float32 [b, B], between them.
        labels: int [B], of the whole batch.

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
    choice = loss.Choice(settings.loss, settings.margin, settings.loss_ignore_zero)
    return loss.per_anchor(choice, emb, dists[:, part], labels[own], columns)


def _train(state: State, tape, scaled_loss, frozen: bool, settings: Settings) -> None:
    """Change the weights by the gradient of the loss."""
    net = {id(weight) for weight in state.net.trainable_variables}
    trained = [weight for weight in state.trainable if not (frozen and id(weight) in net)]
    gradients = tape.gradient(scaled_loss, trained)
    if all(gradient is None for gradient in gradients):
        raise common.UserError(
            "--freeze_body_iterations leaves nothing to train: no weights of --head_name "
            f"{settings.head_name} come before the loss. Leave it out, or add an --id_loss_weight."
        )
    # The weights of a neck have none where the only loss is taken before it.
    gradients = [
        tf.zeros(weight.shape) if gradient is None else gradient
        for gradient, weight in zip(gradients, trained, strict=True)
    ]
    if settings.precision == "mixed_float16":
        gradients = _agreed(gradients)
    optimizers.apply(state.optimizer, gradients, trained, settings.clip_norm)


def _agreed(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Make all gradients infinite if any replica's are, so that every replica skips the step."""
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(each)) for each in gradients])
    finite_everywhere = tf.reduce_all(devices.gather(tf.cast(finite, tf.float32)[None]) > 0)
    return [tf.where(finite_everywhere, each, float("inf")) for each in gradients]
