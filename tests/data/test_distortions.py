import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from data import distortions, trivial_augment
from data.trivial_augment import OPERATIONS, Drawn

RNG = np.random.default_rng(0)
# Of whole numbers, as Pillow has them; the last is flat in one channel and has few values in another.
PIXELS = RNG.integers(0, 256, (4, 14, 9, 3)).astype(np.uint8)
PIXELS[2] = PIXELS[2] // 3 + 60
PIXELS[3, ..., 0] = 77
PIXELS[3, ..., 1] = PIXELS[3, ..., 1] // 128 * 90
IMAGES = tf.constant(PIXELS, tf.float32)


def all_of(value):
    return tf.fill([len(PIXELS)], tf.constant(value, tf.float32))


def by_pillow(function):
    return [np.asarray(function(Image.fromarray(image)), np.float32) for image in PIXELS]


# ------------------------------------------------------------------------- groups


@pytest.mark.parametrize("groups", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 0, 1, 2], [3, 5, 0, 3]])
def test_each_image_goes_through_the_function_of_its_group(groups):
    factors = tf.constant([1.0, 2.0, 3.0, 4.0])

    def times(images, factors):
        return images * factors[:, None, None, None]

    @tf.function
    def of_graph(groups):
        functions = {1: times, 2: lambda images, _: -images, 5: lambda images, _: images + 1}
        return distortions.by_group(IMAGES, groups, functions, factors)

    expected = [
        {1: image * factor, 2: -image, 5: image + 1}.get(group, image)
        for image, factor, group in zip(IMAGES.numpy(), factors.numpy(), groups, strict=True)
    ]
    np.testing.assert_array_equal(of_graph(tf.constant(groups)), expected)


# ------------------------------------------------------------------------- geometry


def warp(images, angles=0.0, shears=(0, 0), shifts=(0, 0)):
    count = len(images)
    matrices = distortions.inverse_affine(
        images.shape[1:3], np.full(count, angles), np.tile(shears, (count, 1)), np.tile(shifts, (count, 1))
    )  # fmt: skip
    return distortions.warp(images, tf.constant(matrices)).numpy()


def test_no_angle_is_the_image_itself():
    np.testing.assert_array_equal(warp(IMAGES), IMAGES)


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_right_angles_are_rotations_counterclockwise(turns):
    square = IMAGES[:, :9]
    expected = np.rot90(square, turns, axes=(1, 2))
    np.testing.assert_allclose(warp(square, 90 * turns), expected, atol=0.01)


@pytest.mark.parametrize("angles, shears, shifts", [(20, (0, 0), (0, 0)), (-7, (0, 0), (1.5, -2)),
    (0, (0.3, 0), (0, 0)), (0, (0, -0.2), (0, 0)), (0, (0, 0), (2, 3)), (11, (0.1, 0.2), (-1, 0.5))])  # fmt: skip
def test_a_warped_image_is_shifted_sheared_and_rotated_about_its_middle(angles, shears, shifts):
    height, width = IMAGES.shape[1:3]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    radians = np.radians(angles)
    expected = np.zeros(IMAGES.shape)
    for y in range(height):
        for x in range(width):
            # Backwards from the result, in axes whose y points up.
            right, up = x - middle_x, middle_y - y
            right, up = (
                right * np.cos(radians) + up * np.sin(radians),
                up * np.cos(radians) - right * np.sin(radians),
            )
            down = -up
            right, down = right - shears[0] * down, down - shears[1] * right
            from_x, from_y = right + middle_x - shifts[0], down + middle_y - shifts[1]
            left, top = int(np.floor(from_x)), int(np.floor(from_y))
            for j, i in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                weight = (1 - abs(from_x - i)) * (1 - abs(from_y - j))
                if 0 <= i < width and 0 <= j < height:
                    expected[:, y, x] += weight * PIXELS[:, j, i]
    np.testing.assert_allclose(warp(IMAGES, angles, shears, shifts), expected, atol=0.02)


# ------------------------------------------------------------------------- blur


def test_blur_is_a_gaussian_mean_of_the_image():
    sigmas = np.array([0, 0.6, 2.5, 0.1], np.float32)
    got = distortions.blur(IMAGES, tf.constant(sigmas)).numpy()
    np.testing.assert_array_equal(got[0], IMAGES[0])
    np.testing.assert_allclose(got[3], IMAGES[3], atol=1e-3)  # too narrow to reach a neighbor
    y, x = np.mgrid[:14, :9]
    for number in (1, 2):
        for row, column in ((0, 0), (5, 4), (13, 8), (2, 7)):
            weights = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigmas[number] ** 2))
            mean = (weights[..., None] * PIXELS[number]).sum((0, 1)) / weights.sum()
            np.testing.assert_allclose(got[number, row, column], mean, rtol=1e-4)


# ------------------------------------------------------------------------- color


def test_gray_images_are_as_in_pillow_and_others_stay():
    got = distortions.some_gray(IMAGES, tf.constant([True, False, True, False])).numpy()
    expected = by_pillow(lambda image: image.convert("L").convert("RGB"))
    np.testing.assert_allclose(got[::2], expected[::2], atol=0.51)
    np.testing.assert_array_equal(got[1::2], IMAGES[1::2])


ENHANCERS = {
    distortions.brightness: ImageEnhance.Brightness,
    distortions.contrast: ImageEnhance.Contrast,
    distortions.saturation: ImageEnhance.Color,
    distortions.sharpness: ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("function", ENHANCERS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.9])
