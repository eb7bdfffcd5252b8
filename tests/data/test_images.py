import re

import numpy as np
import pytest
import tensorflow as tf
from golden_images import FILES, NET, NUMBERS, PATHS, PRE, exact, load, reference_resize
from paths import GOLDEN
from PIL import Image

import common
from data import augment, images, patience, pictures
from data.augment import Augmentation
from data.dataset import ImageFiles
from data.images import Loading


@pytest.mark.parametrize("name", FILES)
def test_resized_images_are_the_originals(name):
    image = load(name)
    assert image.dtype == tf.uint8 and image.shape[2] == 3
    exact(images.resize(image, NET), NUMBERS[f"{name}/net"])
    exact(images.resize(image, PRE), NUMBERS[f"{name}/pre"])
    exact(images.resize(image, (256, 128))[::16, ::16], NUMBERS[f"{name}/up_sample"])


@pytest.mark.parametrize(
    "old, new", [((5, 7), (5, 7)), ((5, 7), (3, 4)), ((3, 4), (8, 9)), ((1, 1), (2, 3))]
)
def test_resize_is_the_rule_written_out(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3)).astype(np.uint8)
    resized = images.resize(tf.constant(image), new)
    assert resized.dtype == tf.float32
    np.testing.assert_allclose(resized, reference_resize(image, new), atol=1e-3)


# ------------------------------------------------------------------------- batches

CROPS = Augmentation(NET, PRE, random_flip=True)
PADDED = Augmentation(NET, random_flip=True, pad_crop=5)
PARTS = Augmentation(NET, random_flip=True, least_area=0.2, aspect=1.5)
ALL = PADDED._replace(color_jitter=0.4, random_erasing=0.9)
MORE = PARTS._replace(rotation=20.0, trivial_augment=0.9, gray=0.3, blur=0.5)
PLAN = np.random.default_rng(0).integers(0, len(PATHS), (12, 6))  # batches of images of all sizes
WAYS = pytest.mark.parametrize("finished", [True, False], ids=["cpu", "accelerator"])


def finished_batches(batches, augmentation, loading):
    """The batches as arrays; the last step of those that are not finished is done here."""
    if not loading.finished:
        batches = batches.map(lambda batch, rows: (augment.finish(batch, augmentation), rows))
    return list(batches.as_numpy_iterator())


def training_stream(start, loading, augmentation=ALL, **options):
    """The batches of PLAN from number `start` on."""
    batches = enumerate(PLAN[start:], start)
    stream = images.training_batches(batches, 6, PATHS, 9, augmentation, loading, **options)
    return finished_batches(stream, augmentation, loading)


def training_batch_of(files, rows, cache):
    """One batch, as a training loads it."""

    def make(iteration):
        batches = [(iteration, np.array(rows))]
        loading = Loading(2, cache)
        return iter(images.training_batches(batches, len(rows), files, 1, CROPS, loading))

    (batch,) = patience.resumed(make, [0], lambda _: files.select(rows))
    return batch


def equal(got, expected):
    for (pixels, rows), (expected_pixels, expected_rows) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(pixels, expected_pixels)
        np.testing.assert_array_equal(rows, expected_rows)


def test_training_batches_are_what_the_plan_says():
    batches = training_stream(0, Loading(4), CROPS)
    assert len(batches) == 12
    for iteration, (pixels, rows) in enumerate(batches):
        np.testing.assert_array_equal(rows, PLAN[iteration])
        flips, corners = augment.flips_and_corners(9, iteration, 6, (8, 4), random_flip=True)
        for pixel, row, flipped, (top, left) in zip(pixels, rows, flips, corners, strict=True):
            image = NUMBERS[f"{FILES[row]}/flip"][int(flipped)]
            exact(pixel, image[top : top + 64, left : left + 32])


@WAYS
@pytest.mark.parametrize("augmentation", [ALL, MORE], ids=["all", "more"])
def test_a_stream_started_later_is_the_tail_whatever_the_threads(finished, augmentation):
    whole = training_stream(0, Loading(4, finished=finished), augmentation)
    for threads in (1, 8):
        tail = training_stream(7, Loading(threads, finished=finished), augmentation)
        assert len(tail) == 5
        equal(tail, whole[7:])


def test_random_parts_are_cut_out_and_resized():
    batches = training_stream(0, Loading(4), PARTS)
    for iteration, (pixels, rows) in enumerate(batches[:4]):
        flips, _ = augment.flips_and_corners(9, iteration, 6, (0, 0), random_flip=True)
        drawn = augment.parts(9, iteration, 6, 0.2, 1.5)
        for pixel, row, flipped, part in zip(pixels, rows, flips, drawn, strict=True):
            image = load(FILES[row]).numpy()
            top, left, bottom, right = np.rint(part * np.tile(image.shape[:2], 2)).astype(int)
            cut = reference_resize(image[top:bottom, left:right], NET)
            expected = cut[:, ::-1] if flipped else cut
            np.testing.assert_allclose(pixel, expected, atol=5e-3)


