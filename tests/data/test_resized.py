"""Images on disk, as they are resized: the same as without, whatever happened to the file."""

import functools
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from image_kinds import oriented
from PIL import Image

from common import UserError
from data import augment, images, pictures, resized
from data.dataset import ImageFiles
from data.images import Loading
from data.resized import Stored
from runtime import files

SIZE = 9, 7  # 189 bytes, which are no multiple of 8
N = 6


@pytest.fixture
def photos(tmp_path):
    """Files of several kinds and sizes; a box of one, and some turned."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    paths = []
    for number in range(N):
        pixels = rng.integers(0, 256, (40 + number, 30, 3), np.uint8)
        path = tmp_path / "photos" / f"{number}.png"
        if number % 2:
            path.write_bytes(oriented(number, Image.fromarray(pixels), quality=95))
        else:
            Image.fromarray(pixels).save(path)
        paths.append(str(path))
    boxes = np.zeros((N, 4), np.int32)
    boxes[2] = 3, 5, 24, 32
    return ImageFiles(paths, boxes, upright=True)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "deep"


@pytest.fixture
def loaded(monkeypatch):
    """The numbers of the images that are loaded to be written, call by call."""
    calls = []
    load = images.test_batches

    def record(files, *args):
        calls.append([int(os.path.basename(path)[0]) for path in files.paths])
        return load(files, *args)

    monkeypatch.setattr(images, "test_batches", record)
    return calls


@pytest.fixture
def told(monkeypatch):
    """The warnings."""
    lines = []
    log = SimpleNamespace(warning=lines.append, info=lambda line: None)
    monkeypatch.setattr(resized, "log", log)
    return lines


@functools.cache
def loader(reduced):
    """Traced once."""
    return images.make_loader(SIZE, upright=True, reduced=reduced)


def expected(photos, reduced=False):
    load = loader(reduced)
    return np.rint(images.load_few(photos, load)).astype(np.uint8)


def stored_images(photos, folder, reduced=False):
    read = resized.reader(Stored(photos, SIZE, reduced), folder, 2)
    return np.array([read(tf.constant(row)) for row in range(len(photos))])


def the_file(folder, suffix=".resized"):
    (path,) = [path for path in folder.iterdir() if path.suffix == suffix]
    return path


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 8
    path.write_bytes(content)


def later(path):
    """Let a file look as if it was written a second later."""
    state = os.stat(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))


@pytest.mark.parametrize("reduced", [False, True])
def test_images_are_those_of_their_files_rounded(photos, folder, reduced):
    found = stored_images(photos, folder, reduced)
    np.testing.assert_array_equal(found, expected(photos, reduced))
    assert the_file(folder).stat().st_size == N * (192 + 24) + 4096
    assert [path.name for path in folder.iterdir()] == [the_file(folder).name]


def test_a_second_training_loads_nothing(photos, folder, loaded):
    first = stored_images(photos, folder)
    np.testing.assert_array_equal(stored_images(photos, folder), first)
    assert loaded == [list(range(N))]


def stream(photos, loading):
    crops = augment.Augmentation((8, 6), SIZE, random_flip=True)
    plan = np.random.default_rng(0).integers(0, N, (3, 4))
    return list(images.training_batches(enumerate(plan), 4, photos, 1, crops, loading))


def test_an_accelerator_is_given_the_same_bits(photos, folder):
    read = resized.reader(Stored(photos, SIZE), folder, 2)
    plain = stream(photos, Loading(2, finished=False))
    cached = stream(photos, Loading(2, finished=False, stored=read))
    for (one, rows), (other, other_rows) in zip(plain, cached, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_array_equal(rows, other_rows)


def test_a_cpu_is_given_the_same_rounded(photos, folder, tmp_path):
    """Bit for bit what images of this size give, where nothing is left to resize."""
    small = []
    for number, pixels in enumerate(expected(photos)):
        small.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(small[-1])
    read = resized.reader(Stored(photos, SIZE), folder, 2)
    cached = stream(photos, Loading(2, stored=read))
    for (one, _), (other, _), (near, _) in zip(
        stream(ImageFiles(small), Loading(2)), cached, stream(photos, Loading(2)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert np.abs(near - other).max() <= 0.5
    # Images of that size already are the same with the cache and without.
    own = resized.reader(Stored(ImageFiles(small), SIZE), folder, 2)
    np.testing.assert_array_equal([own(tf.constant(row)) for row in range(N)], expected(photos))


def test_images_whose_files_have_changed_are_written_anew(photos, folder, loaded):
    stored_images(photos, folder)
    Image.new("RGB", (30, 30), "red").save(photos.paths[4])
    later(photos.paths[1])
    found = stored_images(photos, folder)
    np.testing.assert_array_equal(found, expected(photos))
    assert (found[4] == [255, 0, 0]).all()
    assert loaded[1:] == [[1, 4]]


def test_a_training_that_has_the_file_open_keeps_it(photos, folder):
    read = resized.reader(Stored(photos, SIZE), folder, 2)
    before = read(tf.constant(4)).numpy()
    Image.new("RGB", (30, 30), "red").save(photos.paths[4])
    stored_images(photos, folder)
    np.testing.assert_array_equal(read(tf.constant(4)), before)


def test_what_a_kill_has_left_is_gone_on_with(photos, folder, loaded, monkeypatch):
    monkeypatch.setattr(resized, "_AT_A_TIME", 2)
    write = resized._write
    written = []

    def write_until_killed(file, content):
        if len(written) == 9:  # four images and their records; the fifth without
            raise KeyboardInterrupt
        written.append(len(content))
        write(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(resized, "_write", write_until_killed)
        with pytest.raises(KeyboardInterrupt):
            stored_images(photos, folder)
    flip(the_file(folder, ".building"), 192 + 5)  # as a power cut may leave it
    np.testing.assert_array_equal(stored_images(photos, folder), expected(photos))
    assert loaded == [list(range(N)), [1, 4, 5]]
    assert [path.name for path in folder.iterdir()] == [the_file(folder).name]


def test_a_damaged_image_is_read_from_its_file(photos, folder, loaded, told):
    stored_images(photos, folder)
    for at in (2 * 192 + 7, 3 * 192 + 188):
        flip(the_file(folder), at)
    np.testing.assert_array_equal(stored_images(photos, folder), expected(photos))
    assert len(loaded) == 1 and len(told) == 1
    assert re.search(r"resized is damaged.*Remove it", told[0])
    content = the_file(folder).read_bytes()
    the_file(folder).write_bytes(bytes(192) + content[192:])
    np.testing.assert_array_equal(stored_images(photos, folder), expected(photos))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: 3 * 192],
        lambda content: content[: N * 192] + b"\1" + content[N * 192 + 1 :],  # a record
        lambda content: content.replace(b'"format": 1', b'"format": 2'),
    ],
)
def test_a_damaged_file_is_told_and_written_anew(damage, photos, folder, told):
    stored_images(photos, folder)
    path = the_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(stored_images(photos, folder), expected(photos))
    assert told == [f"{path} is damaged, and is written anew."]
    np.testing.assert_array_equal(stored_images(photos, folder), expected(photos))
    assert len(told) == 1


def test_too_little_room_is_told_before(photos, folder, loaded, monkeypatch):
    usage = SimpleNamespace(free=4096)
    monkeypatch.setattr(resized.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"needs 0\.0 GB for 6 images of 9x7 .* --cache_dir"):
        stored_images(photos, folder)
    assert loaded == [] and list(folder.iterdir()) == []
    usage.free = 2**20
    stored_images(photos, folder)


def test_a_bad_image_is_named_and_the_rest_is_kept(photos, folder, loaded, monkeypatch):
    monkeypatch.setattr(resized, "_AT_A_TIME", 2)
    photo = Path(photos.paths[3])
    good = photo.read_bytes()
    photo.write_bytes(b"no image at all")
    with pytest.raises(pictures.UnreadableError, match=r"3\.png cannot be read: it is of an unkn"):
        stored_images(photos, folder)
    photo.write_bytes(good)
    np.testing.assert_array_equal(stored_images(photos, folder), expected(photos))
    assert loaded[1][-4:] == [2, 3, 4, 5]
    os.remove(photos.paths[5])
    with pytest.raises(pictures.UnreadableError, match=r"5\.png"):
        stored_images(photos, folder)


def test_what_decides_on_the_pixels_decides_on_the_file(photos):
    others = [
        Stored(photos, SIZE),
        Stored(photos, (7, 9)),
        Stored(photos, SIZE, reduced=True),
        Stored(ImageFiles(photos.paths, photos.boxes), SIZE),
        Stored(ImageFiles(photos.paths, None, upright=True), SIZE),
        Stored(photos.select([1, 0, 2, 3, 4, 5]), SIZE),
    ]
    digests = [each.digest() for each in others]
    assert len(set(digests)) == len(digests)
    relative = [os.path.relpath(path) for path in photos.paths]
    assert Stored(ImageFiles(relative, photos.boxes, True), SIZE).digest() == digests[0]


def test_one_of_several_writes_and_the_others_wait(photos, folder, loaded):
    found = []

    def look():
        found.append(stored_images(photos, folder))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [list(range(N))]
    for images_of_one in found:
        np.testing.assert_array_equal(images_of_one, expected(photos))
    assert len(found) == 3 and len(list(folder.iterdir())) == 1


def test_who_waits_is_told_once(tmp_path):
    order = []
    began = threading.Event()

    def other():
        with files.alone(tmp_path / "x", lambda: (order.append("waits"), began.set())):
            order.append("other")

    with files.alone(tmp_path / "x", lambda: order.append("never")):
        thread = threading.Thread(target=other)
        thread.start()
        assert began.wait(60)
        order.append("first")
    thread.join()
    assert order == ["waits", "first", "other"]
    assert list(tmp_path.iterdir()) == []


def test_files_of_more_than_4_gigabytes(tmp_path):
    """Of holes: it takes no room."""
    stored = Stored(ImageFiles(["x"] * 40_000), (288, 144))
    path = tmp_path / "large"
    last = np.arange(stored.words, dtype=np.int64)
    with open(path, "wb") as file:
        file.seek(8 * stored.words * 39_999)
        file.write(last.tobytes())
    sums = np.zeros(40_000, np.int64)
    sums[-1:] = resized._sums(last[None])
    read = resized._reader(stored, path, sums)
    np.testing.assert_array_equal(read(tf.constant(39_999)).numpy().ravel(), last.view(np.uint8))
    assert not read(tf.constant(20_000)).numpy().any()
    stream = tf.data.Dataset.from_tensor_slices([39_999, 5]).map(read)
    np.testing.assert_array_equal(next(iter(stream)).numpy().ravel(), last.view(np.uint8))
