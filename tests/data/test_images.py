import io

import numpy as np
import pytest
import tensorflow as tf
from paths import GOLDEN
from PIL import Image

import common
from data import images

NUMBERS = np.load(GOLDEN / "images_golden.npz")
FILES = sorted(path.name for path in (GOLDEN / "images").iterdir())
NET, PRE = (64, 32), (72, 36)


def load(name):
    return images.decode(tf.io.read_file(str(GOLDEN / "images" / name)))


def exact(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def reference_resize(image, size):
    """TensorFlow 1's bilinear rule written out: sample at i · old/new, clamp at the border."""
    image = image.astype(np.float64)
    for axis, new in enumerate(size):
        old = image.shape[axis]
        at = np.arange(new) * old / new
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image


@pytest.mark.parametrize("name", FILES)
def test_resized_flipped_and_cropped_images_are_the_originals(name):
    image = load(name)
    assert image.dtype == tf.uint8 and image.shape[2] == 3
    pre = images.resize(image, PRE)
    exact(images.resize(image, NET), NUMBERS[f"{name}/net"])
    exact(pre, NUMBERS[f"{name}/pre"])
    exact(images.resize(image, (256, 128))[::16, ::16], NUMBERS[f"{name}/up_sample"])
    exact(images.five_crops(pre, NET), NUMBERS[f"{name}/five_crops"])
    exact([pre, images.flip(pre)], NUMBERS[f"{name}/flip"])


@pytest.mark.parametrize(
    "old, new", [((5, 7), (5, 7)), ((5, 7), (3, 4)), ((3, 4), (8, 9)), ((1, 1), (2, 3))]
)
def test_resize_is_the_rule_written_out(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3)).astype(np.uint8)
    resized = images.resize(tf.constant(image), new)
    assert resized.dtype == tf.float32
    np.testing.assert_allclose(resized, reference_resize(image, new), atol=1e-3)


def test_variants_and_their_names():
    image = load("a_128x64.jpg")
    pre, net = images.resize(image, PRE).numpy(), images.resize(image, NET).numpy()
    five = images.five_crops(pre, NET).numpy()
    five_flipped = images.five_crops(pre[:, ::-1], NET).numpy()
    crops = ["center", "top_left", "top_right", "bottom_left", "bottom_right"]
    expected = {
        (False, None): (["original_resize"], [net]),
        (True, None): (["original_resize", "original_flip_resize"], [net, net[:, ::-1]]),
        (False, "center"): (["original_center"], [five[0]]),
        (True, "center"): (["original_center", "original_flip_center"], [five[0], five_flipped[0]]),
        (False, "avgpool"): (["original_avgpool"], [pre]),
        (True, "avgpool"): (["original_avgpool", "original_flip_avgpool"], [pre, pre[:, ::-1]]),
        (False, "five"): ([f"original_{crop}" for crop in crops], five),
        (True, "five"): (
            [f"original_{crop}" for crop in crops] + [f"original_flip_{crop}" for crop in crops],
            np.concatenate([five, five_flipped]),
        ),
    }
    for (flip, crop), (names, pixels) in expected.items():
        assert images.variant_names(flip, crop) == names
        resized = images.resize(image, PRE if crop else NET)
        exact(images.variants(resized, NET, flip, crop), pixels)
        exact(
            images.variants(tf.stack([resized, -resized]), NET, flip, crop),
            [pixels, np.negative(pixels)],
        )


def test_augmentation_is_a_function_of_seed_and_iteration():
    def draw(seed, iteration, count=2000):
        flips, corners = images.augmentations(seed, iteration, count, (8, 4), random_flip=True)
        return np.column_stack([flips, corners])

    np.testing.assert_array_equal(draw(1, 5), draw(1, 5))
    assert (draw(1, 5) != draw(1, 6)).any() and (draw(1, 5) != draw(2, 5)).any()
    flips, tops, lefts = draw(1, 5).T
    assert abs(flips.mean() - 0.5) < 0.05
    # Every corner from 0 to the room, both ends included, about equally often.
    assert set(tops) == set(range(9)) and set(lefts) == set(range(5))
    assert np.bincount(tops).min() > 150 and np.bincount(lefts).min() > 300


def test_without_augmentation_nothing_is_flipped_or_cropped():
    flips, corners = images.augmentations(1, 2, 100, (0, 0), random_flip=False)
    assert not flips.any() and not corners.any()


