import numpy as np
import pytest
import tensorflow as tf
from golden_images import FILES, NET, NUMBERS, PRE, exact, load, reference_resize

from data import augment, images
from data.augment import Augmentation, Views

CROPS = Augmentation(NET, PRE, random_flip=True)
PADDED = Augmentation(NET, random_flip=True, pad_crop=5)
ALL = PADDED._replace(color_jitter=0.4, random_erasing=0.9)


@pytest.mark.parametrize("name", FILES)
def test_flipped_and_cropped_images_are_the_originals(name):
    pre = images.resize(load(name), PRE)
    exact(augment.five_crops(pre, NET), NUMBERS[f"{name}/five_crops"])
    exact([pre, augment.flip(pre)], NUMBERS[f"{name}/flip"])


def test_views_and_their_names():
    image = load("a_128x64.jpg")
    pre, net = images.resize(image, PRE).numpy(), images.resize(image, NET).numpy()
    five = augment.five_crops(pre, NET).numpy()
    five_flipped = augment.five_crops(pre[:, ::-1], NET).numpy()
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
        views = Views(NET, flip, crop)
        assert views.names == names
        resized = images.resize(image, PRE if crop else NET)
        exact(views.take(resized), pixels)
        exact(views.take(tf.stack([resized, -resized])), [pixels, np.negative(pixels)])


# ------------------------------------------------------------------------- what is drawn


def test_what_is_drawn_is_a_function_of_seed_and_iteration():
    def draw(seed, iteration, count=2000):
        flips, corners = augment.flips_and_corners(seed, iteration, count, (8, 4), random_flip=True)
        return np.column_stack([flips, corners])

    np.testing.assert_array_equal(draw(1, 5), draw(1, 5))
    assert (draw(1, 5) != draw(1, 6)).any() and (draw(1, 5) != draw(2, 5)).any()
    flips, tops, lefts = draw(1, 5).T
    assert abs(flips.mean() - 0.5) < 0.05
    # Every corner from 0 to the slack, both ends included, about equally often.
    assert set(tops) == set(range(9)) and set(lefts) == set(range(5))
    assert np.bincount(tops).min() > 150 and np.bincount(lefts).min() > 300


def test_without_augmentation_nothing_is_flipped_or_cropped():
    flips, corners = augment.flips_and_corners(1, 2, 100, (0, 0), random_flip=False)
    assert not flips.any() and not corners.any()


def test_what_is_drawn_does_not_depend_on_what_else_is_on():
    jitter, erasing = PADDED._replace(color_jitter=0.4), PADDED._replace(random_erasing=0.9)
    for iteration in range(3):
        flips, corners = augment.flips_and_corners(9, iteration, 50, (10, 10), random_flip=True)
        everything = augment.draws(9, iteration, 50, ALL)
        assert everything.keys() == {"flips", "corners", "colors", "holes"}
        for augmentation in (PADDED, jitter, erasing, ALL):
            drawn = augment.draws(9, iteration, 50, augmentation)
            np.testing.assert_array_equal(drawn["flips"], flips)
            np.testing.assert_array_equal(drawn["corners"], corners)
            for name, values in drawn.items():
                np.testing.assert_array_equal(values, everything[name])


def test_color_factors_are_around_one():
    factors = augment.color_factors(1, 5, 4000, 0.3)
    assert factors.shape == (4000, 3) and factors.dtype == np.float32
    assert 0.7 <= factors.min() < 0.71 and 1.29 < factors.max() <= 1.3
    np.testing.assert_allclose(factors.mean(axis=0), 1, atol=0.01)
    assert abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.06
    assert (factors != augment.color_factors(1, 6, 4000, 0.3)).all()


@pytest.mark.parametrize("least, aspect", [(0.08, 1.33), (0.5, 3.0), (1.0, 1.5), (0.3, 1.0)])
def test_parts_have_their_areas_and_shapes_and_lie_within_the_image(least, aspect):
    drawn = augment.parts(1, 5, 20000, least, aspect).astype(np.float64)
    assert drawn.min() >= 0 and drawn.max() <= 1 + 1e-6
    heights, widths = drawn[:, 2] - drawn[:, 0], drawn[:, 3] - drawn[:, 1]
    area, shape = heights * widths, np.log(heights / widths)
    # Uniform from the least area to 1: mean and standard deviation in closed form.
    np.testing.assert_allclose(area.mean(), (least + 1) / 2, atol=0.01)
    np.testing.assert_allclose(area.std(), (1 - least) / np.sqrt(12), atol=0.01)
    most = np.minimum(np.log(aspect), -np.log(np.minimum(area, 1)))
    assert (np.abs(shape) <= most + 1e-5).all()
    assert abs(shape.mean()) < 0.02
    slack = 1 - heights > 0.01
    if slack.any():  # anywhere within the image
        places = drawn[slack, 0] / (1 - heights[slack])
        np.testing.assert_allclose([places.mean(), places.std()], [0.5, 12**-0.5], atol=0.03)
    if least == 1:
        np.testing.assert_allclose(drawn, np.tile([0, 0, 1, 1], (20000, 1)), atol=1e-6)


