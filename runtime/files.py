"""Files that are there completely or not at all, locks, and room on the disk."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from common import UserError


def lock(descriptor: int, message: str) -> None:
    """Have a file or a directory to oneself until it is closed, however the process ends.

    Where a file system knows no locks there is none.

    Raises: UserError with the message when another has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(message) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


@contextlib.contextmanager
def locked_directory(path: str | os.PathLike, message: str) -> Iterator[None]:
    """Have a directory to oneself. Raises: UserError with the message when another has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock(descriptor, message)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: str | os.PathLike) -> bool:
    """Whether another process has the directory; False where that cannot be told."""
    try:
        with locked_directory(path, ""):
            return False
    except UserError:
        return True


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file that appears under its name, or replaces what is there, only when it is
    complete.

    Yields: the path to write to meanwhile. After an error it is removed, and what was there before
        stays.
    Raises: UserError when another process is writing the same file.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    partial = path.with_name(path.name + ".partial")
    with open(partial, "ab") as file:
        lock(
            file.fileno(),
            f"{path} is being written by another process. Wait for its end, or give another name.",
        )
        try:
            yield partial
            os.fsync(file.fileno())  # else a power cut can leave the new name with nothing in it
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def check_room(directory: str | os.PathLike) -> None:
    """Raises: OSError when next to nothing can be written any more. TensorBoard's events get lost
    without a word.
    """
    if shutil.disk_usage(directory).free < 2**16:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def write_json(path: str | os.PathLike, value) -> None:
    """Write `value` as sorted, indented JSON. The file appears under its name only when complete."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