PATHS = [str(GOLDEN / "images" / name) for name in FILES]
CROPS = images.Augmentation(NET, PRE, random_flip=True)
PADDED = images.Augmentation(NET, random_flip=True, pad_crop=5)
ALL = PADDED._replace(color_jitter=0.4, random_erasing=0.9)


def training_stream(start, threads=4, augmentation=CROPS, paths=PATHS, **options):
    """12 batches of 6 images of all sizes."""
    rows = np.random.default_rng(0).integers(0, len(PATHS), (12, 6))
    batches = images.training_batches(
        rows[start:], 6, paths, 9, start, augmentation, threads, **options
    )
    if not options.get("finished", True):
        batches = batches.map(lambda batch, rows: (images.finish(batch, augmentation), rows))
    return rows[start:], [(pixels.numpy(), row.numpy()) for pixels, row in batches]


def equal(got, expected):
    for (pixels, rows), (expected_pixels, expected_rows) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(pixels, expected_pixels)
        np.testing.assert_array_equal(rows, expected_rows)


def test_training_batches_are_what_the_plan_says():
    plan, batches = training_stream(0)
    assert len(batches) == 12
    for iteration, (pixels, rows) in enumerate(batches):
        np.testing.assert_array_equal(rows, plan[iteration])
        flips, corners = images.augmentations(9, iteration, 6, (8, 4), random_flip=True)
        for pixel, row, flipped, (top, left) in zip(pixels, rows, flips, corners, strict=True):
            image = NUMBERS[f"{FILES[row]}/flip"][int(flipped)]
            exact(pixel, image[top : top + 64, left : left + 32])


@pytest.mark.parametrize("threads, finished", [(1, True), (8, True), (1, False), (8, False)])
def test_a_stream_started_later_is_the_tail_whatever_the_threads(threads, finished):
    _, whole = training_stream(0, augmentation=ALL, finished=finished)
    _, tail = training_stream(7, threads, ALL, finished=finished)
    assert len(tail) == 5
    equal(tail, whole[7:])


@pytest.mark.parametrize(
    "augmentation", [CROPS, PADDED, images.Augmentation(NET), images.Augmentation((256, 128))]
)
def test_the_way_of_an_accelerator_is_within_half_a_grey_level(augmentation):
    _, expected = training_stream(0, augmentation=augmentation)
    _, got = training_stream(0, augmentation=augmentation, finished=False)
    for (pixels, rows), (expected_pixels, expected_rows) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_allclose(pixels, expected_pixels, rtol=0, atol=0.5 + 1e-3)


@pytest.mark.parametrize("finished", [True, False])
def test_shards_are_parts_of_what_one_device_sees(finished):
    _, whole = training_stream(0, augmentation=ALL, finished=finished)
    for shards in [
        (slice(0, 3), slice(3, 6)),
        (slice(4, 6), slice(0, 2)),
        [slice(i, i + 1) for i in range(6)],
    ]:
        _, parts = training_stream(0, augmentation=ALL, finished=finished, shards=shards)
        equal(parts, [(pixels[shard], rows) for pixels, rows in whole for shard in shards])


def test_images_of_other_shards_are_not_read(tmp_path):
    paths = [PATHS[0], str(tmp_path / "missing.jpg")]
    rows = [np.array([0, 0, 1, 1])] * 3
    batches = images.training_batches(rows, 4, paths, 1, 0, CROPS, 2, shards=[slice(0, 2)])
    assert [pixels.shape for pixels, _ in batches] == [(2, *NET, 3)] * 3


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
@pytest.mark.parametrize("finished", [True, False])
def test_cached_images_are_the_same_and_need_no_file(tmp_path, cache, finished):
    _, expected = training_stream(0, augmentation=ALL, finished=finished)
    paths = [tmp_path / name for name in FILES]
    for path in paths:
        path.write_bytes((GOLDEN / "images" / path.name).read_bytes())
    rows = np.random.default_rng(0).integers(0, len(PATHS), (12, 6))
    batches = images.training_batches(
        rows,
        6,
        [*map(str, paths)],
        9,
        0,
        ALL,
        3,
        cache=cache,
        shards=[slice(None)],
        finished=finished,
    )
    for path in paths:
        path.unlink()
    if not finished:
        batches = batches.map(lambda batch, rows: (images.finish(batch, ALL), rows))
    equal(batches.as_numpy_iterator(), expected)


@pytest.mark.parametrize("cache", ["none", "encoded", "decoded"])
def test_a_bad_image_is_named_whatever_is_cached(tmp_path, cache):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image at all")
    paths = [*PATHS, str(bad)]
    named = pytest.raises(
        common.UserError, match=r"bad\.jpg cannot be read: Unknown image file format"
    )
    with named, images.naming_bad_images(lambda: paths):
        list(images.training_batches([np.array([1, 8])], 2, paths, 1, 0, CROPS, 2, cache))


