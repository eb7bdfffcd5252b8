import numpy as np
import pytest

from evaluation import distances
from evaluation.search import Exact

RNG = np.random.default_rng(0)
GALLERY = RNG.standard_normal((300, 5)).astype(np.float32).round(1)  # rounded: with ties
QUERIES = RNG.standard_normal((17, 5)).astype(np.float32).round(1)


def brute_force(queries, gallery, metric, k):
    """Rows and distances, by all distances and a sort."""
    dists = distances.cdist(queries, gallery, metric)
    rows = np.argsort(dists, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(dists, rows, axis=1)


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("k", [1, 7, 300])
def test_the_nearest_are_those_of_brute_force(metric, k):
    found = Exact(GALLERY, metric, batch_size=4).search(QUERIES, k)
    rows, dists = brute_force(QUERIES, GALLERY, metric, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.dists, np.maximum(dists, 0))


def test_what_is_ignored_is_passed_over_and_what_is_left_may_be_fewer():
    ignored = RNG.random((17, 300)) < 0.5
    ignored[3, 2:] = True
    ignored[3, :2] = False
    ignored[4] = True
    found = Exact(GALLERY, "euclidean").search(QUERIES, 5, lambda block: ignored[block])
    dists = distances.cdist(QUERIES, GALLERY, "euclidean")
    dists[ignored] = np.inf
    rows = np.argsort(dists, axis=1, kind="stable")[:, :5]
    rows[3, 2:] = rows[4] = -1
    np.testing.assert_array_equal(found.rows, rows)
    assert np.isinf(found.dists[rows < 0]).all()


def test_one_point_is_listed_in_the_order_of_the_gallery():
    found = Exact(np.ones((50, 3), np.float32), "cosine").search(np.ones((1, 3), np.float32), 4)
    assert found.rows.tolist() == [[0, 1, 2, 3]] and (found.dists >= 0).all()
