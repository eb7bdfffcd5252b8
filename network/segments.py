"""A network in segments, whose activations are computed again for the gradients.

Only what passes between segments is kept (arXiv:1604.06174).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from network import checkpoints

# Layers of the shortest segment that is worth a recomputation.
_SHORTEST = 8


class Kept(NamedTuple):
    """What of a segment's call is kept: its input, and its random states before it."""

    x: tf.Tensor
    random_states: list[tf.Tensor]


class Segments:
    """The segments of a network, which share its layers.

    Attributes:
        parts: models that do, one after the other, what the network does in training.
    """

    def __init__(self, network: keras.Model):
        self.parts = split(network)
        self._random_states = _random_states(network)
        # Keras cannot begin a model within another and give one of its tensors twice, or its input.
        distinct = {id(tensor): name for name, tensor in network.output.items()}
        self._names = {name: distinct[id(tensor)] for name, tensor in network.output.items()}

    def forward(self, images: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[Kept]]:
        """Call the network in training, without keeping activations.

        Returns:
            what network(images, training=True) gives, and what `backward` needs.
        """
        x = images
        kept = []
        for part in self.parts:
            kept.append(Kept(x, [tf.identity(state.value) for state in _random_states(part)]))
            x = part(x, training=True)
        outputs = {name: x.get(given, kept[-1].x) for name, given in self._names.items()}
        # Two names may be of one tensor, whose gradient would count twice.
        return {name: tf.identity(tensor) for name, tensor in outputs.items()}, kept

    def backward(
        self,
        kept: Sequence[Kept],
        by_outputs: Mapping[str, tf.Tensor],
        variables: Sequence[keras.Variable],
    ) -> list[tf.Tensor | None]:
        """Pass gradients on from the network's outputs to its weights.

        Draws are those of `forward`. Call it in the same contexts of layers.py, but with a chunk
        that does not move statistics: they have moved.

        Args:
            kept: of the forward call.
            by_outputs: gradients by the outputs, by names; those that the loss does not depend on
                may lack.
            variables: of the network, those that gradients are wanted of.

        Returns:
            a gradient for each of the variables; None where the outputs do not depend on it.
        """
        wanted = {id(variable) for variable in variables}
        owned = [[v for v in part.trainable_variables if id(v) in wanted] for part in self.parts]
        found: dict[int, tf.Tensor] = {}
        gradients = list(by_outputs.values())
        drawn = [(state, tf.identity(state.value)) for state in self._random_states]
        first = next((index for index, own in enumerate(owned) if own), len(owned))
        for index in reversed(range(first, len(self.parts))):
            part, own = self.parts[index], owned[index]
            # Otherwise all segments could be computed again at once.
            with tf.control_dependencies(gradients):
                x = tf.identity(kept[index].x)
                for state, before in zip(
                    _random_states(part), kept[index].random_states, strict=True
                ):
                    state.assign(tf.identity(before))
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = part(x, training=True)
            is_last = isinstance(y, dict)
            outputs = [y.get(self._names[name], x) for name in by_outputs] if is_last else [y]
            *of_own, by_x = tape.gradient(outputs, [*own, x], output_gradients=gradients)
            # A weight may be updated only after all that reads it. TensorFlow puts reads and updates in order, but
            # loses this in its optimization of the graph where only the gradient by x comes from a read.
            readers = [*of_own, by_x] if index > first else of_own
            with tf.control_dependencies([each for each in readers if each is not None]):
                of_own = [None if each is None else tf.identity(each) for each in of_own]
            for variable, gradient in zip(own, of_own, strict=True):
                if gradient is not None:  # a layer may be called in several segments
                    before = found.get(id(variable))
                    found[id(variable)] = gradient if before is None else before + gradient
            gradients = [by_x]
        # A layer that is called in several segments was last called in the first of them.
        for state, after in drawn:
            state.assign(after)
        return [found.get(id(variable)) for variable in variables]


def _random_states(part: keras.Model) -> list[keras.Variable]:
    """Those of dropout and the like: what is no number of any layer."""
    return [variable for variable in part.variables if not checkpoints.is_averaged(variable)]


def split(network: keras.Model) -> list[keras.Model]:
    """Models of the same layers that do, one after the other, what the network does.

    They end where all that follows depends on one tensor only: in residual nets after a block. They
    have about as many layers as there are segments. Networks within the network are split, too.

    Args:
        network: gives a dict. The last model gives each of its tensors once, by one of its names,
            but not the input of that model.
    """
    distinct = {id(tensor): name for name, tensor in network.output.items()}
    return list(_split(network, {name: network.output[name] for name in distinct.values()}))


def _split(network: keras.Model, outputs) -> Iterator[keras.Model]:
    by_depth = network._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    nodes = [node for node in nodes if not node.is_input]
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in network.outputs)
    start = network.inputs[0]
    needed = {id(start)}  # what the nodes to come, or the outputs, depend on
    length = 0
    for node in nodes:
        is_inner = _is_network(node) and needed == {id(node.input_tensors[0])}
        uses.subtract(id(tensor) for tensor in node.input_tensors)
        made = {id(tensor): tensor for tensor in node.output_tensors}
        needed = {tensor for tensor in needed | made.keys() if uses[tensor]}
        length += 1
        if len(needed) != 1 or not needed <= made.keys():
            continue
        (result,) = (made[each] for each in needed)
        if is_inner:
            before = node.input_tensors[0]
            if start is not before:
                yield keras.Model(start, before)
            yield from _split(node.operation, node.operation.outputs[0])
        elif node is not nodes[-1] and length >= max(_SHORTEST, math.isqrt(len(nodes))):
            yield keras.Model(start, result)
        else:
            continue
        start = result
        length = 0
    if length and isinstance(outputs, dict):
        outputs = {name: tensor for name, tensor in outputs.items() if tensor is not start}
    if length:
        yield keras.Model(start, outputs)


def _is_network(node) -> bool:
    """Whether a node calls a network of one input and one output, whose graph is known."""
    # A subclass of keras.Model may have no graph.
    has_graph = hasattr(node.operation, "_nodes_by_depth")
    return has_graph and len(node.input_tensors) == len(node.output_tensors) == 1