def test_colors_change_as_in_pillow(function, factor):
    expected = by_pillow(lambda image: ENHANCERS[function](image).enhance(factor))
    got = function(IMAGES, all_of(factor))
    # Pillow rounds the gray levels in between, and cuts off what is behind the point.
    np.testing.assert_allclose(got, expected, atol=2.0)
    if factor == 1:
        np.testing.assert_allclose(got, IMAGES, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 7, 5, 4, 1])
def test_posterized_images_are_those_of_pillow(bits):
    expected = by_pillow(lambda image: ImageOps.posterize(image, bits))
    np.testing.assert_array_equal(distortions.posterize(IMAGES, all_of(bits)), expected)
    between = IMAGES + 0.4  # resized images have such numbers
    if bits == 8:
        np.testing.assert_array_equal(distortions.posterize(between, all_of(8.0)), between)


@pytest.mark.parametrize("threshold", [0, 100, 256])
def test_solarized_images_are_those_of_pillow(threshold):
    expected = by_pillow(lambda image: ImageOps.solarize(image, threshold))
    np.testing.assert_array_equal(distortions.solarize(IMAGES, all_of(threshold)), expected)


def test_autocontrast_and_equalize_are_those_of_pillow():
    expected = by_pillow(ImageOps.autocontrast)
    np.testing.assert_allclose(distortions.autocontrast(IMAGES), expected, atol=1.0)
    large = np.random.default_rng(1).normal(120, 30, (2, 40, 30, 3)).clip(0, 255).astype(np.uint8)
    large[1, ..., 2] = 9
    expected = [np.asarray(ImageOps.equalize(Image.fromarray(image))) for image in large]
    np.testing.assert_array_equal(distortions.equalize(tf.constant(large, tf.float32)), expected)
    np.testing.assert_array_equal(distortions.equalize(IMAGES), by_pillow(ImageOps.equalize))


# ------------------------------------------------------------------------- TrivialAugment


def test_operations_and_strengths_are_drawn_uniformly():
    drawn = trivial_augment.draw(np.random.default_rng(1), 20000, 0.7)
    times = np.bincount(drawn.operations, minlength=14)
    # Each of 13 has 0.7 / 14 of all, the identity the rest: 4.5 standard deviations.
    assert np.abs(times[1:] - 1000).max() < 4.5 * np.sqrt(20000 * 0.05 * 0.95)
    assert abs(times[0] - 7000) < 4.5 * np.sqrt(20000 * 0.35 * 0.65)
    one_way = np.isin(drawn.operations, [OPERATIONS.index(n) for n in ("solarize", "posterize")])
    assert set(np.rint(30 * drawn.strengths[one_way])) == set(range(31))
    assert set(np.rint(30 * drawn.strengths[~one_way])) == set(range(-30, 31))
    assert len(OPERATIONS) == len(set(OPERATIONS)) == 14
    assert not trivial_augment.draw(np.random.default_rng(1), 100, 0.0).operations.any()


EXPECTED = {
    "identity": lambda image: image,
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "solarize": lambda image: ImageOps.solarize(image, 128),
    "posterize": lambda image: ImageOps.posterize(image, 6),
    "color": lambda image: ImageEnhance.Color(image).enhance(1.45),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.45),
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.45),
    "sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(1.45),
    "rotate": lambda image: image.rotate(15, Image.Resampling.BILINEAR),
    "shear_x": (1, 0.15, -0.15 * 6.5, 0, 1, 0),
    "shear_y": (1, 0, 0, 0.15, 1, -0.15 * 4),
    "translate_x": (1, 0, -0.5 * 10 / 32 * 9, 0, 1, 0),
    "translate_y": (1, 0, 0, 0, 1, -0.5 * 10 / 32 * 14),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_at_half_of_its_strength(name):
    drawn = Drawn(np.full(4, OPERATIONS.index(name), np.int32), np.full(4, 0.5))
    expected = EXPECTED[name]
    if name in ("shear_x", "shear_y", "translate_x", "translate_y"):
        sign = -1 if name.startswith("shear") else 1
        a, b, c, d, e, f = expected
        matrix = np.array([a, sign * b, sign * c, sign * d, e, sign * f], np.float32)
        expected = distortions.warp(IMAGES, tf.tile(matrix[None], [4, 1])).numpy()
        tolerance = 1e-2
    else:
        expected, tolerance = by_pillow(expected), 2.0
    angles, shears, shifts = trivial_augment.geometry(drawn, (14, 9))
    matrices = tf.constant(distortions.inverse_affine((14, 9), angles, shears, shifts))
    images = distortions.warp(IMAGES, matrices)
    amounts = tf.constant(trivial_augment.amounts(drawn))
    got = trivial_augment.recolor(images, tf.constant(drawn.operations), amounts).numpy()
    inside = np.s_[:, 4:-4, 3:-3] if name == "rotate" else np.s_[:]  # Pillow's borders differ
    np.testing.assert_allclose(got[inside], np.array(expected)[inside], atol=tolerance)


def test_no_strength_changes_nothing_but_of_what_has_none():
    for name in OPERATIONS:
        if name in ("autocontrast", "equalize"):
            continue
        drawn = Drawn(np.full(4, OPERATIONS.index(name), np.int32), np.zeros(4))
        matrices = distortions.inverse_affine((14, 9), *trivial_augment.geometry(drawn, (14, 9)))
        amounts = tf.constant(trivial_augment.amounts(drawn))
        got = distortions.warp(IMAGES, tf.constant(matrices))
        got = trivial_augment.recolor(got, tf.constant(drawn.operations), amounts)
        np.testing.assert_allclose(got, IMAGES, atol=1e-4, err_msg=name)
