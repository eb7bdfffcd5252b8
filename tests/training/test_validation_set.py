import dataclasses
import os

import numpy as np
import pytest

import common
from data import dataset as datasets
from evaluation.pipeline import Embedded
from experiment.flags import Settings
from runtime import terminal
from training import validation_set


@pytest.fixture
def settings(dataset, tmp_path):
    return Settings(
        experiment_root=str(tmp_path / "exp"),
        train_set=str(dataset.csv),
        image_root=str(dataset.root),
        batch_p=3,
        seed=1,
    )


def load(settings, **changes):
    changed = dataclasses.replace(settings, **changes)
    return validation_set.load(datasets.load(changed.train_set), changed)


def write(path, rows):
    path.write_text("".join(f"{pid},{fid}\n" for pid, fid in rows))
    return str(path)


def rows_of(dataset):
    return list(zip(dataset.pids, dataset.fids, strict=True))


def test_without_a_validation_all_is_trained_on(settings, dataset):
    data = load(settings)
    assert data.validation is None and data.train_set is data.whole
    assert list(data.train_set.fids) == list(dataset.fids)


def test_images_of_held_out_pids_are_queries_among_each_other(settings, dataset):
    whole, train_set, found = load(settings, val_pids=2)
    assert len(whole) == len(dataset.fids) == len(train_set) + len(found.gallery)
    assert set(train_set.pids).isdisjoint(found.gallery.pids)
    assert list(found.query.fids) == list(found.gallery.fids)
    assert found.options.excluder == "diagonal" and found.options.metric == "euclidean"
    rows = [row for row in rows_of(dataset) if row[0] in set(train_set.pids)]
    assert list(zip(train_set.pids, train_set.fids, strict=True)) == rows  # in their old order


@pytest.mark.parametrize(
    "changes",
    [
        {"val_excluder": "market1501"},
        {"cameras": "market1501"},
        {"cameras": "_c([0-9])"},
    ],
)
def test_cameras_come_from_the_excluder_or_from_the_rule_of_the_training(settings, changes):
    found = load(settings, val_pids=2, loss="circle", **changes).validation
    keys = [fid[:7] for fid in found.query.fids]
    assert len(set(keys)) == len(keys) and set(keys) == {fid[:7] for fid in found.gallery.fids}
    assert found.options.excluder == changes.get("val_excluder", "cameras")
    assert found.options.metric == "cosine"


def test_too_many_pids_held_out_are_told(settings):
    with pytest.raises(
        common.UserError, match="leaves 2 pids .* a --batch_p of at most 2, or a smaller --val_pids"
    ):
        load(settings, val_pids=4)
    with pytest.raises(common.UserError, match="leaves 1 pid to .* Give a smaller --val_pids"):
        load(settings, val_pids=5)
    with pytest.raises(common.UserError, match="--val_pids 7 holds out 7 pids, but only 6"):
        load(settings, val_pids=7)


def test_too_few_pids_to_hold_any_out_are_told(settings, dataset, tmp_path):
    three = [row for row in rows_of(dataset) if row[0] in sorted(set(dataset.pids))[:3]]
    train_set = write(tmp_path / "three.csv", three)
    with pytest.raises(common.UserError, match="Give more pids, or --val_query and --val_gallery"):
        load(settings, train_set=train_set, val_pids=2)


def test_a_seed_of_another_worker_holds_out_what_that_one_does(settings):
    data = load(settings, val_pids=2)
    other = dataclasses.replace(settings, val_pids=2, seed=5)
    again = validation_set.with_seed(data, other)
    assert list(again.train_set.fids) == list(load(other).train_set.fids)
    assert list(again.train_set.fids) != list(data.train_set.fids)


def with_csvs(settings, tmp_path, query, gallery, excluder="diagonal", **changes):
    return load(
        settings,
        val_query=write(tmp_path / "query.csv", query),
        val_gallery=write(tmp_path / "gallery.csv", gallery),
        val_excluder=excluder,
        **changes,
    )


