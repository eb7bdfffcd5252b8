import numpy as np
import pytest

from evaluation import distances, figures, ranking


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


@pytest.mark.parametrize("metric", distances.METRICS)
def test_roc_is_that_of_all_pairs(metric):
    rng = np.random.default_rng(1)
    pids = rng.integers(0, 7, 330)
    embs = (rng.standard_normal((7, 5))[pids] + rng.standard_normal((330, 5))).astype(np.float32)
    ignored = rng.random((30, 300)) < 0.2
    fprs = [0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1]
    names = pids.astype(str).tolist()
    comparison = ranking.Comparison(
        bounds=distances.bounds(embs[:30], embs[30:], metric),
        query_pids=names[:30],
        gallery_pids=names[30:],
        ignore=lambda block: ignored[block],
    )
    got = figures.tpr_at_fpr(comparison, fprs, batch_size=7)

    dists = distances.cdist(embs[:30], embs[30:], metric)
    same = pids[:30, None] == pids[30:]
    true = np.sort(dists[same & ~ignored])
    wrong = np.sort(dists[~same & ~ignored])
    for fpr, tpr in zip(fprs[:-1], got[:-1], strict=True):
        limit = wrong[int(fpr * len(wrong))]  # the first that may not be accepted
        # Between two thresholds lies one true pair at most, here.
        assert tpr == pytest.approx((true < limit).mean(), abs=1.5 / len(true))
    assert got[-1] > 0.99


def test_roc_at_the_edges():
    def roc(query, gallery, query_pids, gallery_pids):
        ignored = np.zeros((len(query), len(gallery)), bool)
        bounds = distances.bounds(
            np.float32(query)[:, None], np.float32(gallery)[:, None], "euclidean"
        )
        comparison = ranking.Comparison(
            bounds, query_pids, gallery_pids, lambda block: ignored[block]
        )
        return figures.tpr_at_fpr(comparison, [0, 0.5])

    assert roc([0], [1, 2, 3], "a", "aba") == [0.5, 0.5]
    assert roc([0], [1, 2], "a", "aa") == [None, None]
    assert roc([0], [1, 2], "a", "bb") == [None, None]
    assert roc([5, 5], [5, 5, 5], "ab", "abb") == [0, 0]  # one point: whatever is accepted, all are
