"""The optimizers of --optimizer, and a step of one."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from training.adam import Adam

_ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}  # the original's


class Options(NamedTuple):
    """Which optimizer, and its constants. experiment/rules.py checks that they fit together."""

    name: str = "adam"  # adam, adamw, sgd, rmsprop or adadelta
    rate: float = 3e-4
    # Taken from the weights directly, times the rate (arXiv:1711.05101); of kernels only, not of
    # biases, scales and other variables of less than two dimensions.
    weight_decay: float = 0.0
    momentum: float = 0.0  # of sgd and rmsprop
    nesterov: bool = False  # of sgd
    low_beta_1_from: int | None = None  # iteration from which Adam's beta1 is 0.5
    scale_loss: bool = False  # for float16, which would lose small gradients


def build(
    options: Options,
    variables: Sequence[keras.Variable],
    frozen: Sequence[keras.Variable] = (),
    frozen_iterations: int = 0,
) -> keras.optimizers.Optimizer:
    """Make an optimizer and its state.

    Args:
        variables: all that are ever trained.
        frozen: those of them that are not trained in the first `frozen_iterations`.

    Returns:
        the optimizer, within a LossScaleOptimizer if `scale_loss` is set.
    """
    shared = {"learning_rate": options.rate, "weight_decay": options.weight_decay or None}
    if options.name in ("adam", "adamw"):
        optimizer = Adam(
            **shared,
            **_ADAM,
            late_beta_1=None if options.low_beta_1_from is None else 0.5,
            late_from=options.low_beta_1_from or 0,
            delayed=frozen,
            delay=frozen_iterations,
        )
    elif options.name == "sgd":
        optimizer = keras.optimizers.SGD(
            **shared, momentum=options.momentum, nesterov=options.nesterov
        )
    elif options.name == "rmsprop":
        optimizer = keras.optimizers.RMSprop(**shared, momentum=options.momentum)
    else:
        optimizer = keras.optimizers.Adadelta(**shared)
    optimizer.exclude_from_weight_decay([var for var in variables if len(var.shape) < 2])
    if options.scale_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(list(variables))
    return optimizer


def apply(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence,
    variables: Sequence,
    clip_norm: float,
) -> None:
    """One step of an optimizer, on each replica with its own gradients.

    Args:
        gradients: of the loss that optimizer.scale_loss gave; their sum over the replicas counts.
        clip_norm: if that sum, all variables taken as one vector, is longer than this, it is scaled
            down to it. 0 never scales it.
    """
    if clip_norm:
        gradients = _clip(gradients, optimizer.scale_loss(tf.constant(clip_norm)))
    optimizer.apply(gradients, variables)


def _clip(gradients: Sequence, clip_norm) -> list:
    """Keras' global_clipnorm would look at each replica's gradients before it adds them up."""
    context = tf.distribute.get_replica_context()
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
    scale = clip_norm / tf.maximum(clip_norm, tf.linalg.global_norm(total))
    return [gradient * scale for gradient in gradients]