def test_other_csvs_with_a_folder_of_their_own(settings, dataset, tmp_path):
    (tmp_path / "images").mkdir()
    names = {fid: f"x{fid}" for fid in dataset.fids}
    for fid, name in names.items():
        os.symlink(dataset.root / fid, tmp_path / "images" / name)
    rows = [(f"p{pid}", names[fid]) for pid, fid in rows_of(dataset)]
    root = str(tmp_path / "images")
    data = with_csvs(settings, tmp_path, rows[:3], rows, val_image_root=root, allow_any_path=True)
    assert data.train_set is data.whole
    assert list(data.validation.query.fids) == [name for _, name in rows[:3]]
    assert data.validation.image_root == root
    query, _ = data.validation.to_compare()
    assert query.files[0] == os.path.realpath(dataset.root / dataset.fids[0])  # links are one file
    assert isinstance(query, Embedded)
    with pytest.raises(common.UserError, match="are not in --image_root"):
        with_csvs(settings, tmp_path, rows[:3], rows)


def test_without_a_file_check_only_the_first_image_is_looked_for(settings, dataset, tmp_path):
    rows = [*rows_of(dataset)[:3], ("0000", "gone.png")]
    with pytest.raises(common.UserError, match=r"are not in --image_root .*: gone\.png"):
        with_csvs(settings, tmp_path, rows, rows)
    data = with_csvs(settings, tmp_path, rows, rows, no_file_check=True)
    assert len(data.validation.query) == 4
    with pytest.raises(common.UserError, match=r"are not in --image_root .*: gone\.png"):
        with_csvs(settings, tmp_path, rows[::-1], rows, no_file_check=True)


def test_pids_of_the_training_and_queries_without_a_match_are_told(
    settings, dataset, tmp_path, capfd
):
    terminal.setup_logging("train")
    rows = rows_of(dataset)
    with_csvs(settings, tmp_path, rows[:3], [*rows[:2], ("other", rows[-1][1])])
    told = capfd.readouterr().err
    assert "2 of the 2 pids of" in told and "are in the training set, too: 0000, 0001" in told
    assert f"1 of the 3 queries of {tmp_path / 'query.csv'} have no true match" in told
    with pytest.raises(
        common.UserError, match=r"no query .* that --val_excluder diagonal does not"
    ):
        with_csvs(settings, tmp_path, rows[:1], [rows[0], ("other", rows[-1][1])])
    with pytest.raises(common.UserError, match="no pid of .*query.csv is in .*gallery.csv"):
        with_csvs(settings, tmp_path, rows[:1], rows[2:])


def test_pids_of_the_training_are_found_in_one_of_several_sets(settings, dataset, tmp_path, capfd):
    terminal.setup_logging("train")
    rows = rows_of(dataset)
    sets = [write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", [("b", rows[0][1])])]
    query = write(tmp_path / "query.csv", rows[:3])
    changed = dataclasses.replace(
        settings, train_set=sets, val_query=query, val_gallery=query, val_excluder="diagonal"
    )
    validation_set.load(datasets.load_sets(sets, "train"), changed)
    assert "are in the training set, too: 0000, 0001" in capfd.readouterr().err


def test_a_thousand_queries_are_checked_in_parts(settings, dataset, tmp_path, capfd):
    terminal.setup_logging("train")
    rows = rows_of(dataset)
    query = [
        ("none" if number % 300 == 0 else pid, fid) for number, (pid, fid) in enumerate(rows * 50)
    ]
    assert len(query) > 900
    with_csvs(settings, tmp_path, query, rows)
    expected = sum(pid == "none" for pid, _ in query)
    assert np.count_nonzero([pid == "none" for pid, _ in query]) == expected == 4
    assert f"{expected} of the {len(query)} queries" in capfd.readouterr().err
