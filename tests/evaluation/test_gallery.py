import json

import numpy as np
import pytest

from common import UserError
from data.dataset import load as load_dataset
from evaluation import embeddings_file, gallery
from evaluation.embeddings_file import Origin
from runtime import json_files, terminal

EMBS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("pid,fid,x1,y1,x2,y2\n1,a.jpg,0,0,5,6\n2,b#1.jpg,,,,\n1,a.jpg,1,1,2,2\n")
    return path


def write(path, csv, origin=None):
    names = load_dataset(csv).names()
    with embeddings_file.create(path, 3, 4, origin, names) as file:
        file.add(EMBS)


def test_a_file_of_embeddings_alone_tells_fids_and_boxes(csv, tmp_path):
    write(tmp_path / "x.h5", csv, Origin("/exp/checkpoint-1", orientation="exif"))
    found = gallery.load(str(tmp_path / "x.h5"))
    assert found.images.fids.tolist() == ["a.jpg", "b#1.jpg", "a.jpg"]
    assert found.images.boxes.tolist() == [[0, 0, 5, 6], [0, 0, 0, 0], [1, 1, 2, 2]]
    assert found.images.pids.tolist() == ["", "", ""] and found.images.upright
    np.testing.assert_array_equal(found.embs, EMBS)
    assert found.origin.checkpoint == "/exp/checkpoint-1"


def test_a_data_set_has_its_embeddings_in_the_experiment_or_where_it_is_told(csv, tmp_path):
    (tmp_path / "exp").mkdir()
    with pytest.raises(UserError, match="some_embeddings.h5 does not exist. Call: python embed.py"):
        gallery.load(str(csv), experiment_root=str(tmp_path / "exp"))
    write(tmp_path / "exp" / "some_embeddings.h5", csv)
    found = gallery.load(str(csv), experiment_root=str(tmp_path / "exp"))
    assert found.images.pids.tolist() == ["1", "2", "1"] and not found.images.upright
    np.save(tmp_path / "x.npy", EMBS)
    found = gallery.load(str(csv), str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(found.embs, EMBS)
    with pytest.raises(UserError, match="where are the embeddings of"):
        gallery.load(str(csv))
    with pytest.raises(UserError, match="x.npy does not say which images.*Give their data set"):
        gallery.load(str(tmp_path / "x.npy"))
    with pytest.raises(UserError, match="has embeddings itself"):
        gallery.load(str(tmp_path / "x.npy"), str(tmp_path / "x.npy"))
    np.save(tmp_path / "few.npy", EMBS[:2])
    with pytest.raises(UserError, match="2 embeddings, 3 images"):
        gallery.load(str(csv), str(tmp_path / "few.npy"))


@pytest.fixture
def results(tmp_path):
    """A file as evaluate.py writes it."""
    values = {"distance_at_FPR": {0.001: 3.5, 0.1: 9.0}, "EER": 0.1, "EER_distance": 7.0}
    values["made"] = {"flags": {"metric": "euclidean"}, "gallery": {"network": "sha256 1"}}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json_files.with_digest(values)))
    return path


def test_thresholds_are_numbers_or_those_of_an_evaluation(results, capfd):
    terminal.setup_logging("search")

    def of(text, at="0.001", metric="euclidean", network="sha256 1"):
        return gallery.threshold(str(text), at, metric, network)

    assert of("2.5") == (2.5, "given")
    assert of(results) == (3.5, f"FPR 0.001 in {results}")
    assert of(results, "0.1").distance == 9
    assert of(results, "EER") == (7, f"the equal error rate in {results}")
    assert capfd.readouterr().err == ""
    of(results, network="sha256 2")
    assert "measured with another network" in capfd.readouterr().err
    with pytest.raises(UserError, match="no distance at 0.5, but at 0.001, 0.1, EER"):
        of(results, "0.5")
    with pytest.raises(UserError, match="has distances of --metric euclidean. Received: cosine"):
        of(results, metric="cosine")
    for text in ("-1", "nan", "inf"):
        with pytest.raises(UserError, match="a distance of at least 0. Received: "):
            of(text)
    with pytest.raises(UserError, match="a number, or a JSON file of evaluate.py. Received: none"):
        of("none.json")
    results.write_text(results.read_text().replace("3.5", "9.5"))
    assert of(results).distance == 9.5
    assert "was changed after evaluate.py wrote it" in capfd.readouterr().err
    results.write_text("[]")
    with pytest.raises(UserError, match="no distance at 0.001, but at none"):
        of(results)


@pytest.mark.parametrize(
    "name, value",
    [("rerank", True), ("query_expansion", 5), ("multi_query", "mean"), ("pool_tracklets", "max")],
)
def test_distances_after_post_processing_are_no_thresholds_of_a_search(results, name, value):
    values = json.loads(results.read_text())
    values["made"]["flags"] |= {"rerank": False, "query_expansion": None, name: value}
    results.write_text(json.dumps(json_files.with_digest(values)))
    with pytest.raises(UserError, match=rf"has distances with --{name}, .* Evaluate without it\."):
        gallery.threshold(str(results), "0.001", "euclidean", "sha256 1")
