"""The optimizers of --optimizer, and a step of one."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from training.adam import Adam
from training.per_variable import PerVariable, Treatment


class Options(NamedTuple):
    """Which optimizer, and its constants. experiment/rules.py checks that they fit together."""

    name: str = "adam"  # adam, adamw, sgd, rmsprop or adadelta
    rate: float = 3e-4
    weight_decay: float = 0.0  # of what _decays, times the rate (arXiv:1711.05101)
    l2: float = 0.0  # part of each weight that is added to its gradient
    momentum: float = 0.0  # of sgd and rmsprop
    nesterov: bool = False  # of sgd
    beta_1: float = 0.9  # of adam; the original's, as beta_2 and epsilon
    beta_2: float = 0.999
    low_beta_1_from: int | None = None  # iteration from which Adam's beta1 is 0.5
    rho: float | None = None  # of rmsprop and adadelta; None: Keras' default
    epsilon: float | None = None  # None: 1e-8 of adam, 1e-7 of the others
    scale_loss: bool = False  # for float16, which would lose small gradients


class AdamPerVariable(PerVariable, Adam):
    pass


class SGDPerVariable(PerVariable, keras.optimizers.SGD):
    pass


class RMSpropPerVariable(PerVariable, keras.optimizers.RMSprop):
    pass


class AdadeltaPerVariable(PerVariable, keras.optimizers.Adadelta):
    pass


def build(
    options: Options,
    variables: Sequence[keras.Variable],
    factors: Sequence[float] = (),
    frozen: Sequence[keras.Variable] = (),
    frozen_iterations: int = 0,
) -> keras.optimizers.Optimizer:
    """Make an optimizer and its state.

    Args:
        variables: all that are ever trained.
        factors: of the learning rate, one for each variable; none: all are 1.
        frozen: those of the variables that are not trained in the first `frozen_iterations`.

    Returns:
        the optimizer, within a LossScaleOptimizer if `scale_loss` is set.
    """
    optimizer = _make(options, frozen, frozen_iterations)
    treatments = [
        Treatment(factor, options.l2, options.weight_decay if _decays(variable) else 0.0)
        for variable, factor in zip(variables, factors or [1.0] * len(variables), strict=True)
    ]
    optimizer.treat(variables, treatments)
    if options.scale_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(list(variables))
    return optimizer


def _decays(variable: keras.Variable) -> bool:
    """Whether weight decay is for it: not for biases, scales of norms and the like, which have less
    than two dimensions, and not for tokens and embeddings of positions and cameras, as in timm.
    """
    return len(variable.shape) >= 2 and not re.search("token|embed|position", variable.name)


def _make(
    options: Options, frozen: Sequence[keras.Variable], frozen_iterations: int
) -> PerVariable:
    if options.name in ("adam", "adamw"):
        return AdamPerVariable(
            options.rate,
            beta_1=options.beta_1,
            beta_2=options.beta_2,
            epsilon=options.epsilon or 1e-8,
            late_beta_1=None if options.low_beta_1_from is None else 0.5,
            late_from=options.low_beta_1_from or 0,
            delayed=frozen,
            delay=frozen_iterations,
        )
    if options.name == "sgd":
        return SGDPerVariable(options.rate, momentum=options.momentum, nesterov=options.nesterov)
    constants = {name: getattr(options, name) for name in ("rho", "epsilon")}
    given = {name: value for name, value in constants.items() if value is not None}
    if options.name == "rmsprop":
        return RMSpropPerVariable(options.rate, momentum=options.momentum, **given)
    return AdadeltaPerVariable(options.rate, **given)


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
