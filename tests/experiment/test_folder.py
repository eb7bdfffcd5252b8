import os

import pytest

from common import UserError
from experiment import folder


def test_an_experiment_root_that_will_not_do(tmp_path, monkeypatch):
    folder.check_new(tmp_path)  # empty
    folder.check_new(tmp_path / "new" / "deep")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for root, message in ((tmp_path, "not empty.*--resume"), (tmp_path / "file", "is a file")):
        with pytest.raises(UserError, match=message):
            folder.check_new(root)
    with pytest.raises(UserError, match="cannot be written"):
        folder.check_new(tmp_path / "file" / "below")
    monkeypatch.setattr(folder.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written"):
        folder.check_new(tmp_path / "new")


def test_a_directory_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    folder.check_writeable(tmp_path / "new")
    folder.check_writeable(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root's rights would hide it
    with pytest.raises(UserError, match="cannot be written"):
        folder.check_writeable(tmp_path)


def test_a_run_that_left_an_empty_log_is_nothing(tmp_path):
    (tmp_path / "train.log").touch()
    for name in ("args.json.partial", "args.json.0123456789ab.partial"):
        (tmp_path / name).write_text("{")
    (tmp_path / ".args.json.partial.lock").touch()
    folder.check_new(tmp_path)
    assert folder.never_started(tmp_path)
    (tmp_path / "train.log").write_text("2026-01-01 00:00:00,000 [INFO] train: seed: 1\n")
    assert folder.never_started(tmp_path)
    with pytest.raises(UserError, match="not empty"):
        folder.check_new(tmp_path)


@pytest.mark.parametrize("name", ["mine.partial", ".note.partial.lock", "args.json.old.partial"])
def test_a_file_of_somebody_is_something(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        folder.check_new(tmp_path)


def test_data_without_its_index_is_no_checkpoint(tmp_path):
    (tmp_path / "train.log").touch()
    (tmp_path / "checkpoint-0.data-00000-of-00001").touch()
    assert folder.never_started(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint-0.index", "broken-checkpoint-5.index"])
def test_a_checkpoint_is_a_start(tmp_path, name):
    (tmp_path / "train.log").touch()
    (tmp_path / name).touch()
    assert not folder.never_started(tmp_path)


def test_only_one_has_the_lock_and_an_empty_directory_goes(tmp_path):
    root = tmp_path / "a" / "b"
    with (
        folder.lock(root),
        pytest.raises(UserError, match="another training is running"),
        folder.lock(root),
    ):
        pass
    assert not (tmp_path / "a").exists()
    with folder.lock(root):
        (root / "file").touch()
    assert list(root.iterdir()) == [root / "file"]


def test_a_directory_that_was_moved_is_told_and_the_one_in_its_place_left_alone(tmp_path):
    root = tmp_path / "exp"
    with folder.lock(root):
        folder.check_still_there(root)
        root.rename(tmp_path / "moved")
        with pytest.raises(UserError, match=r"exp is not the directory any more.*--resume"):
            folder.check_still_there(root)
        root.mkdir()
        with pytest.raises(UserError, match="exp is not the directory any more"):
            folder.check_still_there(root)
        with folder.lock(tmp_path / "moved" / "deeper"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exp", "moved"]
    folder.check_still_there(root)  # nothing is locked
