import json

import numpy as np
import pytest

from common import UserError
from evaluation import gallery_index
from evaluation.search import Exact

RNG = np.random.default_rng(0)
CENTERS = RNG.standard_normal((60, 16))
# Around a point that is not 0, where the digits of float32 go.
GALLERY = (30 + CENTERS[np.arange(900) % 60] + 0.3 * RNG.standard_normal((900, 16))).astype("f4")
QUERIES = (30 + CENTERS[:20] + 0.3 * RNG.standard_normal((20, 16))).astype("f4")


@pytest.mark.parametrize("kind", gallery_index.KINDS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_what_an_index_finds_has_the_rows_and_distances_of_the_exact_search(kind, metric, tmp_path):
    built = gallery_index.build(tmp_path / "index", GALLERY, metric, kind, recall=0.95)
    index = gallery_index.load(tmp_path / "index", GALLERY)
    found = index.search(QUERIES, 8)
    np.testing.assert_array_equal(found.rows, built.search(QUERIES, 8).rows)
    exact = Exact(GALLERY, metric).search(QUERIES, 8)
    same = found.rows == exact.rows
    np.testing.assert_array_equal(found.dists[same], exact.dists[same])
    hits = [np.isin(exact.rows[row], found.rows[row]).mean() for row in range(20)]
    assert np.mean(hits) >= (1 if kind == "flat" else 0.9)
    assert index.about.recall >= 0.95


def test_the_recall_is_that_of_the_neighbors_without_the_image_itself(tmp_path):
    index = gallery_index.build(tmp_path / "index", GALLERY, "euclidean", "ivf", recall=0.01)
    assert index.about.effort == 1  # that of the first cell is enough
    chosen = np.unique(np.linspace(0, 899, 200).astype(int))
    exact = Exact(GALLERY, "euclidean").search(GALLERY[chosen], 11).rows
    found = index.search(GALLERY[chosen], 11).rows
    hits = [len(set(a) & set(b) - {own}) for a, b, own in zip(exact, found, chosen, strict=True)]
    assert (exact[:, 0] == chosen).all()
    assert index.about.recall == sum(hits) / 2000


def test_few_images_and_more_than_there_are(tmp_path):
    index = gallery_index.build(tmp_path / "index", GALLERY[:5], "cosine", "ivf")
    rows = index.search(QUERIES, 5).rows
    np.testing.assert_array_equal(rows, Exact(GALLERY[:5], "cosine").search(QUERIES, 5).rows)


def test_what_does_not_fit_is_told(tmp_path):
    gallery_index.build(tmp_path / "index", GALLERY, "euclidean", "flat")
    with pytest.raises(UserError, match="is for --metric euclidean. Received: cosine"):
        gallery_index.load(tmp_path / "index", GALLERY, "cosine")
    for other in (GALLERY + 1, GALLERY[:-1], GALLERY[:, :-1]):
        with pytest.raises(UserError, match="is of other embeddings than the gallery's, 900 of 16"):
            gallery_index.load(tmp_path / "index", other)
    with pytest.raises(UserError, match="no index for --metric cityblock, but for euclidean"):
        gallery_index.build(tmp_path / "other", GALLERY, "cityblock", "flat")
    with pytest.raises(UserError, match="is no index.*--build"):
        gallery_index.load(tmp_path, GALLERY)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]

    path = tmp_path / "index" / "about.json"
    about = json.loads(path.read_text())
    for change in ({"kind": "tree"}, {"effort": "x"}, {"more": 1}, {"offset": [1]}):
        path.write_text(json.dumps(about | change))
        with pytest.raises(UserError, match="about.json is damaged"):
            gallery_index.load(tmp_path / "index", GALLERY)
    path.write_text(json.dumps(about))
    content = bytearray((tmp_path / "index" / "index.faiss").read_bytes())
    content[500] ^= 1
    (tmp_path / "index" / "index.faiss").write_bytes(content)
    with pytest.raises(UserError, match="index.faiss is damaged"):
        gallery_index.load(tmp_path / "index", GALLERY)
