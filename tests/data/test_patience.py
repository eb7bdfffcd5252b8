import re

import numpy as np
import pytest
import tensorflow as tf
from golden_images import NET, NUMBERS, PATHS, exact

from data import images, patience, pictures
from data.dataset import ImageFiles
from runtime import terminal


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made, which take no time; a test may put functions into `.then`, which
    are called one after the other, one in each pause.
    """
    made = Pauses()
    monkeypatch.setattr(patience, "_wait", made.wait)
    return made


class Pauses(list):
    def __init__(self):
        super().__init__()
        self.then = []

    def wait(self, seconds, stop):
        self.append(seconds)
        if self.then:
            self.then.pop(0)()


@pytest.fixture
def links(tmp_path):
    """Links to PATHS, and a function that makes one of them lead to itself or back."""
    paths = [tmp_path / f"{number}.jpg" for number in range(len(PATHS))]

    def lead(number, target=None):
        paths[number].unlink(missing_ok=True)
        paths[number].symlink_to(target or PATHS[number])

    for number in range(len(PATHS)):
        lead(number)
    return [str(path) for path in paths], lead


LOOP = "Too many levels of symbolic links"


def load(paths):
    return np.concatenate(list(images.test_batches(paths, 3, 2, NET)))


def test_an_image_that_can_be_read_later_is_waited_for(links, pauses, capfd):
    terminal.setup_logging("test")
    paths, lead = links
    expected = load(paths)
    for number in (1, 7):
        lead(number, paths[number])
    pauses.then = [lambda: None, lambda: lead(1), lambda: lead(7)]
    exact(load(paths), expected)
    exact(expected, [NUMBERS[f"{name}/net"] for name in _names()])
    assert pauses == [1, 2, 1]
    lines = re.findall(r"test: (.*)", capfd.readouterr().err)
    assert lines == [
        f"{paths[number]} cannot be read: {LOOP}. Trying again in {seconds} s."
        for number, seconds in ((1, 1), (1, 2), (7, 1))
    ]


def _names():
    return [path.rpartition("/")[2] for path in PATHS]


def test_after_all_tries_the_file_the_reason_and_the_remedy_are_told(links, pauses):
    paths, lead = links
    lead(4, paths[4])
    with pytest.raises(
        pictures.UnreadableError,
        match=f"4.jpg cannot be read, in 7 tries: {LOOP}. Look whether its disk.*--resume",
    ):
        load(paths)
    assert pauses == [1, 2, 4, 8, 16, 32]


def test_whoever_is_to_stop_waits_no_longer(links, pauses):
    paths, lead = links
    lead(0, paths[0])
    with pytest.raises(pictures.UnreadableError, match=f"0.jpg cannot be read: {LOOP}"):
        patience.patiently(
            lambda: tf.io.read_file(paths[0]), lambda: ImageFiles(paths), stop=lambda: True
        )
    assert pauses == []
    patience._wait(1000, stop=lambda: True)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda path: path.unlink(), "2.jpg cannot be read: No such file or directory. Look"),
        (lambda path: path.write_bytes(b""), "2.jpg cannot be read: .*empty.*Repair it"),
    ],
)
def test_what_does_not_pass_is_told_at_once(spoil, words, links, pauses, tmp_path):
    paths, _ = links
    (tmp_path / "2.jpg").unlink()
    (tmp_path / "2.jpg").touch()
    spoil(tmp_path / "2.jpg")
    with pytest.raises(pictures.UnreadableError, match=words):
        load(paths)
    assert pauses == []


@pytest.mark.parametrize(
    "end", ["", " [Op:ReadFile]", "\n\t [[{{node ReadFile}}]]\n\t [[RemoteCall]] [Op:Next] name: "]
)
@pytest.mark.parametrize(
    "kind, reason",
    [
        (tf.errors.UnavailableError, "Stale file handle"),
        (tf.errors.DeadlineExceededError, "Connection timed out"),
        (tf.errors.UnknownError, "Input/output error"),
        (tf.errors.PermissionDeniedError, "Permission denied"),
        (tf.errors.ResourceExhaustedError, "Too many open files"),
        (tf.errors.NotFoundError, "No such file or directory"),
    ],
)
def test_an_error_that_has_passed_when_it_is_looked_at(kind, reason, end, pauses, capfd):
    terminal.setup_logging("test")
    errors = [kind(None, None, f"{{{{node ReadFile}}}} {PATHS[3]}; {reason}{end}")]

    def load_once_more():
        if errors:
            raise errors.pop()
        return "loaded"

    assert patience.patiently(load_once_more, lambda: ImageFiles(PATHS)) == "loaded"
    assert pauses == [1]
    assert f"{PATHS[3]} cannot be read: {reason}. Trying" in capfd.readouterr().err


def test_an_error_of_another_kind_is_left_as_it_is(pauses):
    def load_too_much():
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    with pytest.raises(tf.errors.ResourceExhaustedError, match="no memory"):
        patience.patiently(load_too_much, lambda: ImageFiles(PATHS))
    assert pauses == []


def test_a_passing_error_makes_no_bad_image(links, pauses, tmp_path):
    paths, lead = links
    (tmp_path / "3.jpg").unlink()
    (tmp_path / "3.jpg").write_bytes(b"no image")
    lead(5, paths[5])
    pauses.then = [lambda: lead(5)]
    good = images.decodable(paths, 4)
    assert np.flatnonzero(~good).tolist() == [3] and pauses == [1]
    lead(5, paths[5])
    with pytest.raises(pictures.UnreadableError, match="5.jpg cannot be read, in 7 tries"):
        images.decodable(paths, 4)


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
def test_what_is_cached_is_waited_for(cache, links, pauses):
    paths, lead = links
    lead(2, paths[2])
    pauses.then = [lambda: lead(2)]
    read = images.reader(paths, images.Loading(2, cache)).of
    exact(images.resize(read(2), NET), NUMBERS[f"{_names()[2]}/net"])
    assert pauses == [1]