def reference_augment(image, flipped, corner, augmentation):
    """Resize, pad, flip, crop, one after the other in float64."""
    image = reference_resize(image, augmentation.resized)
    image = np.pad(image, [(augmentation.pad_crop,) * 2] * 2 + [(0, 0)])
    image = image[:, ::-1] if flipped else image
    (top, left), (height, width) = corner, augmentation.net_size
    return image[top : top + height, left : left + width]


@pytest.mark.parametrize(
    "augmentation", [CROPS, PADDED, images.Augmentation((3, 2), (3, 9)), images.Augmentation(NET)]
)
def test_images_of_mixed_sizes_are_augmented_as_written_out(augmentation):
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (2, 70), (72, 36), (64, 32), (100, 3), (128, 64), (37, 90), (128, 64)]
    batch = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    flips = np.arange(8) % 2 == 0
    corners = rng.integers(0, augmentation.room, (8, 2), endpoint=True).astype(np.int32)
    corners[:4] = (
        np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * augmentation.room
    )  # the corners of the room
    expected = [
        reference_augment(*one, augmentation) for one in zip(batch, flips, corners, strict=True)
    ]

    pixels = np.concatenate([image.reshape(-1, 3) for image in batch])
    got = images.augment_batch(
        pixels, tf.constant(sizes), tf.constant(flips), tf.constant(corners), augmentation
    )
    np.testing.assert_allclose(got, expected, atol=5e-3)
    arguments = zip(map(tf.constant, batch), flips, corners, strict=True)
    got = [images.augment(*one, augmentation) for one in arguments]
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_what_is_drawn_does_not_depend_on_what_else_is_on():
    for iteration in range(3):
        flips, corners = images.augmentations(9, iteration, 50, (10, 10), random_flip=True)
        everything = images.draws(9, iteration, 50, ALL)
        assert everything.keys() == {"flips", "corners", "colors", "holes"}
        for augmentation in (
            PADDED,
            PADDED._replace(color_jitter=0.4),
            PADDED._replace(random_erasing=0.9),
            ALL,
        ):
            drawn = images.draws(9, iteration, 50, augmentation)
            np.testing.assert_array_equal(drawn["flips"], flips)
            np.testing.assert_array_equal(drawn["corners"], corners)
            for name, values in drawn.items():
                np.testing.assert_array_equal(values, everything[name])


def test_color_factors_are_around_one():
    factors = images.color_factors(1, 5, 4000, 0.3)
    assert factors.shape == (4000, 3) and factors.dtype == np.float32
    assert 0.7 <= factors.min() < 0.71 and 1.29 < factors.max() <= 1.3
    np.testing.assert_allclose(factors.mean(axis=0), 1, atol=0.01)
    assert abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.06
    assert (factors != images.color_factors(1, 6, 4000, 0.3)).all()


def test_recolored_images_are_as_written_out():
    rng = np.random.default_rng(0)
    batch = rng.uniform(0, 255, (5, 4, 3, 3))
    factors = np.array([[1, 1, 1], [1.6, 1, 1], [1, 0.4, 1], [1, 1, 0], [1.4, 1.4, 1.4]])
    expected = []
    for image, (brightness, contrast, saturation) in zip(batch, factors, strict=True):
        image = np.clip(image * brightness, 0, 255)
        image = np.clip(
            (image @ [0.299, 0.587, 0.114]).mean() * (1 - contrast) + image * contrast, 0, 255
        )
        grey = (image @ [0.299, 0.587, 0.114])[..., None]
        expected.append(np.clip(grey * (1 - saturation) + image * saturation, 0, 255))
    got = images.recolor(tf.constant(batch, tf.float32), tf.constant(factors, tf.float32))
    np.testing.assert_allclose(got, expected, atol=1e-3)
    np.testing.assert_allclose(got[0], batch[0], atol=1e-3)


