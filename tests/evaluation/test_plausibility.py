import numpy as np
import pytest

from data.dataset import Dataset
from evaluation import Embedded, plausibility


def embedded(fids, embs):
    return Embedded(Dataset(["1"] * len(fids), fids), np.float32(embs))


def test_queries_that_are_not_in_the_gallery():
    gallery = embedded(["a.jpg", "b/c.jpg"], np.zeros((2, 1)))
    query = embedded(["./a.jpg", "c.jpg", "b//c.jpg"], np.zeros((3, 1)))
    assert plausibility.queries_apart(query, gallery) == [1]
    linked = query._replace(files=["/x/a.jpg", "/x/b.jpg", "/x/c.jpg"])
    files = gallery._replace(files=["/x/b.jpg", "/x/c.jpg"])
    assert plausibility.queries_apart(linked, files) == [0]


def test_best_matches_at_distance_zero_are_those_that_are_not_ignored():
    embs = [[0, 1], [0, 2], [-0.0, 1], [3, 3]]
    fids = ["a.jpg", "b.jpg", "copy.jpg", "d.jpg"]
    both = embedded(fids, embs)
    assert plausibility.found_at_distance_zero(both, both, "diagonal") == [(0, 2), (2, 0)]
    query = embedded(["q.jpg", "./b.jpg"], [[3, 3], [0, 2]])
    assert plausibility.found_at_distance_zero(query, both, "diagonal") == [(0, 3)]


def test_images_of_the_same_camera_and_junk_are_no_matches():
    gallery = ["1_c1s1_0.jpg", "-1_c2s1_0.jpg", "1_c2s1_0.jpg"]
    for rows, wanted in (([0, 1], []), ([0, 1, 2], [(0, 2)])):
        images = embedded([gallery[row] for row in rows], np.ones((len(rows), 3)))
        query = embedded(["1_c1s1_1.jpg"], np.ones((1, 3)))
        assert plausibility.found_at_distance_zero(query, images, "market1501") == wanted


@pytest.mark.parametrize("most", [1, 7, 10**6])
def test_many_equal_embeddings_are_taken_in_parts(most, monkeypatch):
    monkeypatch.setattr(plausibility, "_MAX_PAIRS", most)
    images = embedded([f"{row}.jpg" for row in range(9)], np.zeros((9, 2)))
    found = plausibility.found_at_distance_zero(images, images, "diagonal")
    assert found == [(0, 1)] + [(row, 0) for row in range(1, 9)]
