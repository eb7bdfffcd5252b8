import math
from decimal import Decimal
from operator import mul

import numpy as np
import pytest

import common
from evaluation import ranking

METRICS = ["euclidean", "sqeuclidean", "cityblock"]


def brute_distance(a, b, metric):
    if metric == "cosine":
        a, b = ([Decimal(float(x)) for x in emb] for emb in (a, b))
        dot, squares = sum(map(mul, a, b)), sum(map(mul, a, a)) * sum(map(mul, b, b))
        return round(1 - dot / (squares.sqrt() or 1), 20)
    diffs = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    return sum(abs(d) for d in diffs) if metric == "cityblock" else sum(d * d for d in diffs)


def brute_ranking(query, gallery, query_pid, gallery_pids, ignored, metric):
    """One query's kept gallery in order, wrong images first where distances are equal; True = a
    match.
    """
    kept = [
        (brute_distance(query, emb, metric), pid == query_pid)
        for emb, pid, out in zip(gallery, gallery_pids, ignored, strict=True)
        if not out
    ]
    return [match for _, match in sorted(kept)]


def brute_ap(ranking, market):
    """Area below the curve of precision and recall, walked image by image."""
    area, found, precision_ahead = 0.0, 0, 1.0
    for seen, match in enumerate(ranking, 1):
        found += match
        precision = found / seen
        area += match * ((precision_ahead + precision) / 2 if market else precision)
        precision_ahead = precision
    return area / found


def ranks_of(
    query, gallery, query_pids, gallery_pids, ignored=None, metric="euclidean", batch_size=256
):
    if ignored is None:
        ignored = np.zeros((len(query), len(gallery)), bool)
    bounds = ranking.bounds(np.float32(query), np.float32(gallery), metric)
    return ranking.match_ranks(
        bounds, query_pids, gallery_pids, lambda block: ignored[block], batch_size
    )


def line(*positions):
    return np.float32(positions)[:, None]


@pytest.fixture(params=["grid", "offset grid", "floats", "copies"])
def draw(request):
    """Random embeddings [n, D] of a kind: ties at every turn, the same far from 0, none, many equal
    images.
    """

    def draw(rng, n, dim, offset=1e6):
        if request.param == "floats":
            return rng.standard_normal((n, dim)).astype(np.float32)
        if request.param == "copies":
            return rng.standard_normal((3, dim)).astype(np.float32)[rng.integers(0, 3, n)]
        return rng.integers(-2, 3, (n, dim)).astype(np.float32) + (
            offset if request.param == "offset grid" else 0
        )

    return draw


@pytest.mark.parametrize("metric", ranking.METRICS)
@pytest.mark.parametrize("gallery_size", [*range(1, 13), 150])
def test_ranks_and_figures_are_those_of_plain_loops(gallery_size, metric, draw):
    rng = np.random.default_rng(gallery_size)
    query_size, dim = 20, 4
    # Seen from 0, the points of a grid that is too far away are all in one direction, and so at the
    # same distance.
    embs = draw(rng, query_size + gallery_size, dim, offset=10 if metric == "cosine" else 1e6)
    query, gallery = embs[:query_size], embs[query_size:]
    # Pid 0 is for distractors, -1 for junk, and some of the queries' pids are not in the gallery.
    query_pids = [str(pid) for pid in rng.integers(1, 6, query_size)]
    gallery_pids = [str(pid) for pid in rng.integers(-1, 5, gallery_size)]
    ignored = rng.random((query_size, gallery_size)) < 0.2
    ignored |= np.array(gallery_pids) == "-1"

    got = ranks_of(query, gallery, query_pids, gallery_pids, ignored, metric, batch_size=3)
    assert len(got) == query_size
    rankings = []
    for i, ranks in enumerate(got):
        wanted = brute_ranking(query[i], gallery, query_pids[i], gallery_pids, ignored[i], metric)
        assert ranks.tolist() == [rank for rank, match in enumerate(wanted, 1) if match]
        if len(ranks):
            rankings.append(wanted)
            last = len(wanted) - wanted[::-1].index(True)
            assert ranking.inverse_negative_penalty(ranks) == pytest.approx(sum(wanted) / last)
            for market in (False, True):
                assert ranking.average_precision(ranks, market) == pytest.approx(
                    brute_ap(wanted, market), abs=1e-12
                )
    if rankings:
        found = [
            np.mean([any(wanted[:k]) for wanted in rankings]) for k in range(1, gallery_size + 1)
        ]
        np.testing.assert_allclose(ranking.cmc(got, gallery_size), found, atol=1e-12)


