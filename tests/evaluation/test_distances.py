import math
import threading

import brute
import numpy as np
import pytest

import common
from evaluation import distances
from runtime import cores


def points(kind, count, dim):
    rng = np.random.default_rng(5)
    if kind == "floats":
        return rng.standard_normal((count, dim)).astype(np.float32)
    if kind == "copies":
        return rng.standard_normal((3, dim)).astype(np.float32)[rng.integers(0, 3, count)]
    return rng.integers(-2, 3, (count, dim)).astype(np.float32) + 1e6  # a grid far from 0


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("kind", ["floats", "copies", "offset grid"])
def test_distances_are_those_of_plain_loops_and_lie_within_their_bounds(kind, metric):
    embs = points(kind, 40, 1100)  # so long that the gallery is worked on in parts
    got = distances.cdist(embs[:3], embs[3:], metric)
    assert got.shape == (3, 37) and got.dtype == np.float64
    wanted = np.array([[brute.exact_distance(a, b, metric) for b in embs[3:]] for a in embs[:3]])
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=2e-12)

    lower, upper = distances.bounds(embs[:3], embs[3:], metric)(slice(0, 3))
    exact = np.square(wanted) if metric == "euclidean" else wanted
    indices = np.arange(37)
    for row in range(3):
        assert (lower[row] <= exact[row] + 1e-15).all()
        assert (upper(row, indices) >= exact[row] * (1 - 1e-15)).all()


def test_every_metric_of_the_training_is_there():
    assert distances.METRICS.keys() == set(common.METRICS)


def test_cosine_passes_over_lengths_and_an_embedding_of_zeros_is_1_from_all():
    gallery = np.float32([[2, 0], [0, 3], [-5, 0], [0, 0], [1e-30, 1e-30]])
    got = distances.cdist(np.float32([[7, 0], [0, 0]]), gallery, "cosine")
    np.testing.assert_allclose(got, [[0, 1, 2, 1, 1 - math.sqrt(0.5)], [1] * 5], atol=1e-14)


@pytest.mark.parametrize("told", [1, 2, 256])
@pytest.mark.parametrize("columns", [10, 10**6, 2**25, 10**9])
def test_blocks_of_all_threads_together_keep_to_the_memory(told, columns, monkeypatch):
    monkeypatch.setattr(distances.cores, "count", lambda: told)
    made = []
    pool = distances.ThreadPoolExecutor
    monkeypatch.setattr(distances, "ThreadPoolExecutor", lambda n: made.append(n) or pool(n))
    sizes = distances.map_blocks(lambda block: block.stop - block.start, 500, columns, 256)
    assert sum(sizes) == 500 and made[0] <= told
    # One row at least: less cannot be.
    assert made[0] * max(sizes) * columns <= max(distances._MAX_DISTANCES, columns)


def test_blocks_cover_all_rows_once_and_in_order(monkeypatch):
    def rows(block):
        return list(range(10))[block]

    for columns, batch_size, most in ((1, 4, 4), (1, 100, 10), (2**40, 100, 1)):
        blocks = distances.map_blocks(rows, 10, columns, batch_size)
        assert [row for block in blocks for row in block] == list(range(10))
        assert max(map(len, blocks)) <= most


@pytest.mark.parametrize("started", [0, 1])
def test_blocks_are_processed_where_no_more_threads_can_be_started(monkeypatch, started):
    start = threading.Thread.start
    threads = []

    def start_few(thread):
        if len(threads) >= started:
            raise RuntimeError("can't start new thread")
        threads.append(thread)
        start(thread)

    monkeypatch.setattr(cores, "count", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", start_few)
    got = distances.map_blocks(lambda block: (block.start, block.stop), 10, 1, batch_size=3)
    assert got == [(0, 3), (3, 6), (6, 9), (9, 10)]


@pytest.mark.parametrize("metric", distances.METRICS)
def test_distances_of_pairs_are_those_of_the_whole(metric):
    rng = np.random.default_rng(3)
    embs = rng.standard_normal((40, 3000)).astype(np.float32)
    rows, columns = rng.integers(0, 40, 400), rng.integers(0, 40, 400)
    got = distances.of_pairs(distances.METRICS[metric](embs), embs, rows, columns)
    wanted = brute.distances(embs, embs, metric)[rows, columns]
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
