"""From the gradient of a loss to new weights."""

from collections.abc import Sequence

import tensorflow as tf

import common
from experiment.flags import Settings
from runtime import devices
from training import optimizers
from training.state import State


def trained(state: State, frozen: bool) -> list:
    """The variables that an iteration trains: all, or all but the net's if they are frozen."""
    net = {id(weight) for weight in state.net.trainable_variables}
    return [weight for weight in state.trainable if not (frozen and id(weight) in net)]


def update(state: State, gradients: Sequence, variables: list, settings: Settings) -> None:
    """In a replica: one step of the optimizer.

    Args:
        gradients: of Objective.scaled by the variables; None for those that it does not depend on.
            Their sum over the replicas counts.

    Raises:
        UserError: all of them are None.
    """
    if all(gradient is None for gradient in gradients):
        raise common.UserError(
            "--freeze_body_iterations leaves nothing to train: no weights of --head_name "
            f"{settings.head_name} come before the loss. Leave it out, or add an --id_loss_weight."
        )
    # The weights of a neck have none where the only loss is taken before it: they stay as they are,
    # with --l2, too.
    pairs = zip(gradients, variables, strict=True)
    used = [(gradient, weight) for gradient, weight in pairs if gradient is not None]
    gradients = [gradient for gradient, _ in used]
    variables = [weight for _, weight in used]
    if settings.precision == "mixed_float16":
        gradients = _agreed(gradients)
    optimizers.apply(state.optimizer, gradients, variables, settings.clip_norm)


def _agreed(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Make all gradients infinite if any replica's are, so that every replica skips the step."""
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(each)) for each in gradients])
    finite_everywhere = tf.reduce_all(devices.gather(tf.cast(finite, tf.float32)[None]) > 0)
    return [tf.where(finite_everywhere, each, float("inf")) for each in gradients]
