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


def test_what_is_written_has_a_name_of_its_own_and_persons_files_are_left_alone(tmp_path):
    path = tmp_path / "result.json"
    mine = {
        name: name for name in ("result.json.partial", ".result.json.partial.lock", "x.partial")
    }
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    for _ in range(2):
        with files.complete_file(path) as partial:
            assert partial.name not in mine and partial.parent == tmp_path
        (tmp_path / partial.name).write_text("left by a kill")
        assert files.is_leftover(partial)
    files.write_json(path, 1)
    files.remove_leftovers(tmp_path)
    assert not any(files.is_leftover(tmp_path / name) for name in mine)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == mine | {
        "result.json": "1\n"
    }


def test_a_name_as_long_as_there_can_be(tmp_path):
    path = tmp_path / ("ä" * 127)  # 254 bytes
    files.write_json(path, 1)
    with pytest.raises(KeyError), files.complete_file(path) as partial:
        raise KeyError
    partial.touch()
    files.write_json(path, 2)
    assert path.read_text() == "2\n" and list(tmp_path.iterdir()) == [path]


def test_without_locks_nothing_is_taken_for_a_leftover(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_try_once_to_lock", lambda _: None)
    with files.complete_file(tmp_path / "a") as first:
        first.write_text("first")
        with files.complete_file(tmp_path / "a") as second:
            second.write_text("second")
        files.remove_leftovers(tmp_path)
        assert (tmp_path / "a").read_text() == "second"
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Writes a file of one name and one of its own, again and again; prints how often which was written.
WRITE = """
import sys
from pathlib import Path
from common import UserError
from runtime import files
mark = sys.argv[2] * 100_000
written = refused = 0
for _ in range(60):
    try:
        with files.complete_file(Path(sys.argv[1], "one")) as partial:
            partial.write_text(mark)
        written += 1
    except UserError:
        refused += 1
    with files.complete_file(Path(sys.argv[1], mark[:3])) as partial:
        partial.write_text(mark)
    files.remove_leftovers(sys.argv[1])
print(written, refused)
"""


def test_many_writers_of_one_file(tmp_path):
    commands = [[sys.executable, "-c", WRITE, str(tmp_path), mark] for mark in "abc"]
    writers = [
        subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in commands
    ]
    contents = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "one").exists():
            contents.add((tmp_path / "one").read_text())
    told = [writer.communicate() for writer in writers]
    assert [problem for _, problem in told] == [b"", b"", b""]
    for counts, _ in told:
        written, refused = map(int, counts.split())
        assert written + refused == 60 and written > 0
    assert contents <= {mark * 100_000 for mark in "abc"}
    assert {path.name for path in tmp_path.iterdir()} == {"one", "aaa", "bbb", "ccc"}


# Kills a process at each moment of writing, until one comes to its end; prints their number.
KILL_AT_EACH = """
import os, sys
from pathlib import Path
from benchmarks import _file_operations
from runtime import files
folder = Path(sys.argv[1])
def write():
    with files.complete_file(folder / "file") as partial:
        partial.write_text("after")
    with files.complete_directory(folder / "directory") as partial:
        (partial / "a").write_text("complete")
    with files.complete_directory(folder / "directory") as partial:
        (partial / "a").write_text("second")
for number in range(1000):
    child = os.fork()
    if not child:
        try:
            with _file_operations.watched(folder, _file_operations.kill_at(number)):
                write()
        finally:
            os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    assert (folder / "file").read_text() in ("before", "after")
    directory = folder / "directory"
    assert not directory.exists() or (directory / "a").read_text() == "complete"
    (folder / "file").write_text("before")
    if directory.exists():
        (directory / "a").unlink()
        directory.rmdir()
print(number)
"""


def test_a_kill_at_any_moment_leaves_what_was_there_or_what_is_complete(tmp_path):
    (tmp_path / "file").write_text("before")
    command = [sys.executable, "-c", KILL_AT_EACH, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert 40 < int(done.stdout) < 1000
    files.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "directory"}


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
def test_a_directory_is_complete_or_not_there(tmp_path):
    path = tmp_path / "new" / "directory"
    with pytest.raises(KeyError), files.complete_directory(path) as partial:
        (partial / "half").touch()
        raise KeyError
    assert not list((tmp_path / "new").iterdir())
    with files.complete_directory(path) as partial:
        (partial / "a").touch()
        with pytest.raises(UserError, match="being written"), files.complete_directory(path):
            raise AssertionError("two at a time")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["a"]
    with (
        pytest.raises(UserError, match="is no longer empty"),
        files.complete_directory(path) as partial,
    ):
        (partial / "b").touch()
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list((tmp_path / "new").iterdir()) == [path]


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


@pytest.mark.usefixtures("locks")
def test_a_directory_that_was_removed_while_one_waited_for_its_lock_is_not_locked(
    tmp_path, monkeypatch
):
    root = tmp_path / "exp"
    root.mkdir()
    lock = files._try_to_lock

    def removed_meanwhile(descriptor):
        monkeypatch.setattr(files, "_try_to_lock", lock)
        files._lock_of_directory(root).rename(tmp_path / "removed")
        root.mkdir(exist_ok=True)
        return lock(descriptor)

    monkeypatch.setattr(files, "_try_to_lock", removed_meanwhile)
    with files.locked_directory(root, "taken"):
        assert files.is_still_there(root) and files.is_locked(root)
        assert not files.is_locked(tmp_path / "removed")


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
