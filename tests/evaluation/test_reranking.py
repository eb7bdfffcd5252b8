import brute
import numpy as np
import pytest

from evaluation import distances, reranking
from evaluation.reranking import Parameters


def persons(seed, query_size=15, gallery_size=90, dim=8):
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, 9, query_size + gallery_size)
    embs = rng.standard_normal((9, dim))[pids] + 0.7 * rng.standard_normal((len(pids), dim))
    embs = embs.astype(np.float32)
    return embs[:query_size], embs[query_size:]


def all_bounds(bounds, query_size, gallery_size):
    lower, upper = bounds(slice(0, query_size))
    return lower, np.array([upper(row, np.arange(gallery_size)) for row in range(query_size)])


@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (7, 1, 0.3), (6, 7, 0), (1, 2, 1), (5, 3, 0.5)]
)
@pytest.mark.parametrize("metric", distances.METRICS)
def test_distances_are_those_of_the_papers_definitions(metric, k1, k2, weight):
    query, gallery = persons(seed=k1)
    bounds = reranking.bounds(query, gallery, metric, Parameters(k1, k2, weight), batch_size=7)
    lower, upper = all_bounds(bounds, len(query), len(gallery))
    wanted = brute.rerank(query, gallery, metric, k1, k2, weight)
    np.testing.assert_allclose(lower, wanted, rtol=0, atol=1e-11)
    np.testing.assert_allclose(upper, wanted, rtol=0, atol=1e-11)
    assert (lower < upper).all()


def test_queries_that_are_in_the_gallery_are_there_once():
    query, others = persons(7)
    everyone = np.concatenate([query, others])
    order = np.random.default_rng(7).permutation(len(everyone))
    same = np.where(order < len(query), order, -1)
    got, _ = all_bounds(
        reranking.bounds(query, everyone[order], "euclidean", Parameters(9, 4, 0.3), same), 15, 105
    )
    for number, row in enumerate(got):
        rest = np.delete(everyone, number, axis=0)
        (wanted,) = brute.rerank(query[[number]], rest, "euclidean", 9, 4, 0.3)
        np.testing.assert_allclose(
            row[order != number], np.insert(wanted, number, 0)[order[order != number]], atol=1e-11
        )


@pytest.mark.parametrize("count", [1, 2, 6])
def test_sets_smaller_than_the_neighborhood(count):
    query, gallery = persons(4, 1, count)
    lower, _ = all_bounds(reranking.bounds(query, gallery, "euclidean"), 1, count)
    np.testing.assert_allclose(
        lower, brute.rerank(query, gallery, "euclidean", 20, 6, 0.3), rtol=0, atol=1e-11
    )


def test_one_point_for_all_images_is_finite():
    embs = np.ones((30, 4), np.float32)
    lower, upper = all_bounds(
        reranking.bounds(embs[:5], embs[5:], "euclidean", Parameters(4, 2)), 5, 25
    )
    assert np.isfinite(lower).all() and np.isfinite(upper).all()


def test_blocks_change_nothing():
    query, gallery = persons(5)
    bounds = reranking.bounds(query, gallery, "euclidean")
    whole, _ = bounds(slice(0, 15))
    parts = np.concatenate([bounds(slice(start, start + 4))[0] for start in range(0, 15, 4)])
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(scale, metric):
    query, gallery = persons(6)
    wanted, _ = all_bounds(reranking.bounds(query, gallery, metric), 15, 90)
    scaled = (query * np.float32(scale), gallery * np.float32(scale))
    got, _ = all_bounds(reranking.bounds(*scaled, metric), 15, 90)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
