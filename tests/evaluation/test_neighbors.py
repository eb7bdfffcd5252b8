import brute
import numpy as np
import pytest

from evaluation import distances, neighbors


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize(
    ("count", "k"),
    [(1, 1), (1, 5), (2, 1), (5, 5), (6, 9), (97, 4), (300, 3), (300, 21), (1200, 2)],
)
def test_nearest_are_those_of_a_full_sort(count, k, metric):
    embs = np.random.default_rng(count).standard_normal((count, 6)).astype(np.float32)
    order, furthest = neighbors.nearest(embs, k, metric)
    dists = brute.distances(embs, embs, metric)
    np.fill_diagonal(dists, -1)
    np.testing.assert_array_equal(order, np.argsort(dists, axis=1)[:, :k])
    np.fill_diagonal(dists, 0)
    np.testing.assert_allclose(furthest, dists.max(axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", distances.METRICS)
def test_rows_with_many_candidates_and_small_blocks_have_the_same_neighbors(metric, monkeypatch):
    embs = np.random.default_rng(1).standard_normal((700, 6)).astype(np.float32)
    embs[100:200] = embs[0]  # copies: all of them are candidates
    embs[300:310] += 1e-7
    wanted = neighbors.nearest(embs, 4, metric)
    for crowded in (0, 1, 2):
        monkeypatch.setattr(neighbors, "_CROWDED", crowded)
        for batch_size in (256, 50):
            order, furthest = neighbors.nearest(embs, 4, metric, batch_size)
            np.testing.assert_array_equal(order, wanted[0])
            np.testing.assert_allclose(furthest, wanted[1], rtol=1e-12)


def far_from_its_own_part():
    """The last 128 are nearer to all others than to one another: these others are too many."""
    embs = np.random.default_rng(2).standard_normal((400, 64))
    embs[-128:] = 1000 * np.concatenate([np.eye(64), -np.eye(64)])
    return embs.astype(np.float32)


def persons_over_all_parts():
    rng = np.random.default_rng(3)
    centers = rng.standard_normal((150, 6))
    return (np.tile(centers, (8, 1)) + rng.standard_normal((1200, 6)) / 9).astype(np.float32)


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("make", [far_from_its_own_part, persons_over_all_parts])
def test_nearest_are_found_in_whatever_part_they_are(make, metric, monkeypatch):
    embs = make()
    dists = brute.distances(embs, embs, metric)
    furthest = dists.max(axis=1)
    np.fill_diagonal(dists, -1)
    wanted = np.argsort(dists, axis=1)[:, :2]
    for cores, batch_size in ((1, 256), (4, 30)):
        monkeypatch.setattr(distances.cores, "count", lambda told=cores: told)
        order, got = neighbors.nearest(embs, 2, metric, batch_size)
        np.testing.assert_array_equal(order, wanted)
        np.testing.assert_allclose(got, furthest, rtol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cityblock"])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1, 1000), (1e15, 0), (1 / 3, 0)])
def test_of_equally_far_images_the_first_is_nearer(scale, offset, metric):
    embs = np.random.default_rng(0).integers(-2, 3, (500, 4)) * scale + offset
    embs = embs.astype(np.float32)
    order, _ = neighbors.nearest(embs, 9, metric)
    dists = brute.distances(embs, embs, metric)
    np.fill_diagonal(dists, -1)
    np.testing.assert_array_equal(order, np.argsort(dists, axis=1, kind="stable")[:, :9])


def zeros_and_copies():
    rng = np.random.default_rng(4)
    embs = rng.standard_normal((900, 6))
    embs[::3] = 0
    embs[1::3] = embs[rng.integers(1, 3, 300)]
    return embs


def all_equal():
    return np.full((700, 6), 0.1)


def two_points_but_for_rounding():
    embs = np.random.default_rng(5).standard_normal((800, 6)) * 1e-7
    embs[::2] += 1
    embs[1::2] -= 1
    embs[100:400:5] = embs[0]
    return embs


def one_is_huge():
    embs = np.random.default_rng(6).standard_normal((700, 6))
    embs[200:500] = embs[7]
    embs[350] = 1e15
    return embs


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cityblock"])
@pytest.mark.parametrize(
    "make", [zeros_and_copies, all_equal, two_points_but_for_rounding, one_is_huge]
)
def test_images_with_hundreds_of_copies_have_the_neighbors_of_a_full_sort(
    make, metric, monkeypatch
):
    embs = make().astype(np.float32)
    dists = brute.distances(embs, embs, metric)
    furthest = dists.max(axis=1)
    np.fill_diagonal(dists, -1)
    wanted = np.argsort(dists, axis=1, kind="stable")[:, :9]
    for cores, batch_size in ((1, 256), (4, 30)):
        monkeypatch.setattr(distances.cores, "count", lambda told=cores: told)
        order, got = neighbors.nearest(embs, 9, metric, batch_size)
        np.testing.assert_array_equal(order, wanted)
        np.testing.assert_allclose(got, furthest, rtol=1e-6)


def test_embeddings_of_zeros_are_as_far_from_their_copies_as_from_all_by_cosine():
    embs = np.zeros((600, 4), np.float32)
    embs[::3, :2] = np.random.default_rng(7).integers(-3, 4, (200, 2)) + 0.5
    order, furthest = neighbors.nearest(embs, 5, "cosine")
    for image in np.flatnonzero(~embs.any(axis=1)):
        others = np.delete(np.arange(600), image)
        np.testing.assert_array_equal(order[image], [image, *others[:4]])
        assert furthest[image] == 1


def test_an_image_is_the_nearest_of_itself_among_its_copies():
    embs = np.repeat(np.float32([[0, 0], [3, 4]]), 60, axis=0)
    order, furthest = neighbors.nearest(embs, 7, "euclidean")
    np.testing.assert_array_equal(order[:, 0], np.arange(120))
    assert ((order < 60) == (np.arange(120) < 60)[:, None]).all()
    np.testing.assert_allclose(furthest, 25)


@pytest.mark.parametrize(("k", "alpha"), [(1, 3), (5, 3), (5, 0), (5, 2.5), (200, 3)])
def test_expansion_is_that_of_plain_loops(k, alpha):
    rng = np.random.default_rng(k)
    embs = (
        rng.standard_normal((12, 5))[rng.integers(0, 12, 80)] + rng.standard_normal((80, 5)) / 2
    ).astype("f4")
    got = neighbors.expand(embs, k, alpha)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, brute.expand(embs, k, alpha), rtol=1e-6, atol=1e-7)


def test_expansion_of_embeddings_of_zeros_and_by_hand():
    np.testing.assert_array_equal(
        neighbors.expand(np.zeros((4, 3), np.float32), 3, 3), np.zeros((4, 3))
    )
    # At 60 degrees the cosine is 1/2 and its cube 1/8; the third is opposite and counts for
    # nothing.
    embs = np.float32([[2, 0], [1, np.sqrt(3)], [-9, 0]])
    got = neighbors.expand(embs, 3, 3)
    np.testing.assert_allclose(got[0], (embs[0] + embs[1] / 8) / 3, rtol=1e-6)


def test_images_of_one_name_and_two_embeddings_are_two():
    same = neighbors.queries_in_gallery(
        ["a", "b"], np.eye(2), ["b", "c", "a"], np.float32([[0, 1], [0, 1], [1, 1]])
    )
    assert same.tolist() == [1, -1, -1]
