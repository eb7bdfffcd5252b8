"""The losses of identities, --id_loss: what each can be given, and its own constants.

training/companions.py computes them. Nothing here needs TensorFlow, as --help lists them.
"""

import math
from typing import NamedTuple


class IdLoss(NamedTuple):
    """A loss of identities.

    Attributes:
        scale: what it multiplies cosines by, as its paper has it. None: it takes no cosines.
        margin: as its paper has it.
        margin_below: a margin is from 0 to below this.
        sub_centers: whether a pid may have several centers.
        margin_by_count: whether the margin may depend on the number of a pid's images.
        smoothing: label smoothing where none is given. None: it has no labels to smooth.
        rate_factor: of the learning rate of what it learns, as its paper has it.
    """

    scale: float | None = None
    margin: float | None = None
    margin_below: float = 1.0
    sub_centers: bool = False
    margin_by_count: bool = False
    smoothing: float | None = 0.0
    rate_factor: float = 1.0


ID_LOSSES = {
    "softmax": IdLoss(smoothing=0.1),
    "cosface": IdLoss(64.0, 0.35, margin_below=2.0, sub_centers=True, margin_by_count=True),
    "arcface": IdLoss(64.0, 0.5, margin_below=math.pi, sub_centers=True, margin_by_count=True),
    "circle": IdLoss(256.0, 0.25, sub_centers=True),
    "proxy_anchor": IdLoss(32.0, 0.1, smoothing=None, rate_factor=100.0),
}

WITH_COSINES = tuple(name for name, loss in ID_LOSSES.items() if loss.scale)
WITH_SUB_CENTERS = tuple(name for name, loss in ID_LOSSES.items() if loss.sub_centers)
WITH_MARGIN_BY_COUNT = tuple(name for name, loss in ID_LOSSES.items() if loss.margin_by_count)


class MarginByCount(NamedTuple):
    """A margin that is smaller for pids with more images: a · n^-power + least, of n images.

    The dynamic margins of arXiv:2010.05350.
    """

    a: float
    power: float
    least: float

    @classmethod
    def parse(cls, text: str) -> "MarginByCount":
        """The margin that "A,POWER,LEAST" tells. Raises: ValueError."""
        a, power, least = map(float, text.split(","))
        if not (0 < a < math.inf and 0 < power < math.inf and 0 <= least < math.inf):
            raise ValueError
        return cls(a, power, least)
