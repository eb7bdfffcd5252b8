"""Figures of an evaluation: AP, CMC, mINP and precision at recall from ranks; the ROC from pairs."""

import argparse
import math
import re
from collections.abc import Sequence

import numpy as np

from evaluation import distances, ranking

NAMES = ("mAP", "mINP", "MAP@R", "R-precision", "top-K", "Recall@K")
TOP = re.compile(r"(?:top-|Recall@)([1-9][0-9]*)")  # two names of one figure


def name(text: str) -> str:
    """A flag type: one of NAMES, with a number for its K."""
    if text not in NAMES[:4] and not TOP.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"should be one of {', '.join(NAMES)}, with an integer of at least 1 for K. Received: {text}"
        )
    return text


def average_precision(ranks: np.ndarray, market: bool = False) -> float:
    """The AP of one query, in 0..1.

    Args:
        ranks: of its n >= 1 true matches, ascending, from 1.
        market: join the points of precision and recall by straight lines, as the code that came
            with Market-1501 does, instead of by steps, as scikit-learn does since 0.19.
    """
    found = np.arange(1, len(ranks) + 1)
    precisions = found / ranks
    if market:
        before = np.ones(len(ranks))  # precision just before each match; 1 at the very start
        np.divide(found - 1, ranks - 1, out=before, where=ranks > 1)
        precisions = (before + precisions) / 2
    return float(precisions.mean())


def inverse_negative_penalty(ranks: np.ndarray) -> float:
    """The share of true matches among the images up to a query's last one, in 0..1.

    mINP is its mean over queries: Ye et al., Deep Learning for Person Re-identification: A Survey
    and Outlook, section 4.1.

    Args:
        ranks: of its n >= 1 true matches, ascending, from 1.
    """
    return float(len(ranks) / ranks[-1])


def map_at_r(ranks: np.ndarray) -> float:
    """The MAP@R of one query, in 0..1: its AP over the first R images only.

    R is the number of its true matches. Only those of them count that are among the first R: Musgrave
    et al., A Metric Learning Reality Check, section 3.2.

    Args:
        ranks: of its R >= 1 true matches, ascending, from 1.
    """
    found = np.arange(1, len(ranks) + 1)
    precisions = np.where(ranks <= len(ranks), found / ranks, 0)
    return float(precisions.mean())


def r_precision(ranks: np.ndarray) -> float:
    """The share of true matches among the first R images of one query, in 0..1.

    Args:
        ranks: of its R >= 1 true matches, ascending, from 1.
    """
    return float(np.mean(ranks <= len(ranks)))


def cmc(ranks: Sequence[np.ndarray], gallery_size: int) -> np.ndarray:
    """The share of queries with a true match among the first k images.

    Args:
        ranks: as match_ranks returns them. Queries without a true match do not count; at least one
            query has one.
        gallery_size: G.

    Returns:
        float64 [G], for k = 1..G.
    """
    first = [query[0] for query in ranks if len(query)]
    return np.bincount(np.subtract(first, 1), minlength=gallery_size).cumsum() / len(first)


def precision_at_recall(ranks: Sequence[np.ndarray], recalls: Sequence[float]) -> list[float]:
    """Interpolated precision, the highest at this recall or a higher one, as a mean over queries.

    Args:
        ranks: as for cmc.
        recalls: above 0, up to 1.

    Returns:
        A precision in 0..1 for each recall.
    """
    curves = []
    for query in filter(len, ranks):
        precisions = np.arange(1, len(query) + 1) / query
        best_from = np.maximum.accumulate(precisions[::-1])[::-1]
        # Not just the ceiling: 0.7 · 10 is more than 7 in floats.
        needed = [math.ceil(recall * len(query) - 1e-9) for recall in recalls]
        curves.append([best_from[count - 1] for count in needed])
    return np.mean(curves, axis=0).tolist()


def tpr_at_fpr(
    comparison: ranking.Comparison, fprs: Sequence[float], batch_size: int = 256
) -> list[float | None]:
    """Points of the ROC of verification, over all pairs of a query and an image that is not ignored.

    A pair is accepted when its distance is below a threshold. There are 65,537 thresholds, evenly
    spread from 0 to the greatest distance of the first 16 queries (squared for "euclidean").

    Args:
        fprs: shares of the wrong pairs, in 0..1.
        batch_size: as for match_ranks.

    Returns:
        For each FPR the share of the true pairs that are accepted at the greatest threshold that
        accepts no more than this share of the wrong pairs; None where there are no true or no
        wrong pairs.
    """
    bins = 2**16
    lower, _ = comparison.bounds(slice(0, min(16, len(comparison.query_pids))))
    greatest = lower.max()
    scale = bins / greatest if greatest > 0 else 1.0

    def histogram(dists: np.ndarray) -> np.ndarray:
        numbers = np.empty(dists.shape, np.float32)  # precise enough for a bin, and much faster
        with np.errstate(over="ignore"):
            np.multiply(dists, scale, out=numbers, casting="same_kind")
        np.clip(numbers, 0, bins, out=numbers)
        return np.bincount(numbers.astype(np.int32).ravel(), minlength=bins + 1)

    def count(matches: list[np.ndarray], wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        positives = histogram(np.concatenate(matches))
        negatives = np.zeros(bins + 1, np.int64)
        for part in distances.row_slices(wrong, 2**18):
            negatives += histogram(wrong[part])
        return positives, negatives, int(np.count_nonzero(wrong < np.inf))

    counts = ranking.map_queries(count, comparison, batch_size)
    positives = sum(block[0] for block in counts)
    negatives = sum(block[1] for block in counts)
    negative_count = sum(block[2] for block in counts)
    positive_count = positives.sum()
    if not positive_count or not negative_count:
        return [None] * len(fprs)

    accepted_positives = _counts_below(positives)
    accepted_negatives = _counts_below(negatives)
    tprs: list[float | None] = []
    for fpr in fprs:
        allowed = fpr * negative_count
        threshold = np.searchsorted(accepted_negatives, allowed, side="right") - 1
        tprs.append(float(accepted_positives[threshold] / positive_count))
    return tprs


def _counts_below(histogram: np.ndarray) -> np.ndarray:
    """How many distances lie below each threshold, which is the lower edge of a bin."""
    return np.concatenate([[0], np.cumsum(histogram[:-1])])
