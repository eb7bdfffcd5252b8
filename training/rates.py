"""Factors of the learning rate, by the names that variables have in checkpoints."""

import re
from collections.abc import Collection, Mapping, Sequence

from common import UserError

# The last part of the names of biases: of layers, and of norms.
_BIASES = ("biases", "beta")


def factors(
    parts: Mapping[str, Collection[str]],
    factors_of_parts: Mapping[str, float],
    by_depth: Mapping[str, float],
) -> dict[str, float]:
    """The factor of each trained variable.

    Args:
        parts: names of the variables of "net", "head" and "classifier", which are the layers that
            are trained beside the network.
        factors_of_parts: --lr_factors, see Settings.factors_of_parts.
        by_depth: further factors by names of variables, as of `decayed`; 1 for those without.

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
            factor = of_parts.get(part, 1.0) * (bias if is_bias else 1.0)
            found[name] = factor * by_depth.get(name, 1.0)
    return found


def decayed(names: Sequence[str], layer: str, decay: float) -> dict[str, float]:
    """The factors of --layer_decay: decay ^ the number of layers of the net that come after.

    As BEiT (arXiv:2106.08254) and timm count: the last layer has decay, the one before decay², and
    so on. What follows the last layer, a norm say, has 1, as the head.

    Args:
        names: of a net's variables, from the images on.
        layer: LAYERS of the net, see nets/__init__.py.

    Returns:
        {name: factor}.
    """
    matches = [re.search(layer, name.partition("/")[2]) for name in names]
    layers = [match[0] if match else None for match in matches]
    order = list(dict.fromkeys(each for each in layers if each is not None))
    above = 0
    found = {}
    for name, each in zip(reversed(names), reversed(layers), strict=True):
        if each is not None:
            above = len(order) - order.index(each)
        found[name] = decay**above
    for name, each in zip(names, layers, strict=True):
        if each is not None:
            break
        found[name] = decay ** (len(order) + 1)
    return found
