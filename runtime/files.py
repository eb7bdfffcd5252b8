"""Files that are complete or absent, locks between processes, and what is safe on the disk."""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from common import UserError

# Windows locks parts of a file against everybody, the one who locks included, and cannot open a
# directory: there, a file beside the locked one is locked in its place.
_LOCKS_THE_FILE_ITSELF = os.name == "posix"
# What file systems without locks say. ENOTSUP and EOPNOTSUPP are one number on Linux and two on macOS.
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def _try_to_lock(descriptor: int) -> bool:
    """Lock an open file or directory until it is closed, however the process ends.

    On a file system without locks, nothing is locked.

    Returns:
        False if another process has locked it.
    """
    for _ in range(3):  # is_locked, in another process, has the lock for a moment
        if _try_once_to_lock(descriptor):
            return True
        time.sleep(0.02)
    return False


def _try_once_to_lock(descriptor: int) -> bool:
    import portalocker  # not at the top: --help needs no locks

    flags = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
    try:
        portalocker.lock(descriptor, flags)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        number = getattr(error.__cause__, "errno", None)
        if number is None:
            raise
        if number not in _NO_LOCKS_HERE:
            raise OSError(number, f"{os.strerror(number)} while locking") from error
    return True


def _lock_file(path: Path) -> Path:
    return path if _LOCKS_THE_FILE_ITSELF else path.with_name(f"{path.name}.lock")


@contextlib.contextmanager
def _locked(path: Path, flags: int, message: str) -> Iterator[None]:
    """A context that has the lock of `path`, which is opened with `flags`."""
    if not _LOCKS_THE_FILE_ITSELF:
        flags = os.O_RDWR | os.O_CREAT
    descriptor = os.open(_lock_file(path), flags, 0o666)
    is_ours = False
    try:
        try:
            is_free = _try_to_lock(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if not is_free:
            raise UserError(message)
        is_ours = True
        yield
    finally:
        os.close(descriptor)
        if is_ours and not _LOCKS_THE_FILE_ITSELF:
            with contextlib.suppress(OSError):  # another process has opened it
                _lock_file(path).unlink()


def locked_directory(
    path: str | os.PathLike, message: str
) -> contextlib.AbstractContextManager[None]:
    """A context that has a directory to itself; the lock also ends with the process.

    Args:
        path: of a directory that exists.
        message: for the person who starts a second process in it.

    Raises:
        UserError: with the message, if another process has the directory.
    """
    return _locked(Path(path).absolute(), os.O_RDONLY, message)


def is_locked(path: str | os.PathLike) -> bool:
    """True if a process has the directory to itself; False also where that cannot be told."""
    try:
        descriptor = os.open(_lock_file(Path(path).absolute()), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_to_lock(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file that appears, or replaces what is there, only when it is complete.

    Yields:
        The path to write to. After an error it is removed, and what was there before stays.

    Raises:
        UserError: if another process is writing the same file.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    partial = path.with_name(path.name + ".partial")
    message = f"{path} is being written by another process. Wait for its end, or give another name."
    with _locked(partial, os.O_RDWR | os.O_CREAT, message):
        try:
            yield partial
            sync(partial)  # else a power cut can leave the new name with nothing in it
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def complete_directory(path: str | os.PathLike, names: Collection[str]) -> Iterator[Path]:
    """Write a directory that appears under its name only when it is complete.

    Args:
        path: of a directory that is new or empty.
        names: what it may hold. The rest of a call that was killed is removed; a directory that
            holds anything else is not ours to remove.

    Yields:
        The directory to write to. After an error it is removed.

    Raises:
        UserError: the name to write to, <path>.partial, is taken.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    partial = path.with_name(path.name + ".partial")
    if partial.exists():
        if not partial.is_dir() or not set(os.listdir(partial)) <= set(names):
            raise UserError(
                f"{partial} is in the way, and not of this command. Remove it or give another directory."
            )
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: str | os.PathLike) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    is_directory = os.path.isdir(path)
    if is_directory and os.name == "nt":  # opens no directories, and has no need of it
        return
    # Windows takes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory; what they can do has been done.
        if not is_directory or error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def check_disk_space(directory: str | os.PathLike, needed: int = 2**16) -> None:
    """Raise OSError if the disk is full: TensorBoard loses its events without a word.

    Args:
        needed: bytes that should be free.

    Raises:
        OSError: ENOSPC, if they are not.
    """
    if shutil.disk_usage(directory).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def allocate(path: str | os.PathLike, size: int) -> None:
    """Make sure at once that a file has room on the disk for all that it will hold.

    Args:
        path: of a file that exists. What it holds stays.
        size: of the whole file to come, in bytes.

    Raises:
        OSError: the disk, the quota or the limit on files does not allow it.
    """
    if not hasattr(os, "posix_fallocate"):
        check_disk_space(Path(path).absolute().parent, size)
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            # Some C libraries do not work around file systems that cannot do it.
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            check_disk_space(Path(path).absolute().parent, size)


def write_json(path: str | os.PathLike, value) -> None:
    """Write `value` as sorted, indented JSON. The file appears only when it is complete."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