@pytest.mark.parametrize("least, aspect", [(0.08, 1.33), (0.5, 3.0), (1.0, 1.5), (0.9, 4.0)])
def test_of_an_image_as_large_as_needed_no_part_is_enlarged(least, aspect):
    augmentation = Augmentation((256, 128), least_area=least, aspect=aspect)
    drawn = augment.parts(1, 5, 20000, least, aspect)
    sides = (drawn[:, 2:] - drawn[:, :2]) * augmentation.needed
    # The shortest comes close to the input's, and no pixel more than rounding below it.
    np.testing.assert_allclose(sides.min(axis=0), (256, 128), rtol=0.06)
    assert (sides >= np.array([256, 128]) - 1e-3).all()
    assert Augmentation((256, 128), (288, 144)).needed == (288, 144)


@pytest.mark.parametrize("aspect", [1, 1.33, 10])
def test_a_part_of_all_of_the_area_is_the_whole_image(aspect):
    drawn = augment.parts(1, 2, 500, least_area=1.0, aspect=aspect)
    np.testing.assert_array_equal(drawn, np.tile([0, 0, 1, 1], (500, 1)))


def test_a_part_is_cut_out_to_whole_pixels():
    image = tf.reshape(tf.range(10 * 7 * 3), [10, 7, 3])

    def cut(*part):
        return augment.take_part(image, tf.constant(part, tf.float32)).numpy()

    np.testing.assert_array_equal(cut(0, 0, 1, 1), image)
    np.testing.assert_array_equal(cut(0.26, 0.5, 0.84, 0.9), image[3:8, 4:6])
    np.testing.assert_array_equal(cut(0.01, 0.99, 0.02, 1), image[:1, 6:])  # no part is empty
    np.testing.assert_array_equal(cut(0.99, 0.01, 0.99, 0.02), image[9:, :1])


def test_blurs_are_in_proportion_to_the_image():
    drawn = augment.sigmas(1, 5, 20000, 0.25, (448, 100))
    blurred = drawn > 0
    assert abs(blurred.mean() - 0.25) < 0.02
    assert 0.2 <= drawn[blurred].min() < 0.21 and 3.98 < drawn.max() <= 4.0
    np.testing.assert_allclose(drawn[blurred].mean(), 2.1, atol=0.06)


def test_one_distortion_does_not_change_what_is_drawn_for_another():
    every = Augmentation(
        NET, None, True, 5, 0.3, 0.5, least_area=0.2, aspect=2.0, rotation=9.0, gray=0.2, blur=0.4
    )
    everything = augment.draws(3, 8, 40, every)
    alone = {
        "parts": Augmentation(NET, least_area=0.2, aspect=2.0),
        "matrices": Augmentation(NET, rotation=9.0),
        "gray": Augmentation(NET, gray=0.2),
        "sigmas": Augmentation(NET, blur=0.4),
        "colors": Augmentation(NET, color_jitter=0.3),
        "holes": Augmentation(NET, random_erasing=0.5),
    }
    for name, augmentation in alone.items():
        drawn = augment.draws(3, 8, 40, augmentation)
        assert drawn.keys() == {"flips", "corners", name}
        np.testing.assert_array_equal(drawn[name], everything[name])
        other = augment.draws(3, 9, 40, augmentation)[name]
        assert (other != drawn[name]).any()
    # Rotations add up with those of TrivialAugment, which has angles of its own.
    trivial = augment.draws(3, 8, 40, every._replace(trivial_augment=1.0))
    assert {"operations", "amounts"} == trivial.keys() - everything.keys()
    unturned = trivial["operations"] < 9
    np.testing.assert_array_equal(trivial["matrices"][unturned], everything["matrices"][unturned])
    assert (trivial["matrices"][~unturned] != everything["matrices"][~unturned]).any(
        axis=1
    ).mean() > 0.9


