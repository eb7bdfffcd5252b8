import argparse

import numpy as np
import pytest

from evaluation import figures


def plain_ap(order, market):
    """Area below the curve of precision and recall, walked image by image; True = a match."""
    area, found, precision_before = 0.0, 0, 1.0
    for seen, match in enumerate(order, 1):
        found += match
        precision = found / seen
        area += match * ((precision_before + precision) / 2 if market else precision)
        precision_before = precision
    return area / found


@pytest.mark.parametrize("count", range(1, 31, 3))
def test_figures_of_one_query_are_those_of_plain_loops(count):
    ranks = np.sort(np.random.default_rng(count).choice(60, count, replace=False) + 1)
    order = np.isin(np.arange(1, 61), ranks)
    for market in (False, True):
        got = figures.average_precision(ranks, market)
        assert got == pytest.approx(plain_ap(order, market), abs=1e-12)
    first = order[:count]
    assert figures.r_precision(ranks) == pytest.approx(first.sum() / count)
    wanted = sum(first[: i + 1].mean() for i in range(count) if first[i]) / count
    assert figures.map_at_r(ranks) == pytest.approx(wanted, abs=1e-12)
    wanted = count / (1 + np.flatnonzero(order)[-1])
    assert figures.inverse_negative_penalty(ranks) == pytest.approx(wanted)

    wanted = [
        max((i + 1) / ranks[i] for i in range(count) if 10 * (i + 1) >= tenth * count)
        for tenth in range(1, 11)
    ]
    got = figures.precision_at_recall([ranks], [tenth / 10 for tenth in range(1, 11)])
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_average_precision_by_hand():
    for market in (False, True):
        assert figures.average_precision(np.array([1, 2]), market) == 1
    ranks = np.array([4, 5])
    assert figures.average_precision(ranks) == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert figures.average_precision(ranks, market=True) == pytest.approx(
        ((0 + 1 / 4) / 2 + (1 / 4 + 2 / 5) / 2) / 2
    )


def test_other_figures_by_hand():
    assert figures.inverse_negative_penalty(np.array([1, 4, 12])) == 3 / 12
    assert figures.inverse_negative_penalty(np.array([1, 2])) == 1
    # Of four matches the first four images hold three, at ranks 1, 2 and 4.
    assert figures.r_precision(np.array([1, 2, 4, 5])) == 3 / 4
    assert figures.map_at_r(np.array([1, 2, 4, 5])) == (1 + 1 + 3 / 4) / 4
    # Precisions 1/2, 2/3, 3/7, so from the first on it is 2/3; and of a query with one match 1/4
    # throughout. The query without a match does not count.
    ranks = [np.array([2, 3, 7]), np.array([], np.int64), np.array([4])]
    got = figures.precision_at_recall(ranks, (0.1, 1 / 3, 0.34, 2 / 3, 0.7, 1))
    np.testing.assert_allclose(
        got, [(p + 1 / 4) / 2 for p in (2 / 3, 2 / 3, 2 / 3, 2 / 3, 3 / 7, 3 / 7)]
    )
    assert figures.cmc(ranks, 5).tolist() == [0, 0.5, 0.5, 1, 1]


@pytest.mark.parametrize(
    "name",
    ["mAP", "mINP", "MAP@R", "R-precision", "top-1", "Recall@1000", "EER", "TPR@1e-3", "TPR@0"],
)
def test_names_of_figures(name):
    assert figures.name(name) == name


@pytest.mark.parametrize(
    "name",
    ["map", "top-", "top-0", "top-K", "Recall@", "Recall@1.5", "TPR@", "TPR@2", "TPR@FPR", "TPR"],
)
def test_what_is_no_name_of_a_figure(name):
    with pytest.raises(argparse.ArgumentTypeError, match=f"one of mAP, .*Received: {name}$"):
        figures.name(name)
