import argparse

import numpy as np
import pytest

from common import UserError
from data.dataset import Dataset
from evaluation import grouping, ranking


def images(fids, **columns):
    return Dataset(["0"] * len(fids), fids, "images.csv", **columns)


@pytest.mark.parametrize("rule", ["group", "camera", "market1501", r"_c(\d+)", "(a|b)/"])
def test_rules(rule):
    assert grouping.rule(rule) == rule


@pytest.mark.parametrize("rule", ["groups", "", "c", "(a)(b)", "("])
def test_what_is_no_rule(rule):
    with pytest.raises(argparse.ArgumentTypeError, match="group or camera.*market1501.*Received"):
        grouping.rule(rule)


def test_groups_are_found():
    fids = ["a/1_c2s1_.jpg", "b/1_c10s1_.jpg"]
    columns = images(fids, groups=["x", "y"], cameras=["7", "8"])
    assert grouping.of_queries(columns, "group") == ["x", "y"]
    assert grouping.of_queries(columns, "camera") == ["7", "8"]
    assert grouping.of_queries(columns, "market1501") == ["2", "10"]
    assert grouping.of_queries(columns, "^(.)/") == ["a", "b"]


def test_queries_without_a_group_are_told():
    with pytest.raises(UserError, match="--groups group: images.csv has no column group"):
        grouping.of_queries(images(["a"]), "group")
    with pytest.raises(UserError, match=r"--groups \(x\) .*Received: 'a.jpg'"):
        grouping.of_queries(images(["x.jpg", "a.jpg"]), "(x)")


def test_gallery_images_without_a_group_have_no_label():
    labels, names = grouping.labels_of(images(["a/1", "b/1", "1", "a/2"]), "^([ab])/")
    assert labels.tolist() == [0, 1, -1, 0] and names == ["a", "b"]
    labels, names = grouping.labels_of(images(["1", "2"]), "group")
    assert labels.tolist() == [-1, -1] and names == []


def test_ranks_within_a_group_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, 200)
    block = ranking.Block([], [], rng.integers(0, 60, (9, 200)).astype(float))
    for row in block.wrong:
        columns = rng.choice(200, rng.integers(0, 9), replace=False)
        block.columns.append(columns)
        block.matches.append(rng.integers(0, 60, len(columns)).astype(float))
        row[columns] = np.inf
    found = grouping.ranks_within(block, labels)
    assert len(found) == 9
    for matches, columns, wrong, ranks in zip(*block, found, strict=True):
        assert ranks.keys() == {label for label in labels[columns] if label >= 0}
        for label, got in ranks.items():
            # Wrong images come first where distances are equal.
            pairs = [(dist, 0) for dist in wrong[labels == label] if dist < np.inf]
            pairs += [(dist, 1) for dist in matches[labels[columns] == label]]
            wanted = [rank for rank, (_, true) in enumerate(sorted(pairs), 1) if true]
            assert got.tolist() == wanted


def test_numbers_in_names_are_sorted_as_numbers():
    names = ["c10", "c2", "10", "b", "2", "c2a"]
    assert sorted(names, key=grouping.order) == ["2", "10", "b", "c2", "c2a", "c10"]


def test_figures_by_group_by_hand():
    ranks = [np.array([1]), np.array([2, 4]), np.array([], np.int64), np.array([1, 2])]
    within = [{0: np.array([1])}, {0: np.array([1]), 1: np.array([2])}, {}, {1: np.array([1, 2])}]
    got = grouping.figures_by_group(["a", "b", "b", "a"], ["x", "y"], ranks, within, market=False)
    assert list(got.queries) == ["a", "b"]
    assert got.queries["a"] == {"queries": 2} | dict.fromkeys(
        ("mAP", "mINP", "MAP_at_R", "R_precision", "top_1", "top_5", "top_10"), 1
    )
    b = got.queries["b"]
    assert (b["queries"], b["mAP"], b["mINP"], b["MAP_at_R"]) == (1, 0.5, 0.5, 0.25)
    assert (b["R_precision"], b["top_1"], b["top_5"]) == (0.5, 0, 1)
    assert got.mean_ap == 0.75
    assert list(got.pairs) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert got.pairs["b", "y"]["mAP"] == 0.5
    assert got.as_json()["group_pairs"]["a"]["y"]["queries"] == 1
