import hashlib
import os
import re

import numpy as np
import pytest
from PIL import Image

import common
from data import dataset, synthetic

FLAGS = ["--train_pids=4", "--test_pids=3", "--images_per_camera=2"]
NAME = re.compile(r"(-1|\d{4})_c([1-6])s[1-6]_\d{6}_\d{2}\.jpg")
NAMES = ("train", "query", "gallery")


def make(directory, *flags):
    synthetic.main(synthetic.parse_args([str(directory), *FLAGS, *flags]))
    return directory


def content(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("synthetic") / "made")


@pytest.fixture(scope="module")
def sets(made):
    """The data sets "train", "query" and "gallery"."""
    return {name: dataset.load(made / f"{name}.csv") for name in NAMES}


def camera(fid):
    return NAME.fullmatch(os.path.basename(fid))[2]


def test_same_seed_same_bytes(made, tmp_path):
    assert content(make(tmp_path / "again")) == content(made)


def test_another_seed_draws_others(made, tmp_path):
    here, there = content(made), content(make(tmp_path / "other", "--seed=1"))
    assert not set(here.values()) & set(there.values())


def test_processes_draw_the_same_bytes_as_one(made, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "ALONE", 0)
    assert content(make(tmp_path / "parallel")) == content(made)


def test_a_persons_images_do_not_depend_on_how_many_persons_there_are(made, tmp_path):
    more = make(tmp_path / "more", "--test_pids=5")
    here, there = (
        {path.name: path.read_bytes() for path in root.rglob("000[1-7]*.jpg")}
        for root in (made, more)
    )
    both = here.keys() & there.keys()
    assert (
        len(both) >= len(here) / 2
    )  # the others are a query in one set and in the gallery or training of the other
    assert all(here[name] == there[name] for name in both)


def test_the_csvs_list_all_files_in_order_and_nothing_else(made, sets):
    for name, part in sets.items():
        fids = part.fids.tolist()
        assert fids == sorted(fids)
        folder = synthetic.FOLDERS[name]
        assert sorted(os.listdir(made / folder)) == [os.path.basename(fid) for fid in fids]
        assert {os.path.dirname(fid) for fid in fids} == {folder}
    assert set(os.listdir(made)) == {
        "train.csv",
        "query.csv",
        "gallery.csv",
        *synthetic.FOLDERS.values(),
    }
    assert os.listdir(made.parent) == ["made"]


def test_file_names_are_those_of_market(sets):
    for part in sets.values():
        names = [NAME.fullmatch(os.path.basename(fid)) for fid in part.fids]
        assert [name[1] for name in names] == part.pids.tolist()


def test_images_are_rgb_jpegs_of_128_by_64(made, sets):
    for part in sets.values():
        for fid in part.fids[[0, len(part) // 2, -1]]:
            with Image.open(made / fid) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))
                assert np.asarray(image).std() > 10


def test_identities_of_training_and_test_are_disjoint(sets):
    train, query, gallery = (set(sets[name].pids) for name in NAMES)
    assert (len(train), len(query)) == (4, 3)
    assert not train & (query | gallery)
    assert gallery == query | {"0000", "-1"}
    assert all("0001" <= pid <= "0007" for pid in train | query)


def test_one_query_for_each_person_and_camera_and_a_match_from_another(sets):
    def keys(part):
        return list(zip(part.pids, map(camera, part.fids), strict=True))

    queries = keys(sets["query"])
    gallery = set(keys(sets["gallery"]))
    assert len(queries) == len(set(queries))
    assert set(queries) <= gallery
    for pid, cam in queries:
        assert any(other == pid and c != cam for other, c in gallery)


def test_the_default_is_large_enough_for_a_demo():
    args = synthetic.parse_args(["somewhere"])
    plan = synthetic.plan_dataset(
        args.seed, args.train_pids, args.test_pids, args.images_per_camera
    )
    persons = {shot.pid for shots in plan.values() for shot in shots} - {"0000", "-1"}
    assert len(persons) >= 300
    assert {camera(shot.fid) for shot in plan["query"]} == set("123456")
    for shots in plan.values():
        assert len({shot.fid for shot in shots}) == len(shots)


def test_a_person_looks_alike_and_moves():
    """Images of a camera differ, but less than from another person's, on average and without the
    surroundings.
    """
    images = np.float32(
        [
            [synthetic.draw_image(0, pid, 0, k)[20:100, 20:44] for k in range(4)]
            for pid in (10, 40, 70)
        ]
    )
    distances = abs(images[:, None, :, None] - images[None, :, None, :]).mean((-3, -2, -1))
    same = np.array([distances[i, i][np.triu_indices(4, 1)].mean() for i in range(3)])
    other = np.array([distances[i, j].mean() for i in range(3) for j in range(i)])
    assert same.min() > 1
    assert same.mean() < other.mean()


def test_a_directory_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("precious")
    with pytest.raises(common.UserError, match=r"new or empty.*mine.*another name"):
        make(tmp_path / "mine")
    assert content(tmp_path) == {"mine/note.txt": hashlib.sha256(b"precious").hexdigest()}


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "note.txt").write_text("precious")
    make(tmp_path / "made")
    assert (tmp_path / "made.partial" / "note.txt").read_text() == "precious"


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(common.UserError, match="cannot write .*file.*[Nn]ot a directory"):
        make(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_an_empty_directory_and_the_rest_of_a_killed_call_are_used(made, tmp_path):
    (tmp_path / "made").mkdir()
    left = tmp_path / "made.0123456789ab.partial"
    (left / "query").mkdir(parents=True)
    (left / "query" / "old.jpg").write_text("old")
    assert content(make(tmp_path / "made")) == content(made)
    assert os.listdir(tmp_path) == ["made"]


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def draw_image(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "draw_image", draw_image)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "made")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images_per_camera=1"], "an integer from 2 .* to 99. Received: 1"),
        (["--images_per_camera=100"], "an integer from 2 .* to 99. Received: 100"),
        (["--train_pids=0"], "--train_pids: should be an integer of at least 1. Received: 0"),
        (["--seed=-1"], "--seed: should be an integer of at least 0. Received: -1"),
        (["--train_pids=9000", "--test_pids=1000"], r"at most 9999.* Received: 9000 \+ 1000"),
    ],
)
def test_wrong_flags(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        synthetic.parse_args([str(tmp_path / "made"), *flags])
    assert re.search(message, capsys.readouterr().err)
