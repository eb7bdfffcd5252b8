import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import common
from data import images

HERE = Path(__file__).parent / "golden"
GOLDEN = np.load(HERE / "images_golden.npz")
FILES = sorted(path.name for path in (HERE / "images").iterdir())
NET, PRE = (64, 32), (72, 36)


def load(name):
    return images.decode(tf.io.read_file(str(HERE / "images" / name)))


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
    exact(images.resize(image, NET), GOLDEN[f"{name}/net"])
    exact(pre, GOLDEN[f"{name}/pre"])
    exact(images.resize(image, (256, 128))[::16, ::16], GOLDEN[f"{name}/up_sample"])
    exact(images.five_crops(pre, NET), GOLDEN[f"{name}/five_crops"])
    exact([pre, images.flip(pre)], GOLDEN[f"{name}/flip"])


@pytest.mark.parametrize("old, new", [((5, 7), (5, 7)), ((5, 7), (3, 4)), ((3, 4), (8, 9)), ((1, 1), (2, 3))])
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
        exact(images.variants(tf.stack([resized, -resized]), NET, flip, crop), [pixels, np.negative(pixels)])


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


PATHS = [str(HERE / "images" / name) for name in FILES]


def training_stream(start, threads=4, pre_crop=PRE):
    rows = np.random.default_rng(0).integers(0, len(PATHS), (12, 6))
    batches = images.training_batches(rows[start:], 6, PATHS, 9, start, NET, pre_crop, True, threads)
    return rows[start:], [(pixels.numpy(), row.numpy()) for pixels, row in batches]


def test_training_batches_are_what_the_plan_says():
    plan, batches = training_stream(0)
    assert len(batches) == 12
    for iteration, (pixels, rows) in enumerate(batches):
        np.testing.assert_array_equal(rows, plan[iteration])
        flips, corners = images.augmentations(9, iteration, 6, (8, 4), random_flip=True)
        for pixel, row, flipped, (top, left) in zip(pixels, rows, flips, corners, strict=True):
            image = GOLDEN[f"{FILES[row]}/flip"][int(flipped)]
            exact(pixel, image[top : top + 64, left : left + 32])


@pytest.mark.parametrize("threads", [1, 8])
def test_a_stream_started_later_is_the_tail_whatever_the_threads(threads):
    _, whole = training_stream(0)
    _, tail = training_stream(7, threads)
    assert len(tail) == 5
    for (got, got_rows), (expected, expected_rows) in zip(tail, whole[7:], strict=True):
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(got_rows, expected_rows)


def test_test_batches_keep_the_order_and_bound_the_batch():
    batches = [batch.numpy() for batch in images.test_batches(PATHS, 3, 3, NET)]
    assert [len(batch) for batch in batches] == [3, 3, 2]
    exact(np.concatenate(batches), [GOLDEN[f"{name}/net"] for name in FILES])


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image at all")
    paths = [*PATHS[:2], str(bad)]
    stream = images.test_batches(paths, 4, 2, NET)
    named = pytest.raises(
        common.UserError, match=r"bad\.jpg cannot be read: Unknown image file format.*take its line out"
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


GRADIENT = Image.fromarray(np.uint8(20 + np.indices((32, 24)).sum(0)[..., None] * np.array([3, 2, 4]) % 230))
GREY = GRADIENT.convert("L")
GREY_RGB = np.repeat(np.array(GREY)[..., None], 3, axis=2)
# What people have: the file, what it shows, and by how many grey levels its compression may be off in the mean.
KINDS = {
    "CMYK JPEG": (encoded(GRADIENT.convert("CMYK"), "JPEG", quality=95, subsampling=0), np.array(GRADIENT), 8),
    "16-bit grey PNG": (encoded(Image.fromarray(np.array(GREY).astype(np.uint16) * 257), "PNG"), GREY_RGB, 0),
    "grey PNG with alpha": (encoded(GREY.convert("LA"), "PNG"), GREY_RGB, 0),
    "PNG with alpha": (encoded(GRADIENT.convert("RGBA"), "PNG"), np.array(GRADIENT), 0),
    "PNG with palette": (encoded(GREY.convert("P"), "PNG"), GREY_RGB, 0),
    "BMP": (encoded(GRADIENT, "BMP"), np.array(GRADIENT), 0),
    "GIF": (encoded(GREY, "GIF"), GREY_RGB, 0),
    "moving GIF": (encoded(GREY, "GIF", save_all=True, append_images=[GREY.rotate(180)]), GREY_RGB, 0),
    "WebP": (encoded(GRADIENT, "WEBP", lossless=True), np.array(GRADIENT), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images_that_people_have(kind):
    file, expected, tolerance = KINDS[kind]
    image = images.decode(tf.constant(file)).numpy()
    assert image.shape == expected.shape and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).mean() <= tolerance


def test_images_that_cannot_be_decoded_are_found(tmp_path):
    whole = (HERE / "images" / "a_128x64.jpg").read_bytes()
    bad = {"empty": b"", "text": b"hello", "cut": whole[:-600], "tiff": encoded(GRADIENT, "TIFF")}
    paths = [*PATHS[:3]]
    for name, content in bad.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        paths += [str(tmp_path / f"{name}.jpg"), PATHS[3]]
    for threads in (1, 8):
        assert images.undecodable(paths, threads) == {3, 5, 7, 9}