@WAYS
@pytest.mark.parametrize("cache", ["none", "encoded", "decoded"])
def test_mirrored_copies_are_mirrored_whatever_else_is_done(finished, cache):
    """A copy of an image at the same place of a batch is its mirror image, without random flips."""
    count = len(PATHS)
    files = ImageFiles(PATHS * 2, mirrored=np.arange(2 * count) >= count)
    loading = Loading(2, cache, finished)
    plain = Augmentation(NET)

    def stream(rows):
        batches = images.training_batches([(4, np.array(rows))], 6, files, 9, plain, loading)
        ((pixels, got),) = finished_batches(batches, plain, loading)
        np.testing.assert_array_equal(got, rows)
        return pixels

    of_images, of_copies = stream([0, 1, 2, 3, 4, 5]), stream([0, 9, 2, 11, 12, 5])
    np.testing.assert_array_equal(of_copies[[0, 2, 5]], of_images[[0, 2, 5]])
    np.testing.assert_allclose(of_copies[[1, 3, 4]], of_images[[1, 3, 4], :, ::-1], atol=1e-3)


@pytest.mark.parametrize(
    "augmentation", [CROPS, PADDED, Augmentation(NET), Augmentation((256, 128)), PARTS]
)
def test_the_way_of_an_accelerator_is_within_half_a_gray_level(augmentation):
    expected = training_stream(0, Loading(4), augmentation)
    got = training_stream(0, Loading(4, finished=False), augmentation)
    for (pixels, rows), (expected_pixels, expected_rows) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_allclose(pixels, expected_pixels, rtol=0, atol=0.5 + 1e-3)


@WAYS
@pytest.mark.parametrize(
    "shards",
    [(slice(0, 3), slice(3, 6)), (slice(4, 6), slice(0, 2)), [slice(i, i + 1) for i in range(6)]],
    ids=["halves", "some", "images"],
)
def test_shards_are_parts_of_what_one_device_sees(finished, shards):
    loading = Loading(4, finished=finished)
    whole = training_stream(0, loading)
    parts = training_stream(0, loading, shards=shards)
    equal(parts, [(pixels[shard], rows) for pixels, rows in whole for shard in shards])


def test_images_of_other_shards_are_not_read(tmp_path):
    paths = [PATHS[0], str(tmp_path / "missing.jpg")]
    rows = [np.array([0, 0, 1, 1])] * 3
    batches = images.training_batches(
        enumerate(rows), 4, paths, 1, CROPS, Loading(2), shards=[slice(0, 2)]
    )
    assert [pixels.shape for pixels, _ in batches] == [(2, *NET, 3)] * 3


@WAYS
@pytest.mark.parametrize("cache", ["encoded", "decoded"])
def test_cached_images_are_the_same_and_need_no_file(tmp_path, cache, finished):
    paths = [tmp_path / name for name in FILES]
    for path in paths:
        path.write_bytes((GOLDEN / "images" / path.name).read_bytes())
    loading = Loading(3, cache, finished)
    names = np.array([str(path) for path in paths], dtype=object)
    batches = images.training_batches(enumerate(PLAN), 6, names, 9, ALL, loading)
    for path in paths:
        path.unlink()
    equal(
        finished_batches(batches, ALL, loading),
        training_stream(0, Loading(4, finished=finished)),
    )


def test_test_batches_keep_the_order_and_bound_the_batch():
    batches = list(images.test_batches(PATHS, 3, 3, NET))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    exact(np.concatenate(batches), [NUMBERS[f"{name}/net"] for name in FILES])


def test_pipelines_share_a_function_that_is_traced_once():
    size = (21, 13)  # of no other test
    for batch_size in (3, 5):
        assert len(np.concatenate(list(images.test_batches(PATHS, batch_size, 2, size)))) == 8
    of_paths = images.make_loader(size, False, False)
    images.load_few(ImageFiles(PATHS[:2]), of_paths)
    for each in (of_paths, images.make_decoder(size, False, False)):
        assert each.experimental_get_tracing_count() == 1


