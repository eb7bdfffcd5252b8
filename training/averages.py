"""Averaged weights: a second network that follows the trained one.

All of its floating-point variables are exponential moving averages of the trained network's: the
weights, and the running statistics of batch norm, too. They are updated on each replica on its own,
as the values to average are the same on all.
"""

import keras
import tensorflow as tf

from network import checkpoint_paths, checkpoints


def named_variables(average: keras.Model, network: keras.Model) -> dict[str, keras.Variable]:
    """The averages by their names in checkpoints.

    Args:
        average: built as `network` was. Keras may have counted its layers on; names are those of
            `network`, which was built first.
    """
    names = checkpoints.named_variables(network)
    own = checkpoints.named_variables(average)
    return {
        checkpoint_paths.average_name(name): variable
        for name, variable in zip(names, own.values(), strict=True)
        if checkpoints.is_averaged(variable)
    }


def decay_at(decay: float, finished: tf.Tensor) -> tf.Tensor:
    """How much of an average an iteration leaves in place.

    It rises to `decay`, so that the average leaves the initial weights soon: min(decay,
    (1 + n) / (10 + n)), as num_updates does in tf.train.ExponentialMovingAverage.

    Args:
        decay: in [0, 1).
        finished: n, integer scalar, the number of finished iterations, this one included.

    Returns:
        float32 scalar in [0, 1).
    """
    n = tf.cast(finished, tf.float32)
    return tf.minimum(decay, (1 + n) / (10 + n))


def move(strategy, average: keras.Model, network: keras.Model, decay: tf.Tensor) -> None:
    """average <- average + (1 - decay) (network - average), of each variable.

    Call it outside of replicas.

    Args:
        strategy: the tf.distribute.Strategy whose devices hold both networks.
        decay: float32 scalar, see decay_at.
    """

    def of_one(mean, value):
        return mean.assign_add((1 - decay) * (value - tf.convert_to_tensor(mean)))

    _update(strategy, average, network, of_one)


def copy(strategy, average: keras.Model, network: keras.Model) -> None:
    """Set each variable to its value in the trained network. Called as `move` is."""
    _update(strategy, average, network, lambda mean, value: mean.assign(value))


def _update(strategy, average: keras.Model, network: keras.Model, function) -> None:
    """Call function(mean, value) for the copies of each variable on each device."""

    def on_device(mean, value):
        return function(mean, tf.convert_to_tensor(value))  # the one of this device

    for mean, value in zip(average.variables, network.variables, strict=True):
        if checkpoints.is_averaged(mean):
            strategy.extended.update(mean.value, on_device, args=(value.value,))
