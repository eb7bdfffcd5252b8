"""The optimizers of --optimizer, and a step of one."""

import argparse
from collections.abc import Sequence

import keras
import tensorflow as tf

from training.adam import Adam

_ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}  # the original's


def build(
    args: argparse.Namespace,
    variables: Sequence[keras.Variable],
    body: Sequence[keras.Variable] = (),
) -> keras.optimizers.Optimizer:
    """The optimizer of the flags, built for `variables`; experiment.check_together has found the
    flags to fit.

    Where 16 bits would lose small gradients, a LossScaleOptimizer is around it.
    weight_decay is taken from the weights directly, times the learning rate (arXiv:1711.05101), of
    kernels only: not of biases, scales and other variables of less than two dimensions.

    Args:
        variables: all that are ever trained. body: those of them that --freeze_body_iterations is
            about.
    """
    options = {"learning_rate": args.learning_rate, "weight_decay": args.weight_decay or None}
    if args.optimizer in ("adam", "adamw"):
        late = (
            {"late_beta_1": 0.5, "late_from": args.decay_start_iteration}
            if args.adam_beta1_decay
            else {}
        )
        optimizer = Adam(
            **options, **_ADAM, **late, delayed=body, delay=args.freeze_body_iterations
        )
    elif args.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(**options, momentum=args.momentum, nesterov=args.nesterov)
    elif args.optimizer == "rmsprop":
        optimizer = keras.optimizers.RMSprop(**options, momentum=args.momentum)
    else:
        optimizer = keras.optimizers.Adadelta(**options)
    optimizer.exclude_from_weight_decay(
        [variable for variable in variables if len(variable.shape) < 2]
    )
    if args.precision == "mixed_float16":
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
        gradients: of the loss that optimizer.scale_loss gave; the sum over the replicas is what
            counts.
        clip_norm: where that sum is longer than this, all variables taken as one vector, it is
            scaled down to it. 0: never.
    """
    if clip_norm:
        gradients = _clip(gradients, optimizer.scale_loss(tf.constant(clip_norm)))
    optimizer.apply(gradients, variables)


def _clip(gradients: Sequence, clip_norm) -> list:
    """Keras' own global_clipnorm looks at each replica's gradients before it adds them up."""
    total = tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, list(gradients)
    )
    scale = clip_norm / tf.maximum(clip_norm, tf.linalg.global_norm(total))
    return [gradient * scale for gradient in gradients]
