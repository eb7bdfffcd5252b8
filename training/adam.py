"""Adam as TensorFlow 1 computes it."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


class _Corrections(NamedTuple):
    """What a step takes beside the gradient: float32 scalars."""

    beta_1: tf.Tensor | float
    beta_1_power: tf.Tensor
    beta_2_power: tf.Tensor


class Adam(keras.optimizers.Adam):
    """Keras' Adam with TensorFlow's own operation for the step, one for each variable.

    Rounding is then that of the original, and a step of a ResNet-50 takes a third of the time:
    Keras' dozen operations each go through all of the memory. Keras' options that act on gradients
    or weights still hold; amsgrad is not one of this operation's.

    The bias correction of a step divides by 1 - the product of all beta_1 so far.
    tf.train.AdamOptimizer keeps that product in a variable. Here it follows from the number of
    iterations, so there is nothing more to save.

    Args:
        late_beta_1: beta_1 from iteration `late_from` on. None: it stays the same.
        late_from: a number of finished iterations.
        delayed: variables that are not trained in the first `delay` iterations. Their moments are 0
            until then, so their bias correction starts then, too: otherwise their first steps would
            be up to three times too long.
    """

    def __init__(
        self,
        *args,
        late_beta_1: float | None = None,
        late_from: int = 0,
        delayed: Sequence[keras.Variable] = (),
        delay: int = 0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.late_beta_1 = late_beta_1
        self.late_from = late_from
        self.delay = delay
        self._delayed = frozenset(self._var_key(variable) for variable in delayed)

    def apply(self, grads, trainable_variables=None):
        # Once for all variables: on a GPU, hundreds of small operations take longer than the steps.
        self._corrections = self._corrections_after(0)
        self._delayed_corrections = self._corrections_after(self.delay)
        super().apply(grads, trainable_variables)

    def _corrections_after(self, first: int) -> _Corrections:
        """Those of variables that are trained from iteration `first` on."""
        step = tf.cast(self.iterations + 1 - first, tf.float32)
        beta_1 = self.beta_1
        beta_1_power = tf.pow(self.beta_1, step)
        if self.late_beta_1 is not None:
            late_steps = self.iterations + 1 - max(first, self.late_from)
            late = tf.maximum(0.0, tf.cast(late_steps, tf.float32))
            beta_1 = tf.where(late > 0, self.late_beta_1, self.beta_1)
            beta_1_power = tf.pow(self.beta_1, step - late) * tf.pow(self.late_beta_1, late)
        return _Corrections(beta_1, beta_1_power, tf.pow(self.beta_2, step))

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        is_delayed = self._var_key(variable) in self._delayed
        corrections = self._delayed_corrections if is_delayed else self._corrections
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=corrections.beta_1_power,
            beta2_power=corrections.beta_2_power,
            lr=learning_rate,
            beta1=corrections.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def _handle(variable):
    return (variable if isinstance(variable, tf.Variable) else variable.value).handle
