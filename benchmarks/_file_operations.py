"""Operations on files, counted one by one, so that a process can end at any of them.

    with _file_operations.watched(folder, hook):
        train.main(...)

The hook is called before and after each fsync, rename, unlink, mkdir, rmdir, truncate, creation and
write below the folder, and in the middle of each write. It may copy the folder, which is what a
kill at this moment would leave, or end the process. What TensorFlow and HDF5 write by themselves is
not seen; they write into files that are renamed, or only appended to.
"""

import builtins
import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

_OF_NAMES = ("mkdir", "remove", "rename", "replace", "rmdir", "unlink")


class Moment(NamedTuple):
    """A moment at which a process may end."""

    number: int  # of moments until now, from 0
    when: str  # before, middle or after
    operation: str
    path: str


Hook = Callable[[Moment], None]


def kill_at(number: int) -> Hook:
    """A hook that ends the process at a moment as SIGKILL does: nothing is cleared up."""

    def hook(moment: Moment) -> None:
        if moment.number == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


@contextlib.contextmanager
def watched(folder: str | os.PathLike, hook: Hook) -> Iterator[None]:
    """Call the hook at each moment of each operation below a folder, whichever thread it is in."""
    watch = _Watch(Path(folder).resolve(), hook)
    with contextlib.ExitStack() as patches:
        for name in _OF_NAMES:
            patches.enter_context(mock.patch.object(os, name, watch.of_name(getattr(os, name))))
        patches.enter_context(mock.patch.object(os, "fsync", watch.fsync(os.fsync)))
        patches.enter_context(mock.patch.object(os, "open", watch.os_open(os.open)))
        opened = watch.open(builtins.open)
        patches.enter_context(mock.patch.object(builtins, "open", opened))
        patches.enter_context(mock.patch.object(io, "open", opened))
        yield


class _Watch:
    def __init__(self, folder: Path, hook: Hook):
        self._folder = folder
        self._hook = hook
        self._count = 0
        self._one_at_a_time = threading.RLock()

    @contextlib.contextmanager
    def operation(self, name: str, path: str | os.PathLike) -> Iterator[Callable[[], None]]:
        """A context around an operation. Yields: what to call in its middle."""
        path = os.fsdecode(path)

        def at(when: str) -> None:
            self._hook(Moment(self._count, when, name, path))
            self._count += 1

        with self._one_at_a_time:
            at("before")
            yield lambda: at("middle")
            at("after")

    def is_below(self, path) -> bool:
        if isinstance(path, int):
            return False
        return Path(os.path.abspath(os.fsdecode(path))).is_relative_to(self._folder)

    def of_name(self, function: Callable) -> Callable:
        def call(path, *args, dir_fd=None, **kwargs):
            options = kwargs if dir_fd is None else kwargs | {"dir_fd": dir_fd}
            whole = path if dir_fd is None else os.path.join(_path_of(dir_fd), os.fspath(path))
            if not self.is_below(whole):
                return function(path, *args, **options)
            with self.operation(function.__name__, whole):
                return function(path, *args, **options)

        return call

    def fsync(self, function: Callable) -> Callable:
        def call(descriptor):
            path = _path_of(descriptor)
            if not self.is_below(path):
                return function(descriptor)
            with self.operation("fsync", path):
                return function(descriptor)

        return call

    def os_open(self, function: Callable) -> Callable:
        def call(path, flags, *args, **kwargs):
            creates = flags & os.O_CREAT and self.is_below(path) and not os.path.exists(path)
            if not creates:
                return function(path, flags, *args, **kwargs)
            with self.operation("create", path):
                return function(path, flags, *args, **kwargs)

        return call

    def open(self, function: Callable) -> Callable:
        def call(path, mode="r", *args, **kwargs):
            if not (set(mode) & set("wax+") and self.is_below(path)):
                return function(path, mode, *args, **kwargs)
            with self.operation("open", path):
                return _File(function(path, mode, *args, **kwargs), self, path)

        return call


class _File:
    """A file that is open for writing."""

    def __init__(self, file, watch: _Watch, path: str | os.PathLike):
        self._file = file
        self._watch = watch
        self._path = path

    def write(self, content):
        with self._watch.operation("write", self._path) as in_the_middle:
            half = len(content) // 2
            self._file.write(content[:half])
            self._file.flush()
            in_the_middle()
            self._file.write(content[half:])
            return len(content)

    def truncate(self, *args):
        with self._watch.operation("truncate", self._path):
            return self._file.truncate(*args)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __iter__(self):
        return iter(self._file)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")
