"""Files that are complete or absent, locks between processes, and what is safe on the disk.

While X is written it has another name, in the same folder, that nobody else has:
`X.<12 hexadecimal digits>.partial`. Its writer holds the lock of the empty file `.X.partial.lock`.
A kill leaves both. The next writer of X removes them, and remove_leftovers those of a folder.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import UserError

# Windows locks parts of a file against everybody, the one who locks included, and cannot open a
# directory: there, a file beside the locked one is locked in its place.
_LOCKS_THE_FILE_ITSELF = os.name == "posix"
# What file systems without locks say. ENOTSUP and EOPNOTSUPP are one number on Linux and two on macOS.
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

_PARTIAL = re.compile(r"(.+)\.[0-9a-f]{12}\.partial", re.DOTALL)
_WRITERS_LOCK = re.compile(r"\.(.+)\.partial\.lock", re.DOTALL)
_LONGEST = 200  # bytes of a name that gets something added; file systems allow 255

# Descriptors of the directories that this process has locked.
_locked_here: dict[Path, int] = {}


# ------------------------------------------------------------------------- locks


def _try_to_lock(descriptor: int) -> bool | None:
    """Lock an open file or directory until it is closed, however the process ends.

    Returns:
        False if another process has locked it; None on a file system without locks.
    """
    for _ in range(3):  # is_locked, in another process, has the lock for a moment
        locked = _try_once_to_lock(descriptor)
        if locked is not False:
            return locked
        time.sleep(0.02)
    return False


def _try_once_to_lock(descriptor: int) -> bool | None:
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
        return None
    return True


def _open_and_lock(path: Path, flags: int, message: str) -> tuple[int, bool]:
    """Open and lock what has this name.

    Returns:
        Its descriptor, whose closing ends the lock; and whether the file system has locks.

    Raises:
        UserError: with the message, if another process has locked it.
    """
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            try:
                has_locks = _try_to_lock(descriptor)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
            if has_locks is False:
                raise UserError(message)
            if _is_at(descriptor, path):
                return descriptor, bool(has_locks)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who had the lock has removed it meanwhile


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a name is still that of what is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _close_and_remove(descriptor: int, lock: Path) -> None:
    """End the lock of a file that is there for nothing else."""
    is_somebodys = os.fstat(descriptor).st_size > 0
    if is_somebodys:
        os.close(descriptor)
    elif _LOCKS_THE_FILE_ITSELF:
        # Before the lock ends: who has opened it sees that it is gone, and makes a new one.
        lock.unlink(missing_ok=True)
        os.close(descriptor)
    else:
        os.close(descriptor)
        with contextlib.suppress(OSError):  # another process has opened it
            lock.unlink()


def _lock_of_directory(path: Path) -> Path:
    return path if _LOCKS_THE_FILE_ITSELF else path.with_name(f"{path.name}.lock")


@contextlib.contextmanager
def locked_directory(path: str | os.PathLike, message: str) -> Iterator[None]:
    """A context that has a directory to itself; the lock also ends with the process.

    Args:
        path: of a directory that exists.
        message: for the person who starts a second process in it.

    Raises:
        UserError: with the message, if another process has the directory.
    """
    path = Path(path).absolute()
    lock = _lock_of_directory(path)
    flags = os.O_RDONLY if _LOCKS_THE_FILE_ITSELF else os.O_RDWR | os.O_CREAT
    descriptor, _ = _open_and_lock(lock, flags, message)
    _locked_here[path] = descriptor
    try:
        yield
    finally:
        del _locked_here[path]
        if _LOCKS_THE_FILE_ITSELF:
            os.close(descriptor)
        else:
            _close_and_remove(descriptor, lock)


def is_still_there(path: str | os.PathLike) -> bool:
    """False if the name of a directory that this process has locked is now another's, or nobody's.

    True for a directory that this process has not locked.
    """
    path = Path(path).absolute()
    descriptor = _locked_here.get(path)
    return descriptor is None or _is_at(descriptor, _lock_of_directory(path))


def is_locked(path: str | os.PathLike) -> bool:
    """True if a process has the directory to itself; False also where that cannot be told."""
    try:
        descriptor = os.open(_lock_of_directory(Path(path).absolute()), os.O_RDONLY)
    except OSError:
        return False
    try:
        return _try_to_lock(descriptor) is False
    except OSError:
        return False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(path: str | os.PathLike, waiting: Callable[[], None]) -> Iterator[None]:
    """A context that one process at a time has for a path; the others wait for its end.

    On a file system without locks nobody waits.

    Args:
        path: of a file, which need not exist, in a folder that does.
        waiting: called once where there is another process.
    """
    path = Path(path)
    lock = path.with_name(f".{_shortened(path.name)}.lock")
    told = False
    while True:
        try:
            descriptor, _ = _open_and_lock(lock, os.O_RDWR | os.O_CREAT, "")
            break
        except UserError:
            if not told:
                waiting()
            told = True
            time.sleep(0.2)
    try:
        yield
    finally:
        _close_and_remove(descriptor, lock)


# ------------------------------------------------------------------------- complete files


@contextlib.contextmanager
def _partial_name(path: Path) -> Iterator[Path]:
    """A context that alone writes `path`.

    Yields:
        A path in the same folder that nobody else has. What is there at the end is removed.

    Raises:
        UserError: if another process is writing the same.
    """
    name = _shortened(path.name)
    lock = path.with_name(f".{name}.partial.lock")
    message = f"{path} is being written by another process. Wait for its end, or give another name."
    descriptor, has_locks = _open_and_lock(lock, os.O_RDWR | os.O_CREAT, message)
    partial = path.with_name(f"{name}.{secrets.token_hex(6)}.partial")
    try:
        if has_locks:  # so whoever wrote what is there has been killed
            _remove_partials_of(path.parent, name)
        yield partial
    finally:
        _remove(partial)
        _close_and_remove(descriptor, lock)


def _shortened(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    return hashlib.sha256(encoded).hexdigest()


def _remove_partials_of(folder: Path, name: str) -> None:
    for found in os.listdir(folder):
        match = _PARTIAL.fullmatch(found)
        if match and match[1] == name:
            _remove(folder / found)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file that appears, or replaces what is there, only when it is complete.

    Yields:
        The path to write to. After an error it is removed, and what was there before stays.

    Raises:
        UserError: if another process is writing the same file.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    with _partial_name(path) as partial:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield partial
        sync(partial)  # else a power cut can leave the new name with nothing in it
        os.replace(partial, path)


@contextlib.contextmanager
def temporary_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Have a directory for a while, on the file system of `path`, to move files out of it.

    Args:
        path: decides on its place and name; there need not be anything.

    Yields:
        The directory, in the same folder. It is removed at the end.

    Raises:
        UserError: if another process has one for the same path.
    """
    with _partial_name(Path(path)) as partial:
        partial.mkdir()
        yield partial


