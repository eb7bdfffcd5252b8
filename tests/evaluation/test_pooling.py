import numpy as np

from evaluation.pooling import AGGREGATORS, pool_queries

EMBS = np.array([[[3.0, 0.0], [0.0, 0.0]], [[3.0, 8.0], [0.0, 0.0]]], np.float32)  # [A=2, N=2, D=2]


def test_mean():
    np.testing.assert_array_equal(AGGREGATORS["mean"](EMBS), [[3, 4], [0, 0]])


def test_normalized_mean_has_length_1_and_leaves_zero():
    got = AGGREGATORS["normalized_mean"](EMBS)
    np.testing.assert_allclose(got, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert got.dtype == np.float32


def test_queries_of_one_key_are_pooled_where_the_first_stands():
    embs = np.float32([[1, 5], [0, 0], [3, 1]])
    for how, wanted in (("mean", [[2, 3], [0, 0]]), ("max", [[3, 5], [0, 0]])):
        firsts, pooled = pool_queries(embs, ["a", "b", "a"], how)
        assert firsts == [0, 1]
        assert pooled.dtype == np.float32
        np.testing.assert_array_equal(pooled, wanted)
