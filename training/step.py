"""One iteration on all replicas: images to embeddings, distances, losses, gradients, weights."""

import tensorflow as tf

from experiment.flags import Settings, known
from network import layers
from runtime import devices
from training import averages, chunks, objective
from training.state import State
from training.update import trained, update


def make_step(strategy: tf.distribute.Strategy, state: State, settings: Settings):
    """Make the function of one iteration. It is traced once, and again when the net thaws.

    Every replica embeds its part of the batch. It takes the losses of its own anchors against the
    embeddings of all replicas, or with --mining local against its own. Divided by the number of
    replicas, gradients add up to those that one device would have for the whole batch.

    Returns:
        a function of
        images: float32 [B, H, W, 3]; with R replicas [B/R, H, W, 3] for each of this worker's.
        labels: int [B], pids as numbers, of the whole batch.
        cameras: int32 [B], as of Batches.cameras_of, or None.
        iteration: int64, the number of finished ones. rate: float32, the learning rate.
        stop: int32, the number of the signal that told this worker to stop; 0: none.
        frozen: a Python bool, whether the weights of the net stay as they are.
          that gives a dict of tensors of the whole batch, the same on all replicas:
        loss, and where they are used id_loss and center_loss: float32 scalars.
        top1, precision, and with id_loss id_top1: float32 scalars in 0..1.
        furthest: float32, the largest distance.
        active_count, stop: int32 scalars; stop is the highest of all workers.
        losses, emb_lengths: float32 [B].
        emb: float32 [B, D], the embeddings that the loss was taken of.
          TensorBoard shows every scalar but furthest and stop, under its name or the original's tag.
    """
    optimizer = state.optimizer
    make = _make_recomputing_training if settings.remat else _make_training
    make = chunks.make_training if settings.chunk else make
    train = make(strategy, state, settings)

    # Nothing here needs AutoGraph, which would read the source of all this for seconds.
    @tf.function(autograph=False, jit_compile=settings.jit_compile or None)
    def step(images, labels, iteration, rate, stop, frozen, cameras=None):
        # Also where float16 made the optimizer skip a step: its state follows the iteration.
        optimizer.iterations.assign(iteration)
        optimizer.learning_rate.assign(rate)
        result = train(images, labels, cameras, iteration, stop, frozen)
        if state.average:
            decay = averages.decay_at(settings.ema, iteration + 1)
            averages.move(strategy, state.average, state.network, decay)
        return {
            name: strategy.experimental_local_results(value)[0] for name, value in result.items()
        }

    return step


def _make_training(strategy, state: State, settings: Settings):
    """Make the part of the step in which replicas compute: the whole batch in one piece."""

    def replica(images, labels, cameras, iteration, stop, frozen):
        seen_by = layers.seen_by(devices.own_part(cameras, images.shape[0]))
        with tf.GradientTape() as tape:
            with layers.drawing(known(settings.seed), iteration), seen_by:
                embs = state.network(images, training=True)
            batch = objective.of_embeddings(embs, labels, iteration, state, settings)
        variables = trained(state, frozen)
        update(state, tape.gradient(batch.scaled, variables), variables, settings)
        state.companions.move(batch.all_embs, labels)
        return objective.measurements(batch, embs["emb_raw"], labels, stop, settings)

    def train(*args):
        return strategy.run(replica, args=args)

    return train


def _make_recomputing_training(strategy, state: State, settings: Settings):
    """The same, keeping few activations: see network/segments.py."""
    segments = state.segments
    recomputed = layers.Chunk(tf.constant(0), total=1, moves=False)

    def replica(images, labels, cameras, iteration, stop, frozen):
        own_cameras = devices.own_part(cameras, images.shape[0])
        with layers.drawing(known(settings.seed), iteration), layers.seen_by(own_cameras):
            embs, kept = segments.forward(images)
        with tf.GradientTape() as tape:
            tape.watch(embs)
            batch = objective.of_embeddings(embs, labels, iteration, state, settings)
        of_companions = state.companions.trainable_variables
        by_embs, by_companions = tape.gradient(batch.scaled, (embs, of_companions))
        used = {name: gradient for name, gradient in by_embs.items() if gradient is not None}
        variables = trained(state, frozen)
        of_network = variables[: len(variables) - len(of_companions)]
        with (
            layers.drawing(known(settings.seed), iteration),
            layers.seen_by(own_cameras),
            layers.calling_with(recomputed),
        ):
            gradients = segments.backward(kept, used, of_network)
        update(state, [*gradients, *by_companions], variables, settings)
        state.companions.move(batch.all_embs, labels)
        return objective.measurements(batch, embs["emb_raw"], labels, stop, settings)

    def train(*args):
        return strategy.run(replica, args=args)

    return train