@contextlib.contextmanager
def complete_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Write a directory that appears under its name only when it is complete.

    Args:
        path: of a directory that is new or empty.

    Yields:
        The directory to write to. After an error it is removed.

    Raises:
        UserError: if another process is writing the same directory, or has written into it
            meanwhile.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(path) as partial:
        yield partial
        try:
            os.replace(partial, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise UserError(
                f"{path} is no longer empty: something was written into it meanwhile. Give another directory."
            ) from None


def is_leftover(path: str | os.PathLike) -> bool:
    """Whether a name is one that complete_file and complete_directory have while they write."""
    path = Path(path)
    if _WRITERS_LOCK.fullmatch(path.name):
        return not path.exists() or path.stat().st_size == 0
    return bool(_PARTIAL.fullmatch(path.name))


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove what killed calls of complete_file and complete_directory left in a folder.

    What another process is writing stays.
    """
    folder = Path(folder)
    names = set()
    for found in os.listdir(folder):
        match = _PARTIAL.fullmatch(found) or _WRITERS_LOCK.fullmatch(found)
        if match:
            names.add(match[1])
    for name in sorted(names):
        with contextlib.suppress(UserError), contextlib.ExitStack() as stack:
            stack.enter_context(_partial_name(folder / name))  # being its only writer is enough


# ------------------------------------------------------------------------- the disk


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
