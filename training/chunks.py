"""One iteration in chunks of the batch, for batches whose activations do not fit into memory.

Gradient caching, arXiv:2101.06983: embed all chunks without keeping activations; take the loss of
all embeddings, and its gradient by each; embed each chunk again, now with activations, and pass the
gradients of its embeddings on to the weights. The loss still compares all images of the batch with
each other, and its gradient is that of one piece. Losses of chunks that are added up have neither.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from experiment.flags import Settings, known
from network import checkpoints, layers
from runtime import devices
from training import objective
from training.state import State
from training.update import trained, update


def make_training(strategy, state: State, settings: Settings):
    """Make the part of the step in which replicas compute, settings.chunk images of each at a time.

    Both passes draw the same random numbers, in dropout and the like, and see the same statistics:
    see layers.BatchNorm for those.
    """
    embed = _make_embed(strategy, state, settings)
    differentiate = _make_differentiate(strategy, state, settings)
    companions = state.companions
    random_states = [x for x in state.network.variables if not checkpoints.is_averaged(x)]

    def read_random_states():
        return [tf.identity(each.value) for each in random_states]

    def losses(parts, labels, iteration, stop, states_before):
        for each, before in zip(random_states, states_before, strict=True):
            each.assign(before)
        embs = {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}
        with tf.GradientTape() as tape:
            tape.watch(embs)
            batch = objective.of_embeddings(embs, labels, iteration, state, settings)
        sources = embs, companions.trainable_variables
        by_embs, by_companions = tape.gradient(batch.scaled, sources)
        companions.move(batch.all_embs, labels)
        measured = objective.measurements(batch, embs["emb_raw"], labels, stop, settings)
        used = {name: gradient for name, gradient in by_embs.items() if gradient is not None}
        return measured, used, by_companions

    def train(images, labels, cameras, iteration, stop, frozen):
        b = strategy.experimental_local_results(images)[0].shape[0]
        indices = [tf.constant(i) for i in range(b // settings.chunk)]
        states_before = strategy.run(read_random_states)
        parts = []
        for i in indices:
            with _after(strategy, parts[-1:]):
                parts.append(embed(images, cameras, i, iteration))
        measured, by_embs, by_companions = strategy.run(
            losses, args=(parts, labels, iteration, stop, states_before)
        )
        gradients = differentiate(images, cameras, by_embs, indices[0], iteration, frozen)
        for i in indices[1:]:
            with _after(strategy, gradients):
                of_chunk = differentiate(images, cameras, by_embs, i, iteration, frozen)
            gradients = strategy.run(_add, args=(gradients, of_chunk))

        def change(of_network, of_companions):
            # Several workers cannot add up what is an argument itself.
            gradients = [
                None if each is None else tf.identity(each)
                for each in (*of_network, *of_companions)
            ]
            update(state, gradients, trained(state, frozen), settings)

        strategy.run(change, args=(gradients, by_companions))
        return measured

    return train


def _make_embed(strategy, state: State, settings: Settings):
    """Make the first pass: images, cameras, index of a chunk, iteration -> its {"emb_raw", "emb"},
    each [settings.chunk, D].
    """

    def replica(images, cameras, index, iteration):
        with _calling(images, cameras, index, iteration, settings, moves=False) as chunk:
            return dict(state.network(chunk, training=True))

    @_traced_once
    def embed(images, cameras, index, iteration):
        return strategy.run(replica, args=(images, cameras, index, iteration))

    return embed


def _make_differentiate(strategy, state: State, settings: Settings):
    """Make the second pass: from the gradients by embeddings to those by the network's weights.

    Returns:
        a function of
        images. cameras. by_embs: {"emb_raw", "emb"}, or those of them that the loss depends on, each [b, D].
        index: of the chunk. iteration. frozen: a Python bool, whether those of the net are left
          out.
          that gives a list of gradients; None for weights that do not come before the loss.
    """

    def replica(images, cameras, by_embs, index, iteration, frozen):
        own = {name: _part(each, index, settings.chunk) for name, each in by_embs.items()}
        of_companions = len(state.companions.trainable_variables)
        variables = trained(state, frozen)
        variables = variables[: len(variables) - of_companions]
        given = images, cameras, index, iteration, settings
        if state.segments:
            with _calling(*given, moves=True) as chunk:
                _, kept = state.segments.forward(chunk)
            with _calling(*given, moves=False):
                return state.segments.backward(kept, own, variables)
        with tf.GradientTape() as tape, _calling(*given, moves=True) as chunk:
            embs = state.network(chunk, training=True)
        return tape.gradient(
            [embs[name] for name in own], variables, output_gradients=list(own.values())
        )

    @_traced_once
    def differentiate(images, cameras, by_embs, index, iteration, frozen):
        return strategy.run(replica, args=(images, cameras, by_embs, index, iteration, frozen))

    return differentiate


@contextlib.contextmanager
def _calling(
    images, cameras, index, iteration, settings: Settings, moves: bool
) -> Iterator[tf.Tensor]:
    """A context in which the network is called with a chunk; gives its images.

    Args:
        images: of this replica. cameras: of the whole batch, or None.
    """
    b = images.shape[0]
    chunk = layers.Chunk(index, b // settings.chunk, moves)
    seen_by = devices.own_part(cameras, b)
    if seen_by is not None:
        seen_by = _part(seen_by, index, settings.chunk)
    with (
        layers.calling_with(chunk),
        layers.drawing(known(settings.seed), iteration),
        layers.seen_by(seen_by),
    ):
        yield _part(images, index, settings.chunk)


def _traced_once(function):
    """A function of a chunk stands in the graph once, however many chunks call it."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _part(x: tf.Tensor, index: tf.Tensor, size: int) -> tf.Tensor:
    """A chunk of [b, ...]: [size, ...]."""
    return tf.slice(x, [index * size, *[0] * (len(x.shape) - 1)], [size, *x.shape[1:]])


def _after(strategy, values):
    """A context of what is computed after these values, which replicas gave.

    Chunks would run side by side otherwise, and need the memory of the whole batch.
    """
    local = [strategy.experimental_local_results(each) for each in tf.nest.flatten(values)]
    return tf.control_dependencies([each for each in tf.nest.flatten(local) if each is not None])


def _add(sums: list, others: list) -> list:
    return [a if b is None else a + b for a, b in zip(sums, others, strict=True)]
