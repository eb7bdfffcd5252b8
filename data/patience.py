"""Image files that cannot be read for the moment, in a network for example: wait, and try again.

A file that is missing, or that is read and is no image, is told at once. Everything else that the
system says (a stale handle, no answer, no permission, too many open files) may pass.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import tensorflow as tf

from common import reason
from data import decoding, pictures
from data.dataset import ImageFiles
from runtime.terminal import log

T = TypeVar("T")

_GRAPH = re.compile(r"\s*(?:\[\[|\[Op:|\n|\{\{)")

# Seconds between the tries to read an image: about a minute in all.
PAUSES = (1, 2, 4, 8, 16, 32)


def patiently(
    load: Callable[[], T],
    loading: Callable[[], ImageFiles],
    stop: Callable[[], bool] = lambda: False,
) -> T:
    """Return load(), which is called again after each of PAUSES while an image cannot be read.

    Args:
        load: what loads images; each call begins anew.
        loading: returns these images.
        stop: whether to give up, asked while waiting.

    Raises:
        pictures.UnreadableError for an image that is missing or no image, and for one that cannot
            be read after all tries.
        tf.errors.OpError of load, where no image is to blame.
    """
    tries = 1
    while True:
        try:
            return load()
        except tf.errors.OpError as error:
            path, why = _passing_fault(error, loading())
        if tries > len(PAUSES) or stop():
            raise pictures.out_of_reach(path, why, tries)
        pause = PAUSES[tries - 1]
        log.warning(f"{path} cannot be read: {why}. Trying again in {pause} s.")
        _wait(pause, stop)
        tries += 1


def resumed(
    make: Callable[[int], Iterator[T]],
    numbers: Iterable[int],
    files_of: Callable[[int], ImageFiles],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[T]:
    """The elements of an iterator that is made anew where an image could not be read.

    Args:
        make: from a number to the iterator whose first element is that of the number.
        numbers: of the elements.
        files_of: from a number to the images that its element is made of.
        stop: as for patiently.

    Raises:
        As patiently does.
    """
    elements: Iterator[T] | None = None

    def load(number: int) -> T:
        nonlocal elements
        try:
            elements = elements or make(number)
            return next(elements)
        except tf.errors.OpError:
            elements = None
            raise

    for number in numbers:
        yield patiently(partial(load, number), partial(files_of, number), stop)


def bad_image(image: ImageFiles) -> pictures.UnreadableError | None:
    """The error about a file that is no image, or has not all of the box; None for a good one.

    Args:
        image: one.

    Raises:
        pictures.UnreadableError for a file that cannot be read: it may be a good image.
    """
    return patiently(lambda: _look(image, 0), lambda: image)


def _look(images: ImageFiles, row: int) -> pictures.UnreadableError | None:
    """As bad_image, without patience: tf.errors.OpError is what may pass."""
    path = str(images.paths[row])
    try:
        encoded = tf.io.read_file(path).numpy()
    except tf.errors.NotFoundError as error:
        raise pictures.out_of_reach(path, _without_name(path, error)) from None
    why = decoding.fault(encoded)
    if why:
        return pictures.unreadable(path, why)
    box = images.box(row)
    try:
        if box:
            header = pictures.read_header(encoded)
            pictures.check_box(path, box, header.width, header.height)
    except pictures.UnreadableError as error:
        return error
    return None


def _passing_fault(error: tf.errors.OpError, images: ImageFiles) -> tuple[str, str]:
    """The path and the fault of an image that may be read later.

    Raises:
        pictures.UnreadableError for an image with another fault; `error` where no image has one.
    """
    text = str(error)
    # The file system's errors begin so.
    named = [row for row, path in enumerate(images.paths) if f"{path}; " in text]
    for row in named or range(len(images)):
        try:
            bad = _look(images, row)
        except tf.errors.OpError as passing:
            path = str(images.paths[row])
            return path, _without_name(path, passing)
        if bad:
            raise bad
    if named:  # it has passed already
        path = str(images.paths[named[0]])
        return path, _without_name(path, error)
    raise error


def _without_name(path: str, error: tf.errors.OpError) -> str:
    """What the system says of the file: without its path, and where in the graph it was read."""
    _, found, rest = str(error).partition(f"{path}; ")
    return _GRAPH.split(rest)[0].strip() if found else reason(error)


def _wait(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stop() and time.monotonic() < end:
        time.sleep(0.1)