def test_rotations_are_within_their_degrees_in_both_directions():
    matrices = augment.draws(3, 8, 4000, Augmentation(NET, rotation=30.0))["matrices"]
    degrees = np.degrees(np.arctan2(matrices[:, 3], matrices[:, 0]))
    assert -30 <= degrees.min() < -29.5 and 29.5 < degrees.max() <= 30
    np.testing.assert_allclose([degrees.mean(), degrees.std()], [0, 60 / np.sqrt(12)], atol=1.2)


@pytest.mark.parametrize("size", [(256, 128), (64, 64), (20, 60), (2, 2)])
def test_holes_have_their_sizes_and_lie_within_the_image(size):
    top, left, bottom, right = augment.holes(1, 5, 4000, 0.5, size).T
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
    never = augment.holes(1, 5, 100, 0.0, size)
    np.testing.assert_array_equal(never[:, :2], never[:, 2:])


# ------------------------------------------------------------------------- what is done


def reference_augment(image, flipped, corner, augmentation):
    """Resize, pad, flip, crop, one after the other in float64."""
    image = reference_resize(image, augmentation.resized)
    image = np.pad(image, [(augmentation.pad_crop,) * 2] * 2 + [(0, 0)])
    image = image[:, ::-1] if flipped else image
    (top, left), (height, width) = corner, augmentation.net_size
    return image[top : top + height, left : left + width]


@pytest.mark.parametrize(
    "augmentation", [CROPS, PADDED, Augmentation((3, 2), (3, 9)), Augmentation(NET)]
)
def test_images_of_mixed_sizes_are_augmented_as_written_out(augmentation):
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (2, 70), (72, 36), (64, 32), (100, 3), (128, 64), (37, 90), (128, 64)]
    batch = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    flips = np.arange(8) % 2 == 0
    corners = rng.integers(0, augmentation.slack, (8, 2), endpoint=True).astype(np.int32)
    corners[:4] = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * augmentation.slack
    drawn = list(zip(flips, corners, strict=True))
    expected = [
        reference_augment(image, *one, augmentation)
        for image, one in zip(batch, drawn, strict=True)
    ]

    resized = [images.resize(tf.constant(image), augmentation.resized) for image in batch]
    got = [
        augment.pad_and_crop(image, *one, augmentation)
        for image, one in zip(resized, drawn, strict=True)
    ]
    np.testing.assert_allclose(got, expected, atol=5e-3)

    pixels = np.concatenate([image.reshape(-1, 3) for image in batch])
    got = augment.resize_and_crop(
        pixels, tf.constant(sizes), tf.constant(flips), tf.constant(corners), augmentation
    )
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_recolored_images_are_as_written_out():
    rng = np.random.default_rng(0)
    batch = rng.uniform(0, 255, (5, 4, 3, 3))
    factors = np.array([[1, 1, 1], [1.6, 1, 1], [1, 0.4, 1], [1, 1, 0], [1.4, 1.4, 1.4]])
    expected = []
    for image, (brightness, contrast, saturation) in zip(batch, factors, strict=True):
        image = np.clip(image * brightness, 0, 255)
        mean = (image @ [0.299, 0.587, 0.114]).mean()
        image = np.clip(mean * (1 - contrast) + image * contrast, 0, 255)
        gray = (image @ [0.299, 0.587, 0.114])[..., None]
        expected.append(np.clip(gray * (1 - saturation) + image * saturation, 0, 255))
    got = augment.recolor(tf.constant(batch, tf.float32), tf.constant(factors, tf.float32))
    np.testing.assert_allclose(got, expected, atol=1e-3)
    np.testing.assert_allclose(got[0], batch[0], atol=1e-3)


def test_erased_images_are_as_written_out():
    batch = np.random.default_rng(0).uniform(0, 255, (4, 6, 5, 3)).astype(np.float32)
    rectangles = np.array([[0, 0, 6, 5], [1, 2, 4, 3], [3, 3, 3, 3], [5, 0, 6, 5]], np.int32)
    expected = batch.copy()
    for image, (top, left, bottom, right) in zip(expected, rectangles, strict=True):
        image[top:bottom, left:right] = 123.68, 116.78, 103.94
    np.testing.assert_array_equal(
        augment.erase(tf.constant(batch), tf.constant(rectangles)), expected
    )
