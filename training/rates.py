"""Factors of the learning rate, by the names that variables have in checkpoints."""

from collections.abc import Collection, Mapping

from common import UserError

# The last part of the names of biases: of layers, and of norms.
_BIASES = ("biases", "beta")


def factors(
    parts: Mapping[str, Collection[str]], factors_of_parts: Mapping[str, float]
) -> dict[str, float]:
    """The factor of each trained variable.

    Args:
        parts: names of the variables of "net", "head" and "classifier", which are the layers that
            are trained beside the network.
        factors_of_parts: --lr_factors, see Settings.factors_of_parts.

    Raises:
        UserError: a factor is for a part that has no variables.
    """
    of_parts = {"head": 1.0} | dict(factors_of_parts)
    of_parts.setdefault("classifier", of_parts["head"])
    bias = of_parts.get("bias", 1.0)
    found = {}
    for part, names in parts.items():
        if part in factors_of_parts and not names:
            raise UserError(
                f"--lr_factors {part}={factors_of_parts[part]:g} has no effect: this training has no {part}. Leave "
                "it out."
            )
        for name in names:
            is_bias = name.rpartition("/")[2] in _BIASES
            found[name] = of_parts.get(part, 1.0) * (bias if is_bias else 1.0)
    return found