@pytest.mark.parametrize("metric", ranking.METRICS)
def test_block_sizes_and_the_order_of_the_gallery_change_nothing(metric, draw, monkeypatch):
    rng = np.random.default_rng(0)
    embs = draw(rng, 430, 1100)  # so long that the gallery is worked on in parts
    query, gallery = embs[:30], embs[30:]
    query_pids, gallery_pids = (
        rng.integers(0, 9, 30).astype(str).tolist(),
        rng.integers(0, 9, 400).astype(str),
    )
    wanted = ranks_of(query, gallery, query_pids, gallery_pids, metric=metric)

    def check(order, batch_size):
        got = ranks_of(
            query,
            gallery[order],
            query_pids,
            gallery_pids[order],
            metric=metric,
            batch_size=batch_size,
        )
        assert [ranks.tolist() for ranks in got] == [ranks.tolist() for ranks in wanted]

    for batch_size in (1, 7, 30, 1000):
        check(np.arange(400), batch_size)
    check(rng.permutation(400), 256)
    monkeypatch.setattr(ranking, "_MAX_DISTANCES", 1)
    check(np.arange(400), 256)


def test_the_gallery_may_be_a_memory_map(tmp_path):
    rng = np.random.default_rng(0)
    embs = rng.standard_normal((50, 8)).astype(np.float32)
    embs.tofile(tmp_path / "embs")
    gallery = np.memmap(tmp_path / "embs", np.float32, "r", shape=(50, 8))
    pids = rng.integers(0, 5, 50).astype(str).tolist()
    bounds = ranking.bounds(embs[:5], gallery, "euclidean")
    got = ranking.match_ranks(
        bounds, pids[:5], pids, lambda block: np.eye(5, 50, dtype=bool)[block]
    )
    wanted = ranks_of(embs[:5], embs, pids[:5], pids, np.eye(5, 50, dtype=bool))
    assert [ranks.tolist() for ranks in got] == [ranks.tolist() for ranks in wanted]


# ------------------------------------------------------------------------- on a number line


def test_matches_in_front():
    (ranks,) = ranks_of(line(0), line(9, 1, 8, 2, -3), ["a"], list("babab"))
    assert ranks.tolist() == [1, 2]
    assert ranking.average_precision(ranks) == ranking.average_precision(ranks, market=True) == 1


def test_matches_at_the_end():
    (ranks,) = ranks_of(line(0), line(1, 2, 3, 4, 5), ["a"], list("bbbaa"))
    assert ranks.tolist() == [4, 5]
    assert ranking.average_precision(ranks) == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert ranking.average_precision(ranks, market=True) == pytest.approx(
        ((0 + 1 / 4) / 2 + (1 / 4 + 2 / 5) / 2) / 2
    )


def test_ignored_images_take_no_rank():
    ignored = np.array([[True, False, True, False, True]])
    (ranks,) = ranks_of(line(0), line(1, 2, 3, 4, 5), ["a"], list("bbaaa"), ignored)
    assert ranks.tolist() == [2]


def test_a_query_without_a_match_has_no_ranks_and_is_not_in_the_cmc():
    ignored = np.array([[False] * 3, [False] * 3, [False, False, True]])
    ranks = ranks_of(line(0, 0, 0), line(1, 2, 3), ["a", "nobody", "c"], list("bac"), ignored)
    assert [r.tolist() for r in ranks] == [[2], [], []]
    assert ranking.cmc(ranks, 3).tolist() == [0, 1, 1]


@pytest.mark.parametrize("metric", ranking.METRICS)
@pytest.mark.parametrize("value", [0, 1, 0.1, -7.3e-20, 3e20])
def test_one_point_for_all_images_scores_worst(value, metric):
    embs = np.full((41, 5), value, np.float32)
    (ranks,) = ranks_of(embs[:1], embs[1:], ["a"], list("ab" * 20), metric=metric)
    assert ranks.tolist() == list(range(21, 41))


@pytest.mark.parametrize("metric", METRICS)
def test_a_wrong_image_at_the_same_distance_is_closer(metric):
    (ranks,) = ranks_of(line(5), line(4, 6, 5.5, 9), ["a"], list("abba"), metric=metric)
    assert ranks.tolist() == [3, 4]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_the_smallest_difference_in_float32_is_no_tie(offset, metric):
    closer, further = (
        np.float32(offset + 1),
        np.nextafter(np.float32(offset + 1), np.float32(np.inf)),
    )
    for pids, rank in (("ab", 1), ("ba", 2)):
        (ranks,) = ranks_of(line(offset), line(closer, further), ["a"], list(pids), metric=metric)
        assert ranks.tolist() == [rank]


