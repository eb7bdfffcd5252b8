"""Figures by group: for each camera, species or product that the queries are of.

A group has the figures of its queries against the whole gallery. A pair of groups has those of the
queries of one against the gallery images of the other alone: true matches and wrong images of this
group, ranked among themselves.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import UserError, has_one_group
from data import cameras
from data.dataset import Dataset
from evaluation import figures, ranking

COLUMNS = {"group": "groups", "camera": "cameras"}  # of a CSV with header: attributes of Dataset

Figures = dict[str, float]  # by the names of figures.means
SHOWN = {  # on the terminal and in a report, by what they are called there
    "mAP": "mAP",
    "mINP": "mINP",
    "MAP@R": "MAP_at_R",
    "R-precision": "R_precision",
    "top-1": "top_1",
}


def rule(text: str) -> str:
    """A flag type: one of COLUMNS, of cameras.PATTERNS, or a regular expression with one group."""
    if text not in (*COLUMNS, *cameras.PATTERNS) and not has_one_group(text):
        raise argparse.ArgumentTypeError(
            f"should be a column of the CSVs, {' or '.join(COLUMNS)}; a data set whose file names tell cameras, "
            f"{', '.join(cameras.PATTERNS)}; or a regular expression with one group in parentheses. Received: {text}"
        )
    return text


def of_queries(images: Dataset, rule: str) -> list[str]:
    """The group of each query.

    Args:
        rule: as the function rule takes it. A regular expression is searched for in the whole fid.

    Raises:
        UserError: the data set lacks the column, or a fid has no group.
    """
    found = _find(images, rule)
    if found is None:
        raise UserError(
            f"--groups {rule}: {images.path or 'the query set'} has no column {rule}. Give a CSV whose header names "
            "it, or another --groups."
        )
    for fid, group in zip(images.fids, found, strict=True):
        if group is None:
            raise UserError(
                f"--groups {rule} is not found in a query. Received: {fid!r}. Give a rule that fits all queries."
            )
    return found


def labels_of(images: Dataset, rule: str) -> tuple[np.ndarray, list[str]]:
    """Number the groups of the gallery.

    Returns:
        int32 [G], the number of each image's group, -1 where it has none and takes part in no pair;
        and the names of the groups by number.
    """
    numbers: dict[str, int] = {}
    labels = np.full(len(images), -1, np.int32)
    for row, group in enumerate(_find(images, rule) or ()):
        if group is not None:
            labels[row] = numbers.setdefault(group, len(numbers))
    return labels, list(numbers)


def _find(images: Dataset, rule: str) -> list | None:
    """The group of each image, None where there is none; None without the column."""
    if rule in COLUMNS:
        column = getattr(images, COLUMNS[rule])
        return None if column is None else list(column)
    if rule in cameras.PATTERNS:
        parsed = [cameras.pid_and_camera(rule, fid) for fid in images.fids]
        return [pid_and_camera and pid_and_camera[1] for pid_and_camera in parsed]
    matches = [re.search(rule, fid) for fid in images.fids]
    return [match and match[1] for match in matches]


def ranks_within(block: ranking.Block, labels: np.ndarray) -> list[dict[int, np.ndarray]]:
    """The ranks of true matches among the gallery images of their own group.

    Args:
        labels: int [G], the group of each gallery image, -1 for none.

    Returns:
        For each query of the block the int64 ranks, ascending, by each group that has a true match.
    """
    found = []
    for matches, columns, wrong in zip(*block, strict=True):
        of_matches = labels[columns]
        rivals = np.flatnonzero(wrong <= matches.max()) if len(matches) else columns
        of_rivals, rivals = labels[rivals], wrong[rivals]
        ranks = {}
        for label in np.unique(of_matches[of_matches >= 0]).tolist():
            own = np.sort(matches[of_matches == label])
            ranks[label] = ranking.ranks_among(own, rivals[of_rivals == label])
        found.append(ranks)
    return found


@dataclass(frozen=True)
class Groups:
    """Figures by group. Only queries with a true match count, in a pair with one of this group.

    Attributes:
        queries: by group of the queries.
        pairs: by group of the queries and group of the gallery images.
    """

    queries: dict[str, Figures]
    pairs: dict[tuple[str, str], Figures]

    @property
    def mean_ap(self) -> float:
        """The mean over the groups of their mAP: each counts the same, however many queries it has."""
        return float(np.mean([values["mAP"] for values in self.queries.values()]))

    def as_json(self) -> dict[str, object]:
        """What evaluate.py writes of it to its JSON file."""
        pairs: dict[str, dict[str, Figures]] = defaultdict(dict)
        for (of_query, of_images), values in self.pairs.items():
            pairs[of_query][of_images] = values
        return {"mAP_of_groups": self.mean_ap, "groups": self.queries, "group_pairs": pairs}


def figures_by_group(
    query_groups: Sequence[str],
    gallery_names: Sequence[str],
    ranks: Sequence[np.ndarray],
    within: Sequence[dict[int, np.ndarray]],
    market: bool,
) -> Groups:
    """The figures of each group and pair, sorted by name.

    Args:
        query_groups: [Q].
        gallery_names: what the labels of ranks_within are called.
        ranks: as ranking.match_ranks returns them, one query with a true match at least.
        within: as ranks_within returns them, of all Q queries.
        market: as figures.average_precision takes it.
    """
    queries = defaultdict(list)
    pairs = defaultdict(list)
    for group, of_query, by_label in zip(query_groups, ranks, within, strict=True):
        if len(of_query):
            queries[group].append(of_query)
        for label, own in by_label.items():
            pairs[group, gallery_names[label]].append(own)
    return Groups(
        queries={key: figures.means(queries[key], market) for key in sorted(queries, key=order)},
        pairs={
            key: figures.means(pairs[key], market)
            for key in sorted(pairs, key=lambda pair: (order(pair[0]), order(pair[1])))
        },
    )


def order(name: str) -> list[tuple[str, int]]:
    """For sorting: 2 comes before 10."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(text, int(number or 0)) for text, number in parts]