# ------------------------------------------------------------------------- boxes


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """Images as boxes of two sheets and one whole, and the same as files that were cut out before."""
    folder = tmp_path_factory.mktemp("boxed")
    rng = np.random.default_rng(3)
    boxes = np.int32(
        [[0, 0, 50, 40], [7, 5, 8, 90], [0, 0, 0, 0], [59, 69, 60, 70], [3, 3, 40, 60]]
    )
    sheets = [0, 1, 1, 0, 0]
    paths = [str(folder / f"sheet{sheet}.png") for sheet in sheets]
    cut = [str(folder / f"{row}.png") for row in range(len(boxes))]
    pixels = rng.integers(0, 256, (2, 100, 60, 3), np.uint8)
    for sheet in range(2):
        Image.fromarray(pixels[sheet]).save(folder / f"sheet{sheet}.png")
    for path, sheet, (x1, y1, x2, y2) in zip(cut, sheets, boxes, strict=True):
        part = pixels[sheet, y1:y2, x1:x2] if x2 else pixels[sheet]
        Image.fromarray(part).save(path)
    return ImageFiles(np.array(paths, dtype=object), boxes), ImageFiles(cut)


@WAYS
@pytest.mark.parametrize("cache", ["none", "encoded", "decoded"])
def test_boxes_are_images_that_were_cut_out_before(boxed, cache, finished):
    plan = np.random.default_rng(0).integers(0, 5, (4, 6))

    def stream(files, cache):
        loading = Loading(3, cache, finished)
        batches = images.training_batches(enumerate(plan), 6, files, 9, ALL, loading)
        return finished_batches(batches, ALL, loading)

    equal(stream(boxed[0], cache), stream(boxed[1], "none"))


def test_boxes_that_are_to_be_embedded(boxed):
    parts, cut = (np.concatenate(list(images.test_batches(each, 2, 2, NET))) for each in boxed)
    np.testing.assert_array_equal(parts, cut)
    load = images.make_loader(NET)
    few = images.load_few(boxed[0], load)
    np.testing.assert_array_equal(few, cut)


def test_a_box_beyond_its_image_is_told(boxed):
    paths, boxes = boxed[0].paths, boxed[0].boxes.copy()
    boxes[3, 2] = 61
    files = ImageFiles(paths, boxes)
    words = r"the box 59,69,61,70 of .*sheet0.png is not within the image, which is 60 pixels wide.*Correct"
    for cache in ("none", "decoded"):
        with pytest.raises(pictures.UnreadableError, match=words):
            training_batch_of(files, [1, 3], cache)
    with pytest.raises(common.UserError, match=words):
        images.load_few(files, images.make_loader(NET))
    assert images.decodable(files, 2).tolist() == [True, True, True, False, True]
    with pytest.raises(common.UserError, match=words):
        pictures.check_sample(files)
    pictures.check_sample(boxed[0])


# ------------------------------------------------------------------------- bad images


@pytest.fixture
def bad_path(tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"no image at all")
    return str(path)


IS_NAMED = pytest.raises(
    pictures.UnreadableError,
    match=r"bad\.jpg cannot be read: it is of an unknown kind.*take its line out",
)


@pytest.mark.parametrize("cache", ["none", "encoded", "decoded"])
def test_a_bad_image_is_named_whatever_is_cached(bad_path, cache):
    with IS_NAMED:
        training_batch_of(ImageFiles([*PATHS, bad_path]), [1, 8], cache)


def test_a_bad_image_that_is_to_be_embedded_is_named(bad_path):
    paths = [*PATHS[:2], bad_path]
    with IS_NAMED:
        list(images.test_batches(paths, 4, 2, NET))


@pytest.mark.parametrize(
    "message, words",
    [
        ("x.jpg; Too many open files", "too many files are open .*ulimit -n"),
        ("a/checkpoint; No space left on device", "the disk is full"),
        (
            "OOM when allocating tensor with shape[4]",
            "out of memory .*--batch_p.*--memory_batches.*--resume",
        ),
        ("Resource was exhausted somehow", "out of memory"),
    ],
)
def test_what_tensorflow_ran_out_of_is_told(message, words):
    told = common.exhausted(tf.errors.ResourceExhaustedError(None, None, message))
    assert re.search(words, told)
    assert common.exhausted(tf.errors.NotFoundError(None, None, "x.jpg")) is None


def test_images_that_cannot_be_decoded_are_found(tmp_path):
    whole = (GOLDEN / "images" / "a_128x64.jpg").read_bytes()
    bad = {"empty": b"", "text": b"hello", "cut": whole[:-600], "tiff": b"II*\0" + bytes(60)}
    paths = [*PATHS[:3]]
    for name, content in bad.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        paths += [str(tmp_path / f"{name}.jpg"), PATHS[3]]
    for threads in (1, 8):
        good = images.decodable(paths, threads)
        assert np.flatnonzero(~good).tolist() == [3, 5, 7, 9] and len(good) == len(paths)
