"""Which distance means "the same": the shares of true and of wrong pairs below each distance.

A pair is a query and a gallery image that is not ignored for it. It is accepted when its distance is
below a threshold. Pairs are counted in the pass that ranks the matches, in 65,536 bins of distance,
so that no list of pairs exists.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluation import distances, ranking

BINS = 2**16


class PairCounts:
    """How many true and how many wrong pairs have which distance.

    Bins are evenly spread from 0 to the greatest distance of the first 16 queries (squared for
    "euclidean"). What is further is in one more bin, the last.

    Attributes:
        scale: bins per unit of distance.
        true, wrong: int64 [BINS + 1], pairs in each bin.
        wrong_count: wrong pairs in all.
    """

    def __init__(self, comparison: ranking.Comparison):
        lower, _ = comparison.bounds(slice(0, min(16, len(comparison.query_pids))))
        greatest = float(lower.max())
        self.scale = BINS / greatest if greatest > 0 else 1.0
        self.true = np.zeros(BINS + 1, np.int64)
        self.wrong = np.zeros(BINS + 1, np.int64)
        self.wrong_count = 0
        self._lock = threading.Lock()

    def add(self, block: ranking.Block) -> None:
        """Count the pairs of a block. Threads may call it at the same time."""
        true = self._histogram(np.concatenate(block.matches))
        wrong = np.zeros_like(true)
        for part in distances.row_slices(block.wrong, 2**18):
            wrong += self._histogram(block.wrong[part])
        wrong_count = int(np.count_nonzero(block.wrong < np.inf))
        with self._lock:
            self.true += true
            self.wrong += wrong
            self.wrong_count += wrong_count

    def _histogram(self, dists: np.ndarray) -> np.ndarray:
        numbers = np.empty(dists.shape, np.float32)  # precise enough for a bin, and much faster
        with np.errstate(over="ignore"):
            np.multiply(dists, self.scale, out=numbers, casting="same_kind")
        np.clip(numbers, 0, BINS, out=numbers)
        return np.bincount(numbers.astype(np.int32).ravel(), minlength=BINS + 1)


class Point(NamedTuple):
    """A threshold, and the shares of the wrong and of the true pairs that it accepts, in 0..1."""

    distance: float
    fpr: float
    tpr: float


@dataclass(frozen=True, eq=False)
class Verification:
    """The ROC over all pairs.

    Attributes:
        thresholds: float64 [BINS + 1], rising distances from 0 on.
        true_below, wrong_below: int64 [BINS + 1], how many pairs each of them accepts.
        true_count, wrong_count: how many pairs there are, at least 1 of each.
    """

    thresholds: np.ndarray
    true_below: np.ndarray
    wrong_below: np.ndarray
    true_count: int
    wrong_count: int

    @property
    def tpr(self) -> np.ndarray:
        """The share of the true pairs that each threshold accepts: float64 [BINS + 1]."""
        return self.true_below / self.true_count

    @property
    def fpr(self) -> np.ndarray:
        """The same of the wrong pairs."""
        return self.wrong_below / self.wrong_count

    def at_fpr(self, fpr: float) -> Point:
        """The greatest threshold that accepts no more than this share of the wrong pairs."""
        allowed = fpr * self.wrong_count
        place = np.searchsorted(self.wrong_below, allowed, side="right") - 1
        return Point(
            distance=float(self.thresholds[place]),
            fpr=float(self.wrong_below[place] / self.wrong_count),
            tpr=float(self.true_below[place] / self.true_count),
        )

    def below(self, distance: float) -> Point:
        """What a distance accepts, to the resolution of the thresholds."""
        place = np.searchsorted(self.thresholds, distance, side="right") - 1
        return Point(distance, float(self.fpr[place]), float(self.tpr[place]))

    def equal_error(self) -> Point:
        """Where as large a share of wrong pairs is accepted as of true pairs is rejected.

        Between the two thresholds beside this point the ROC is a straight line. The equal error
        rate is the point's `fpr`.
        """
        gap = 1 - self.tpr - self.fpr  # falls from 1 on
        after = int(np.argmax(gap <= 0)) or len(gap) - 1
        before = after - 1
        part = (
            min(1.0, gap[before] / (gap[before] - gap[after])) if gap[after] < gap[before] else 1.0
        )

        def between(values: np.ndarray) -> float:
            return float(values[before] + part * (values[after] - values[before]))

        return Point(between(self.thresholds), between(self.fpr), between(self.tpr))

    def as_json(self, fprs: Iterable[float]) -> dict[str, object]:
        """What evaluate.py writes of it to its JSON file."""
        error = self.equal_error()
        return {
            "distance_at_FPR": {fpr: self.at_fpr(fpr).distance for fpr in fprs},
            "EER": error.fpr,
            "EER_distance": error.distance,
        }


def verification(counts: PairCounts, squared: bool) -> Verification | None:
    """The ROC over the pairs that were counted; None without true ones or without wrong ones.

    Args:
        squared: whether the distances that were counted are squared ones.
    """
    true_count = int(counts.true.sum())
    if not true_count or not counts.wrong_count:
        return None
    thresholds = np.arange(BINS + 1) / counts.scale
    return Verification(
        thresholds=np.sqrt(thresholds) if squared else thresholds,
        true_below=_counts_below(counts.true),
        wrong_below=_counts_below(counts.wrong),
        true_count=true_count,
        wrong_count=counts.wrong_count,
    )


def _counts_below(histogram: np.ndarray) -> np.ndarray:
    """How many distances lie below each threshold, which is the lower edge of a bin."""
    return np.concatenate([[0], np.cumsum(histogram[:-1])])


# ------------------------------------------------------------------------- open sets

ACCEPTED = (0.01, 0.1)  # shares of the unknown queries for which the distance is told


def nearest_found(block: ranking.Block) -> np.ndarray:
    """Distances of n queries to what they would be taken for: float64 [n].

    For a query without a true match that is its nearest image; for another its nearest true match,
    inf where a wrong image is nearer.
    """
    nearest = block.wrong.min(axis=1)
    for row, matches in enumerate(block.matches):
        if len(matches):
            closest = matches.min()
            nearest[row] = closest if closest < nearest[row] else np.inf
    return nearest


@dataclass(frozen=True, eq=False)
class OpenSet:
    """Queries whose pid the gallery lacks, unknown ones, beside the known ones with a true match.

    A threshold accepts a query if its nearest image is closer.

    Attributes:
        unknown: float64 [U], ascending: the distances of unknown queries to their nearest image.
        known: float64 [K], ascending: those of known queries, inf where the nearest image is wrong.
    """

    unknown: np.ndarray
    known: np.ndarray

    def accepted(self, distance: float) -> float:
        """The share of the unknown queries that a threshold accepts, in 0..1."""
        return _share_below(self.unknown, distance)

    def found(self, distance: float) -> float:
        """The share of the known queries whose nearest image is a true match and is accepted."""
        return _share_below(self.known, distance)

    def at_accepted(self, share: float) -> float:
        """The greatest distance that accepts no more than this share of the unknown queries."""
        place = int(share * len(self.unknown) + 1e-9)
        return float(self.unknown[min(place, len(self.unknown) - 1)])

    def as_json(self, pairs: Verification, fprs: Iterable[float]) -> dict[str, object]:
        """What evaluate.py writes of it to its JSON file."""
        at_fpr = {fpr: pairs.at_fpr(fpr).distance for fpr in fprs}
        at_eer = pairs.equal_error().distance
        at_accepted = {share: self.at_accepted(share) for share in ACCEPTED}
        return {
            "unknown": len(self.unknown),
            "known": len(self.known),
            "accepted_at_FPR": {fpr: self.accepted(distance) for fpr, distance in at_fpr.items()},
            "found_at_FPR": {fpr: self.found(distance) for fpr, distance in at_fpr.items()},
            "accepted_at_EER": self.accepted(at_eer),
            "found_at_EER": self.found(at_eer),
            "distance_at_accepted": at_accepted,
            "found_at_accepted": {
                share: self.found(distance) for share, distance in at_accepted.items()
            },
        }


class OperatingPoint(NamedTuple):
    """What a distance does as a threshold. All shares are in 0..1."""

    name: str  # why it is looked at
    distance: float
    fpr: float
    tpr: float
    accepted: float | None  # share of the unknown queries; None without an open set
    found: float | None  # share of the known ones


def operating_points(
    pairs: Verification, fprs: Iterable[float], open_set: OpenSet | None
) -> list[OperatingPoint]:
    """The thresholds that a table shows: at each FPR, where errors are equal, and for an open set
    where few of the unknown queries are accepted.
    """
    points = [(f"FPR {fpr:.4g}", pairs.at_fpr(fpr)) for fpr in fprs]
    points.append(("equal errors", pairs.equal_error()))
    if open_set is None:
        return [OperatingPoint(name, *point, None, None) for name, point in points]
    for share in ACCEPTED:
        point = pairs.below(open_set.at_accepted(share))
        points.append((f"{share:.0%} of the unknown", point))
    return [
        OperatingPoint(
            name, *point, open_set.accepted(point.distance), open_set.found(point.distance)
        )
        for name, point in points
    ]


def _share_below(dists: np.ndarray, distance: float) -> float:
    return float(np.searchsorted(dists, distance, side="left") / len(dists))
