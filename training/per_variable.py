"""Optimizers whose steps differ from variable to variable."""

from collections.abc import Sequence
from typing import NamedTuple

import keras


class Treatment(NamedTuple):
    """How the steps of one variable are made.

    Attributes:
        factor: of the learning rate.
        l2: part of the variable that is added to its gradient.
        weight_decay: part of the variable that is taken away, times its learning rate.
    """

    factor: float = 1.0
    l2: float = 0.0
    weight_decay: float = 0.0


class PerVariable(keras.optimizers.Optimizer):
    """What one of Keras' optimizers becomes when it inherits from this first.

    A treatment without effect adds no operation to the graph.
    """

    def treat(self, variables: Sequence[keras.Variable], treatments: Sequence[Treatment]) -> None:
        """Say how the steps of variables are made, before any step."""
        keys = [self._var_key(variable) for variable in variables]
        self._treatments = dict(zip(keys, treatments, strict=True))

    def apply(self, grads, trainable_variables=None):
        # Once for all variables: on a GPU, hundreds of small operations take longer than the steps.
        factors = {treatment.factor for treatment in self._treatments.values()} - {1.0}
        self._rates = {factor: self.learning_rate * factor for factor in sorted(factors)}
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        treatment = self._treatments[self._var_key(variable)]
        rate = self._rates.get(treatment.factor, learning_rate)
        if treatment.l2:
            gradient += treatment.l2 * variable
        if treatment.weight_decay:
            variable.assign_sub(variable * treatment.weight_decay * rate)
        super().update_step(gradient, variable, rate)