@pytest.mark.parametrize("metric", ranking.METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(scale, metric):
    rng = np.random.default_rng(0)
    embs, pids = (
        rng.standard_normal((60, 3)).astype(np.float32),
        rng.integers(0, 6, 60).astype(str).tolist(),
    )
    wanted = ranks_of(embs[:9], embs[9:], pids[:9], pids[9:], metric=metric)
    got = ranks_of(
        embs[:9] * np.float32(scale),
        embs[9:] * np.float32(scale),
        pids[:9],
        pids[9:],
        metric=metric,
    )
    assert [ranks.tolist() for ranks in got] == [ranks.tolist() for ranks in wanted]


def test_an_error_of_the_excluder_arrives():
    def ignore(block):
        raise ValueError("what it says")

    with pytest.raises(ValueError, match="what it says"):
        ranking.match_ranks(ranking.bounds(line(0), line(1), "euclidean"), ["a"], ["a"], ignore)


@pytest.mark.parametrize("metric", ranking.METRICS)
def test_distances_are_those_of_plain_loops(metric, draw):
    rng = np.random.default_rng(5)
    embs = draw(rng, 40, 1100)
    got = ranking.distances(embs[:3], embs[3:], metric)
    assert got.shape == (3, 37) and got.dtype == np.float64
    wanted = np.array([[float(brute_distance(a, b, metric)) for b in embs[3:]] for a in embs[:3]])
    np.testing.assert_allclose(
        got, np.sqrt(wanted) if metric == "euclidean" else wanted, rtol=1e-12, atol=2e-12
    )


def test_every_metric_of_the_training_is_there():
    assert ranking.METRICS.keys() == set(common.METRICS)


def test_cosine_passes_over_lengths_and_an_embedding_of_zeros_is_1_from_all():
    gallery = np.float32([[2, 0], [0, 3], [-5, 0], [0, 0], [1e-30, 1e-30]])
    got = ranking.distances(np.float32([[7, 0], [0, 0]]), gallery, "cosine")
    np.testing.assert_allclose(got, [[0, 1, 2, 1, 1 - math.sqrt(0.5)], [1] * 5], atol=1e-14)
    # An image and a scaled copy of it are at the same distance: a tie, which goes against the
    # match.
    (ranks,) = ranks_of(
        gallery[:1], np.float32([[1, 3], [2, 6]]), ["a"], list("ab"), metric="cosine"
    )
    assert ranks.tolist() == [2]


def test_figures_by_hand():
    assert ranking.inverse_negative_penalty(np.array([1, 4, 12])) == 3 / 12
    assert ranking.inverse_negative_penalty(np.array([1, 2])) == 1
    # Precisions 1/2, 2/3, 3/7, so from the first on it is 2/3; and of a query with one match 1/4
    # throughout.
    ranks = [np.array([2, 3, 7]), np.array([], np.int64), np.array([4])]
    got = ranking.precision_at_recall(ranks, (0.1, 1 / 3, 0.34, 2 / 3, 0.7, 1))
    np.testing.assert_allclose(
        got, [(p + 1 / 4) / 2 for p in (2 / 3, 2 / 3, 2 / 3, 2 / 3, 3 / 7, 3 / 7)]
    )


@pytest.mark.parametrize("count", range(1, 31))
def test_interpolated_precision_is_that_of_plain_loops(count):
    ranks = np.sort(np.random.default_rng(count).choice(60, count, replace=False) + 1)
    wanted = [
        max((i + 1) / ranks[i] for i in range(count) if 10 * (i + 1) >= tenth * count)
        for tenth in range(1, 11)
    ]
    got = ranking.precision_at_recall([ranks], [tenth / 10 for tenth in range(1, 11)])
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("metric", ranking.METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_roc_is_that_of_all_pairs(seed, metric):
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, 7, 330)
    embs = (rng.standard_normal((7, 5))[pids] + rng.standard_normal((330, 5))).astype(np.float32)
    ignored = rng.random((30, 300)) < 0.2
    bounds = ranking.bounds(embs[:30], embs[30:], metric)
    fprs = [0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1]
    names = pids.astype(str).tolist()
    got = ranking.tpr_at_fpr(
        bounds, names[:30], names[30:], lambda block: ignored[block], fprs, batch_size=7
    )

    dists, same = ranking.distances(embs[:30], embs[30:], metric), pids[:30, None] == pids[30:]
    true, wrong = np.sort(dists[same & ~ignored]), np.sort(dists[~same & ~ignored])
    for fpr, tpr in zip(fprs[:-1], got[:-1], strict=True):
        limit = wrong[int(fpr * len(wrong))]  # the first that may not be accepted
        # Between two thresholds lies one true pair at most, here.
        assert tpr == pytest.approx((true < limit).mean(), abs=1.5 / len(true))
    assert got[-1] > 0.99


def test_roc_at_the_edges():
    def roc(query, gallery, query_pids, gallery_pids):
        ignored = np.zeros((len(query), len(gallery)), bool)
        bounds = ranking.bounds(line(*query), line(*gallery), "euclidean")
        return ranking.tpr_at_fpr(
            bounds, query_pids, gallery_pids, lambda block: ignored[block], [0, 0.5]
        )

    assert roc([0], [1, 2, 3], "a", "aba") == [0.5, 0.5]
    assert roc([0], [1, 2], "a", "aa") == [None, None]
    assert roc([0], [1, 2], "a", "bb") == [None, None]
    assert roc([5, 5], [5, 5, 5], "ab", "abb") == [0, 0]  # one point: whatever is accepted, all are
