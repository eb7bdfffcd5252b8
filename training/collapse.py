"""Recognizing the most common failure: all images are embedded at one point."""

import math

import common

_ADVICE = (
    "It rarely recovers. Start from pretrained weights (--initial_checkpoint; are they those of "
    "this net?), with a lower --learning_rate, or with easier batches: smaller --batch_p and "
    "--batch_k."
)


class CollapseWatch:
    """Call it with the numbers of iterations; it returns a warning after a long collapse.

    With all distances 0, a triplet loss is log 2 with the margin "soft", m with a number m, and 0
    with "none". The lifted loss is not, and losses over angles do not mind how close embeddings
    are: for these nothing is watched.

    Args:
        loss, margin: those of the training.
        patience: iterations that it takes, from the first one looked at to the last. Each collapse
            is told once.
    """

    def __init__(self, loss: str, margin: float | str, patience: int = 100):
        over_distances = loss not in common.EMBEDDING_LOSSES
        if isinstance(margin, str):
            self._collapsed_loss = {"soft": math.log(2), "none": 0.0}[margin]
        else:
            self._collapsed_loss = margin
        # Where the loss of a collapsed embedding is 0, so is that of a perfect one.
        self._watches_loss = over_distances and loss != "lifted" and self._collapsed_loss > 0
        self._watches_distances = over_distances
        # Distances below a tenth of those at which the margin has an effect count as nothing.
        reach = margin if isinstance(margin, float) and margin > 0 else 1.0
        self._small = 0.1 * min(reach, 1.0)
        self._patience = patience
        self._since: int | None = None  # the iteration that it was first seen at
        self._is_told = False

    def __call__(self, iteration: int, furthest: float, mean_loss: float) -> str | None:
        """Look at one iteration.

        Args:
            iteration: its number, higher than that of the last call.
            furthest: the largest distance in the batch.

        Returns:
            the warning, or None.
        """
        at_a_point = self._watches_distances and furthest < self._small
        deviation = abs(mean_loss - self._collapsed_loss)
        stuck = self._watches_loss and deviation < 0.005 * self._collapsed_loss
        if not (at_a_point or stuck):
            self._since, self._is_told = None, False
            return None
        self._since = self._since or iteration
        lasted = iteration - self._since + 1
        if self._is_told or lasted < self._patience:
            return None
        self._is_told = True
        if at_a_point:
            seen = f"all distances were below {self._small:.2g}"
        else:
            seen = f"the loss was about {self._collapsed_loss:.3f}"
        return f"The embedding has collapsed: for {lasted} iterations {seen}. {_ADVICE}"
