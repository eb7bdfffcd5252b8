"""Recognising the most common failure: all images embedded at one point."""

import math

import common

ADVICE = (
    "It rarely recovers. Start from pretrained weights (--initial_checkpoint; are they those of this net?), with a "
    "lower --learning_rate, or with easier batches: smaller --batch_p and --batch_k."
)


class CollapseWatch:
    """Call it with the numbers of each iteration; it gives a warning when the embedding has
    collapsed for long.

    Args:
      loss, margin: of the training. With all distances 0 a triplet loss is log 2 with "soft", the
        margin m with a number, 0 with "none": there it is once the embedding has collapsed. The
        lifted loss is not; and losses that take embeddings by their angles do not mind how close
        these are, so nothing is said of them.
      patience: iterations in a row that it takes; a warning comes once for each time that it
          collapses.
      every: iterations from one call to the next.
    """

    def __init__(self, loss: str, margin: float | str, patience: int = 100, every: int = 1):
        self._loss = {"soft": math.log(2), "none": 0.0}.get(margin, margin)
        # Where the loss of a collapsed embedding is 0, so is that of a perfect one.
        self._tolerance = 0.005 * self._loss if self._loss > 0 and loss != "lifted" else -1.0
        # Distances count as nothing when they are a tenth of those at which the margin has an
        # effect.
        self._small = 0.1 * (min(margin, 1.0) if isinstance(margin, float) and margin > 0 else 1.0)
        if loss in common.EMBEDDING_LOSSES:
            self._tolerance = self._small = -1.0
        self._patience, self._every = max(patience, every), every
        self._in_a_row = 0

    def __call__(self, furthest: float, mean_loss: float) -> str | None:
        """furthest: the largest distance in a batch. Returns: the warning, or None."""
        at_a_point = furthest < self._small
        stuck = abs(mean_loss - self._loss) < self._tolerance
        before = self._in_a_row
        self._in_a_row = before + self._every if at_a_point or stuck else 0
        if not before < self._patience <= self._in_a_row:
            return None
        seen = (
            f"all distances were below {self._small:.2g}"
            if at_a_point
            else f"the loss was about {self._loss:.3f}"
        )
        return f"The embedding has collapsed: for {self._patience} iterations {seen}. {ADVICE}"
