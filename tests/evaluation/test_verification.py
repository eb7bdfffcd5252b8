import numpy as np
import pytest

from evaluation import distances, ranking
from evaluation.verification import (
    BINS,
    OpenSet,
    PairCounts,
    nearest_found,
    operating_points,
    verification,
)

FPRS = [0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1]


def comparison_of(query, gallery, query_pids, gallery_pids, metric="euclidean", ignored=None):
    if ignored is None:
        ignored = np.zeros((len(query), len(gallery)), bool)
    return ranking.Comparison(
        bounds=distances.bounds(np.float32(query), np.float32(gallery), metric),
        query_pids=list(query_pids),
        gallery_pids=list(gallery_pids),
        ignore=lambda block: ignored[block],
    )


def verify(comparison, squared, batch_size=7):
    counts = PairCounts(comparison)
    ranking.map_queries(counts.add, comparison, batch_size)
    return verification(counts, squared)


class Pairs:
    """330 images of 7 pids, 30 of them queries, with a fifth of the pairs ignored; all distances,
    sorted.
    """

    def __init__(self, metric):
        rng = np.random.default_rng(1)
        pids = rng.integers(0, 7, 330)
        embs = rng.standard_normal((7, 5))[pids] + rng.standard_normal((330, 5))
        embs = embs.astype(np.float32)
        ignored = rng.random((30, 300)) < 0.2
        names = pids.astype(str).tolist()
        self.comparison = comparison_of(
            embs[:30], embs[30:], names[:30], names[30:], metric, ignored
        )
        self.squared = metric == "euclidean"
        dists = distances.cdist(embs[:30], embs[30:], metric)
        same = pids[:30, None] == pids[30:]
        self.true = np.sort(dists[same & ~ignored])
        self.wrong = np.sort(dists[~same & ~ignored])
        self.greatest = dists[:16].max()

    def bin_below(self, distance):
        """What a distance may be in place of this one: down to the next edge of a bin."""
        if self.squared:
            return np.sqrt(max(0, distance**2 - 1.01 * self.greatest**2 / BINS))
        return distance - 1.01 * self.greatest / BINS


@pytest.mark.parametrize("metric", distances.METRICS)
def test_thresholds_are_those_of_a_sort_of_all_pairs(metric):
    pairs = Pairs(metric)
    got = verify(pairs.comparison, pairs.squared)
    assert got.true_count == len(pairs.true) and got.wrong_count == len(pairs.wrong)
    for fpr in FPRS[:-1]:
        limit = pairs.wrong[int(fpr * len(pairs.wrong))]  # the first that may not be accepted
        point = got.at_fpr(fpr)
        assert pairs.bin_below(limit) <= point.distance <= limit * (1 + 1e-6)
        # Between two thresholds lies one pair at most, here.
        assert point.tpr == pytest.approx((pairs.true < limit).mean(), abs=1.5 / len(pairs.true))
        assert point.fpr == pytest.approx(
            (pairs.wrong < point.distance).mean(), abs=1.5 / len(pairs.wrong)
        )
        assert point.fpr <= fpr
        assert got.below(point.distance) == point
    assert got.at_fpr(1).tpr > 0.99


@pytest.mark.parametrize("metric", distances.METRICS)
def test_the_equal_error_rate_is_that_of_a_sort_of_all_pairs(metric):
    pairs = Pairs(metric)
    got = verify(pairs.comparison, pairs.squared).equal_error()
    thresholds = np.sort(np.concatenate([pairs.true, pairs.wrong]))
    accepted = np.array([(pairs.wrong < t).mean() for t in thresholds])
    rejected = np.array([(pairs.true >= t).mean() for t in thresholds])
    after = np.flatnonzero(accepted >= rejected)[0]
    assert got.fpr == pytest.approx(1 - got.tpr, abs=1e-12)
    assert rejected[after] - 1.5 / len(pairs.true) <= got.fpr <= accepted[after] + 1e-12
    assert 0.1 < got.fpr < 0.4
    lowest = pairs.bin_below(thresholds[after - 1])
    assert lowest <= got.distance <= 2 * thresholds[after] - pairs.bin_below(thresholds[after])


