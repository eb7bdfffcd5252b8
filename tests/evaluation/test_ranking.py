import brute
import numpy as np
import pytest

from evaluation import distances, ranking

METRICS = ["euclidean", "sqeuclidean", "cityblock"]


def plain_ranks(query, gallery, query_pid, gallery_pids, ignored, metric):
    """One query's gallery in order, wrong images first where distances are equal."""
    metric = "sqeuclidean" if metric == "euclidean" else metric  # the same order, without rounding
    kept = [
        (brute.exact_distance(query, emb, metric), pid == query_pid)
        for emb, pid, out in zip(gallery, gallery_pids, ignored, strict=True)
        if not out
    ]
    return [rank for rank, (_, match) in enumerate(sorted(kept), 1) if match]


def ranks_of(query, gallery, query_pids, gallery_pids, metric="euclidean", **options):
    """match_ranks of positions on a line or of embeddings, without or with `ignored` [Q, G]."""
    query = np.float32(query)
    gallery = np.float32(gallery)
    if query.ndim == 1:
        query = query[:, None]
        gallery = gallery[:, None]
    ignored = options.pop("ignored", np.zeros((len(query), len(gallery)), bool))
    bounds = distances.bounds(query, gallery, metric)
    comparison = ranking.Comparison(bounds, query_pids, gallery_pids, lambda block: ignored[block])
    return ranking.match_ranks(comparison, **options)


def as_lists(ranks):
    return [query.tolist() for query in ranks]


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


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("gallery_size", [1, 2, 7, 150])
def test_ranks_are_those_of_plain_loops(gallery_size, metric, draw):
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

    got = ranks_of(query, gallery, query_pids, gallery_pids, metric, ignored=ignored, batch_size=3)
    assert as_lists(got) == [
        plain_ranks(query[i], gallery, query_pids[i], gallery_pids, ignored[i], metric)
        for i in range(query_size)
    ]


@pytest.mark.parametrize("draw", ["offset grid", "copies"], indirect=True)
@pytest.mark.parametrize("metric", distances.METRICS)
def test_block_sizes_and_the_order_of_the_gallery_change_nothing(metric, draw, monkeypatch):
    rng = np.random.default_rng(0)
    embs = draw(rng, 430, 1100)  # so long that the gallery is worked on in parts
    query, gallery = embs[:30], embs[30:]
    query_pids = rng.integers(0, 9, 30).astype(str).tolist()
    gallery_pids = rng.integers(0, 9, 400).astype(str)
    wanted = as_lists(ranks_of(query, gallery, query_pids, gallery_pids, metric))

    def check(order, batch_size):
        ranks = ranks_of(
            query, gallery[order], query_pids, gallery_pids[order], metric, batch_size=batch_size
        )
        assert as_lists(ranks) == wanted

    check(np.arange(400), 7)
    check(np.arange(400), 1000)
    check(rng.permutation(400), 256)
    monkeypatch.setattr(distances, "_MAX_DISTANCES", 1)
    check(np.arange(400), 256)


def test_the_gallery_may_be_a_memory_map(tmp_path):
    rng = np.random.default_rng(0)
    embs = rng.standard_normal((50, 8)).astype(np.float32)
    embs.tofile(tmp_path / "embs")
    gallery = np.memmap(tmp_path / "embs", np.float32, "r", shape=(50, 8))
    pids = rng.integers(0, 5, 50).astype(str).tolist()
    bounds = distances.bounds(embs[:5], gallery, "euclidean")
    ignored = np.eye(5, 50, dtype=bool)
    comparison = ranking.Comparison(bounds, pids[:5], pids, lambda block: ignored[block])
    wanted = ranks_of(embs[:5], embs, pids[:5], pids, ignored=ignored)
    assert as_lists(ranking.match_ranks(comparison)) == as_lists(wanted)


# ------------------------------------------------------------------------- on a number line


def test_matches_in_front_and_at_the_end():
    assert as_lists(ranks_of([0], [9, 1, 8, 2, -3], ["a"], list("babab"))) == [[1, 2]]
    assert as_lists(ranks_of([0], [1, 2, 3, 4, 5], ["a"], list("bbbaa"))) == [[4, 5]]


def test_ignored_images_take_no_rank():
    ignored = np.array([[True, False, True, False, True]])
    ranks = ranks_of([0], [1, 2, 3, 4, 5], ["a"], list("bbaaa"), ignored=ignored)
    assert as_lists(ranks) == [[2]]


def test_a_query_without_a_match_has_no_ranks():
    ignored = np.array([[False] * 3, [False] * 3, [False, False, True]])
    ranks = ranks_of([0, 0, 0], [1, 2, 3], ["a", "nobody", "c"], list("bac"), ignored=ignored)
    assert as_lists(ranks) == [[2], [], []]


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("value", [0, 1, 0.1, -7.3e-20, 3e20])
def test_one_point_for_all_images_scores_worst(value, metric):
    embs = np.full((41, 5), value, np.float32)
    (ranks,) = ranks_of(embs[:1], embs[1:], ["a"], list("ab" * 20), metric)
    assert ranks.tolist() == list(range(21, 41))


@pytest.mark.parametrize("metric", METRICS)
def test_a_wrong_image_at_the_same_distance_is_closer(metric):
    assert as_lists(ranks_of([5], [4, 6, 5.5, 9], ["a"], list("abba"), metric)) == [[3, 4]]


def test_a_scaled_copy_is_at_the_same_cosine_distance():
    query = np.float32([[2, 0]])
    gallery = np.float32([[1, 3], [2, 6]])
    assert as_lists(ranks_of(query, gallery, ["a"], list("ab"), "cosine")) == [[2]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_the_smallest_difference_in_float32_is_no_tie(offset, metric):
    closer = np.float32(offset + 1)
    further = np.nextafter(closer, np.float32(np.inf))
    for pids, rank in (("ab", 1), ("ba", 2)):
        assert as_lists(ranks_of([offset], [closer, further], ["a"], pids, metric)) == [[rank]]


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(scale, metric):
    rng = np.random.default_rng(0)
    embs = rng.standard_normal((60, 3)).astype(np.float32)
    pids = rng.integers(0, 6, 60).astype(str).tolist()
    wanted = ranks_of(embs[:9], embs[9:], pids[:9], pids[9:], metric)
    embs *= np.float32(scale)
    got = ranks_of(embs[:9], embs[9:], pids[:9], pids[9:], metric)
    assert as_lists(got) == as_lists(wanted)


def test_an_error_of_the_excluder_arrives():
    def ignore(block):
        raise ValueError("what it says")

    bounds = distances.bounds(np.float32([[0]]), np.float32([[1]]), "euclidean")
    with pytest.raises(ValueError, match="what it says"):
        ranking.match_ranks(ranking.Comparison(bounds, ["a"], ["a"], ignore))
