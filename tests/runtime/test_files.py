import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import portalocker
import pytest
from paths import PROJECT

from common import UserError
from runtime import files


def test_json_is_sorted_and_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": [None]})
    assert path.read_text() == '{\n  "a": [\n    null\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError):
        files.write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text()) == {"b": 1, "a": [None]}


# ------------------------------------------------------------------------- complete files


@pytest.fixture(params=["itself", "beside"])
def locks(request, monkeypatch):
    """Both ways to lock: the file itself, and a file beside it, as on Windows."""
    monkeypatch.setattr(files, "_LOCKS_THE_FILE_ITSELF", request.param == "itself")


@pytest.mark.usefixtures("locks")
def test_a_file_is_complete_or_as_it_was(tmp_path):
    path = tmp_path / "result"
    path.write_text("before")
    with pytest.raises(KeyError), files.complete_file(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with files.complete_file(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("locks")
def test_a_file_that_another_process_writes_is_left_to_it(tmp_path):
    path = tmp_path / "result"
    with files.complete_file(path) as partial:
        partial.write_text("first")
        with (
            pytest.raises(UserError, match="being written by another process"),
            files.complete_file(path),
        ):
            raise AssertionError("two at a time")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def fails_with(monkeypatch, name):
    """Let each lock fail with an error of the system, given by its name."""
    number = getattr(errno, name)

    def lock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(portalocker.portalocker, "LOCKER", lock)


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EINVAL", "ENOTSUP", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch, name):
    fails_with(monkeypatch, name)
    files.write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").read_text() == "1\n"
    with files.locked_directory(tmp_path, "taken"):
        assert not files.is_locked(tmp_path)


def test_another_error_of_locking_names_the_file(tmp_path, monkeypatch):
    fails_with(monkeypatch, "EIO")
    with pytest.raises(OSError, match="Input/output error while locking") as error:
        files.write_json(tmp_path / "a.json", 1)
    assert error.value.errno == errno.EIO and str(tmp_path) in error.value.filename
    with (
        pytest.raises(OSError, match="while locking"),
        files.locked_directory(tmp_path, "taken"),
    ):
        raise AssertionError("not locked")
    assert not files.is_locked(tmp_path)
    fails_with(monkeypatch, "EACCES")  # as lockf says that another process has it
    with pytest.raises(UserError, match="taken"), files.locked_directory(tmp_path, "taken"):
        raise AssertionError("not locked")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_leaves_no_half_file(number, tmp_path):
    code = (
        "import common, time\n"
        "from runtime import files\n"
        "def main(args):\n"
        "    with files.complete_file('result') as partial:\n"
        "        partial.write_text('half')\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "common.run(main, lambda: None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        # Where the tests themselves run in the background, SIGINT is ignored, and would be in here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------- directories


@pytest.mark.usefixtures("locks")
def test_a_directory_belongs_to_one_at_a_time(tmp_path):
    root = tmp_path / "exp"
    root.mkdir()
    assert not files.is_locked(root)
    with files.locked_directory(root, "taken"):
        assert files.is_locked(root)
        with pytest.raises(UserError, match="^taken$"), files.locked_directory(root, "taken"):
            raise AssertionError("two at a time")
        assert files.is_locked(root)
    assert not files.is_locked(root)
    with files.locked_directory(root, "taken"):
        pass
    assert list(tmp_path.iterdir()) == [root] and not list(root.iterdir())


def test_a_directory_that_is_not_there_is_not_locked(tmp_path):
    assert not files.is_locked(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError), files.locked_directory(tmp_path / "nothing", "taken"):
        raise AssertionError("nothing to lock")


def test_the_lock_is_flock_on_the_directory_as_in_earlier_versions(tmp_path):
    earlier = os.open(tmp_path, os.O_RDONLY)
    exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
    with files.locked_directory(tmp_path, "taken"), pytest.raises(BlockingIOError):
        fcntl.flock(earlier, exclusive)
    fcntl.flock(earlier, exclusive)
    assert files.is_locked(tmp_path)
    with pytest.raises(UserError, match="taken"), files.locked_directory(tmp_path, "taken"):
        raise AssertionError("two at a time")
    os.close(earlier)
    assert not files.is_locked(tmp_path)


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time\n"
        "from runtime import files\n"
        "with files.locked_directory(sys.argv[1], 'taken'):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as process:
        assert process.stdout.readline() == b"locked\n"
        assert files.is_locked(tmp_path)
        process.kill()
        process.wait(timeout=30)
    assert not files.is_locked(tmp_path)


def test_a_look_at_the_lock_stops_nobody_who_starts(tmp_path, monkeypatch):
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_EX)
    # By the next attempt the other process has seen what it wanted to see.
    monkeypatch.setattr(files.time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
    with files.locked_directory(tmp_path, "taken"):
        assert files.is_locked(tmp_path)
    os.close(looking)


# ------------------------------------------------------------------------- the disk


def test_sync_of_files_and_directories(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    (tmp_path / "file").touch()
    files.sync(tmp_path / "file")
    files.sync(tmp_path)
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


def test_only_a_directory_need_not_be_synced(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "file").touch()
    files.sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        files.sync(tmp_path / "file")


@pytest.mark.parametrize("free, is_full", [(2**16, False), (2**16 - 1, True)])
def test_a_full_disk_is_an_error(tmp_path, monkeypatch, free, is_full):
    usage = files.shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    if is_full:
        with pytest.raises(OSError, match="No space left"):
            files.check_disk_space(tmp_path)
    else:
        files.check_disk_space(tmp_path)