def test_the_roc_at_the_edges():
    def roc(query, gallery, query_pids, gallery_pids):
        query, gallery = np.float32(query)[:, None], np.float32(gallery)[:, None]
        return verify(comparison_of(query, gallery, query_pids, gallery_pids), squared=True)

    found = roc([0], [1, 2, 3], "a", "aba")
    assert [found.at_fpr(fpr).tpr for fpr in (0, 0.5)] == [0.5, 0.5]
    assert found.at_fpr(0.5).distance == pytest.approx(2, abs=1e-3)
    # The second match is further than the wrong image: half of the true pairs and, where the ROC
    # climbs no more, half of the wrong ones.
    assert found.equal_error().fpr == pytest.approx(0.5)
    assert found.equal_error().distance == pytest.approx(2, abs=1e-3)
    assert roc([0], [1, 2], "a", "aa") is None
    assert roc([0], [1, 2], "a", "bb") is None

    found = roc([5, 5], [5, 5, 5], "ab", "abb")  # one point: whatever is accepted, all are
    assert [found.at_fpr(fpr).tpr for fpr in (0, 0.5)] == [0, 0]
    assert found.equal_error().fpr == 0.5

    found = roc([0, 9], [1, 8], "ab", "ab")  # all right from a distance of 1 on
    assert found.equal_error().fpr == 0
    assert found.at_fpr(0).tpr == 1
    assert 1 <= found.equal_error().distance <= 1.001


def test_an_equal_error_beyond_the_distances_of_the_first_queries():
    query = np.repeat(np.float32([[0], [50]]), 16, axis=0)
    pids = ["a"] * 16 + ["b"] * 16
    found = verify(comparison_of(query, np.zeros((2, 1)), pids, "ab"), squared=True)
    assert 0 <= found.equal_error().fpr <= 1 and np.isfinite(found.equal_error().distance)


# ------------------------------------------------------------------------- open sets


def test_an_open_set_by_hand():
    # The nearest image of the known queries is right at 1, wrong, right at 3; the unknown ones have
    # their nearest at 2, 4, 6, 8.
    found = OpenSet(unknown=np.array([2.0, 4, 6, 8]), known=np.array([1, 3, np.inf]))
    assert [found.accepted(x) for x in (1, 2, 2.5, 9)] == [0, 0, 0.25, 1]
    assert [found.found(x) for x in (1, 2, 3, 9)] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    assert [found.at_accepted(x) for x in (0, 0.24, 0.25, 0.5, 1)] == [2, 2, 4, 6, 8]


def test_the_nearest_images_of_an_open_set():
    # A true match ties with a wrong image; is nearest; none is there; all else is ignored.
    query = np.float32([[0], [10], [20], [10]])
    gallery = np.float32([[1], [-1], [9], [100]])
    ignored = np.zeros((4, 4), bool)
    ignored[3] = [True, True, True, False]
    comparison = comparison_of(query, gallery, "abxx", "acbb", "cityblock", ignored)
    blocks = ranking.map_queries(nearest_found, comparison, batch_size=2)
    np.testing.assert_allclose(np.concatenate(blocks), [np.inf, 1, 11, 90])


def test_a_table_of_thresholds():
    pairs = verify(Pairs("cosine").comparison, squared=False)
    open_set = OpenSet(unknown=np.array([0.2, 0.4]), known=np.array([0.1, np.inf]))
    plain = operating_points(pairs, [1e-2, 0.1], None)
    assert [point.name for point in plain] == ["FPR 0.01", "FPR 0.1", "equal errors"]
    assert plain[1][1:4] == pairs.at_fpr(0.1) and plain[1].accepted is None
    full = operating_points(pairs, [1e-2, 0.1], open_set)
    assert [point[1:4] for point in full[:3]] == [point[1:4] for point in plain]
    assert [point.name for point in full[3:]] == ["1% of the unknown", "10% of the unknown"]
    assert full[3].distance == 0.2 and full[3].accepted == 0 and full[3].found == 0.5
    values = open_set.as_json(pairs, [0.1])
    assert values["accepted_at_FPR"] == {0.1: full[1].accepted}
    assert values["found_at_EER"] == full[2].found
    assert values["distance_at_accepted"] == {0.01: 0.2, 0.1: 0.2}
    assert (values["unknown"], values["known"]) == (2, 2)
