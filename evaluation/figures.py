"""Figures of an evaluation from ranks: AP, CMC, mINP, MAP@R, precision at recall, by their names."""

import argparse
import math
import re
from collections.abc import Sequence

import numpy as np

NAMES = ("mAP", "mINP", "MAP@R", "R-precision", "top-K", "Recall@K", "EER", "TPR@FPR")
TOP = re.compile(r"(?:top-|Recall@)([1-9][0-9]*)")  # two names of one figure


def name(text: str) -> str:
    """A flag type: one of NAMES, with numbers for K and FPR."""
    plain = text in NAMES[:4] or text == "EER"
    if not plain and not TOP.fullmatch(text) and false_positives(text) is None:
        raise argparse.ArgumentTypeError(
            f"should be one of {', '.join(NAMES)}, with an integer of at least 1 for K and a share such as 1e-3 for "
            f"FPR. Received: {text}"
        )
    return text


def false_positives(name: str) -> float | None:
    """The FPR of a name such as TPR@1e-3; None for another name."""
    head, _, number = name.partition("TPR@")
    try:
        fpr = float(number)
    except ValueError:
        return None
    return fpr if not head and 0 <= fpr <= 1 else None


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


def means(ranks: Sequence[np.ndarray], market: bool = False) -> dict[str, float]:
    """Some figures of some queries.

    Args:
        ranks: of the true matches of each query, at least one query, each with one match at least.
        market: as average_precision takes it.

    Returns:
        queries, their number; then mAP, mINP, MAP_at_R, R_precision, top_1, top_5 and top_10, in
        0..1.
    """
    first = np.array([query[0] for query in ranks])
    values = {
        "mAP": [average_precision(query, market) for query in ranks],
        "mINP": [inverse_negative_penalty(query) for query in ranks],
        "MAP_at_R": [map_at_r(query) for query in ranks],
        "R_precision": [r_precision(query) for query in ranks],
        "top_1": first <= 1,
        "top_5": first <= 5,
        "top_10": first <= 10,
    }
    return {"queries": len(ranks)} | {name: float(np.mean(of)) for name, of in values.items()}


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