@pytest.mark.parametrize("size", [(256, 128), (64, 64), (20, 60), (2, 2)])
def test_holes_have_their_sizes_and_lie_within_the_image(size):
    top, left, bottom, right = images.holes(1, 5, 4000, 0.5, size).T
    heights, widths = bottom - top, right - left
    assert top.min() == 0 and left.min() == 0 and bottom.max() == size[0] and right.max() == size[1]
    erased = heights * widths > 0
    assert abs(erased.mean() - 0.5) < 0.05
    assert (heights[~erased] == 0).all() and (widths[~erased] == 0).all()
    if size[0] >= 64:  # else rounding to pixels says more
        heights, widths = heights[erased], widths[erased]
        area = heights * widths / np.prod(size)
        assert 0.015 < area.min() < 0.03 and 0.36 < area.max() < 0.42
        assert 0.25 < (heights / widths).min() < 0.4 and 2.8 < (heights / widths).max() < 3.8
    never = images.holes(1, 5, 100, 0.0, size)
    np.testing.assert_array_equal(never[:, :2], never[:, 2:])


def test_erased_images_are_as_written_out():
    batch = np.random.default_rng(0).uniform(0, 255, (4, 6, 5, 3)).astype(np.float32)
    rectangles = np.array([[0, 0, 6, 5], [1, 2, 4, 3], [3, 3, 3, 3], [5, 0, 6, 5]], np.int32)
    expected = batch.copy()
    for image, (top, left, bottom, right) in zip(expected, rectangles, strict=True):
        image[top:bottom, left:right] = 123.68, 116.78, 103.94
    np.testing.assert_array_equal(
        images.erase(tf.constant(batch), tf.constant(rectangles)), expected
    )


def test_test_batches_keep_the_order_and_bound_the_batch():
    batches = [batch.numpy() for batch in images.test_batches(PATHS, 3, 3, NET)]
    assert [len(batch) for batch in batches] == [3, 3, 2]
    exact(np.concatenate(batches), [NUMBERS[f"{name}/net"] for name in FILES])


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image at all")
    paths = [*PATHS[:2], str(bad)]
    stream = images.test_batches(paths, 4, 2, NET)
    named = pytest.raises(
        common.UserError,
        match=r"bad\.jpg cannot be read: Unknown image file format.*take its line out",
    )
    with named, images.naming_bad_images(lambda: paths):
        list(stream)


def test_an_error_of_another_kind_is_left_as_it_is():
    unchanged = pytest.raises(tf.errors.ResourceExhaustedError, match="no memory")
    with unchanged, images.naming_bad_images(lambda: PATHS):
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


GRADIENT = Image.fromarray(
    np.uint8(20 + np.indices((32, 24)).sum(0)[..., None] * np.array([3, 2, 4]) % 230)
)
GREY = GRADIENT.convert("L")
GREY_RGB = np.repeat(np.array(GREY)[..., None], 3, axis=2)
# What people have: the file, what it shows, and by how many grey levels its compression may be off
# in the mean.
KINDS = {
    "CMYK JPEG": (
        encoded(GRADIENT.convert("CMYK"), "JPEG", quality=95, subsampling=0),
        np.array(GRADIENT),
        8,
    ),
    "16-bit grey PNG": (
        encoded(Image.fromarray(np.array(GREY).astype(np.uint16) * 257), "PNG"),
        GREY_RGB,
        0,
    ),
    "grey PNG with alpha": (encoded(GREY.convert("LA"), "PNG"), GREY_RGB, 0),
    "PNG with alpha": (encoded(GRADIENT.convert("RGBA"), "PNG"), np.array(GRADIENT), 0),
    "PNG with palette": (encoded(GREY.convert("P"), "PNG"), GREY_RGB, 0),
    "BMP": (encoded(GRADIENT, "BMP"), np.array(GRADIENT), 0),
    "GIF": (encoded(GREY, "GIF"), GREY_RGB, 0),
    "moving GIF": (
        encoded(GREY, "GIF", save_all=True, append_images=[GREY.rotate(180)]),
        GREY_RGB,
        0,
    ),
    "WebP": (encoded(GRADIENT, "WEBP", lossless=True), np.array(GRADIENT), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images_that_people_have(kind):
    file, expected, tolerance = KINDS[kind]
    image = images.decode(tf.constant(file)).numpy()
    assert image.shape == expected.shape and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).mean() <= tolerance


def test_images_that_cannot_be_decoded_are_found(tmp_path):
    whole = (GOLDEN / "images" / "a_128x64.jpg").read_bytes()
    bad = {"empty": b"", "text": b"hello", "cut": whole[:-600], "tiff": encoded(GRADIENT, "TIFF")}
    paths = [*PATHS[:3]]
    for name, content in bad.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        paths += [str(tmp_path / f"{name}.jpg"), PATHS[3]]
    for threads in (1, 8):
        assert images.undecodable(paths, threads) == {3, 5, 7, 9}
