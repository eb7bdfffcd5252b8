"""Large JPEGs are decoded smaller, and never so small that they would have to be enlarged."""

import numpy as np
import pytest
import tensorflow as tf
from image_kinds import encoded, oriented, without_adobe
from PIL import Image

from data import augment, decoding, images, pictures
from data.dataset import ImageFiles
from data.images import Loading

_small = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
PHOTO = Image.fromarray(_small).resize((203, 151), Image.Resampling.BICUBIC)
KINDS = {
    "RGB": encoded(PHOTO, "JPEG", quality=95),
    "progressive": encoded(PHOTO, "JPEG", quality=95, progressive=True),
    "gray": encoded(PHOTO.convert("L"), "JPEG", quality=95),
    "CMYK": encoded(PHOTO.convert("CMYK"), "JPEG", quality=95),
    "plain CMYK": without_adobe(encoded(PHOTO.convert("CMYK"), "JPEG", quality=95)),
}
WHOLE = [0, 0, 0, 0]


@tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)])
def decode(file, ratio):
    return decoding.decode(file, ratio)


def means(pixels, ratio):
    """The means of squares of pixels; those at the borders are cut off as the image is."""
    height, width = (-(-side // ratio) for side in pixels.shape[:2])
    blocks = [
        [pixels[y * ratio :][:ratio, x * ratio :][:, :ratio].mean((0, 1)) for x in range(width)]
        for y in range(height)
    ]
    return np.array(blocks)


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_means_of_those_of_the_file(kind, ratio):
    whole = decoding.decode(tf.constant(KINDS[kind])).numpy()
    reduced = decode(KINDS[kind], ratio).numpy()
    assert reduced.dtype == np.uint8
    assert np.abs(reduced - means(whole, ratio)).mean() < (2.5 if ratio > 1 else 1e-9)


@pytest.mark.parametrize(
    "box, orientation, size, ratio",
    [
        (WHOLE, 1, (151, 203), 1),
        (WHOLE, 1, (75, 101), 2),
        (WHOLE, 1, (76, 101), 1),  # twice would be 152
        (WHOLE, 1, (75, 102), 1),
        (WHOLE, 1, (37, 50), 4),
        (WHOLE, 1, (18, 26), 4),
        (WHOLE, 1, (18, 25), 8),
        (WHOLE, 1, (1, 1), 8),
        (WHOLE, 1, (200, 100), 1),
        (WHOLE, 5, (101, 75), 2),  # it lies
        (WHOLE, 6, (75, 101), 1),
        (WHOLE, 3, (75, 101), 2),
        ([3, 5, 103, 45], 1, (20, 50), 2),
        ([3, 5, 103, 45], 1, (20, 51), 1),
        ([3, 5, 103, 45], 8, (50, 20), 2),
        ([3, 5, 103, 45], 1, (5, 12), 8),
        ([3, 5, 204, 45], 1, (5, 12), 1),  # beyond the image, which has to be told
        ([3, 5, 103, 152], 1, (5, 12), 1),
    ],
)
def test_the_smallest_that_need_not_be_enlarged(box, orientation, size, ratio):
    found = decoding.reduction(
        tf.constant(KINDS["RGB"]), tf.constant(box), tf.constant(orientation), size
    )
    assert found == ratio


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "WEBP"])
def test_other_files_are_decoded_whole(format):
    file = tf.constant(encoded(PHOTO, format))
    ratio = decoding.reduction(file, None, tf.constant(1), (9, 9))
    assert ratio == 1
    np.testing.assert_array_equal(decoding.decode(file, ratio), decoding.decode(file))


def test_a_box_keeps_all_pixels_that_it_has_a_part_of():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ratio = int(rng.choice([1, 2, 4, 8]))
        corners = np.sort(rng.integers(0, 152, (2, 2)), axis=0)
        corners[1] += 1
        box = tf.constant(corners.ravel(), tf.int32)
        found = decoding.reduced_box(box, tf.constant(ratio)).numpy().reshape(2, 2)
        sides = found[1] - found[0]
        assert (found[0] * ratio <= corners[0]).all() and (found[1] * ratio >= corners[1]).all()
        assert (found[0] * ratio > corners[0] - ratio).all()
        assert (found[1] * ratio < corners[1] + ratio).all()
        assert (sides >= (corners[1] - corners[0]) / ratio).all()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Photos of all orientations, whole and as a box."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [str(folder / f"{orientation}.jpg") for orientation in range(1, 9)]
    for orientation, path in enumerate(paths, 1):
        with open(path, "wb") as file:
            file.write(oriented(orientation, PHOTO, quality=95))
    boxes = np.int32([WHOLE] * 8 + [[3, 5, 103, 105]] * 8)
    return ImageFiles(paths * 2, boxes, upright=True)


def expected(files, row, ratio):
    """A photo that is decoded smaller, cut out by hand and turned by Pillow."""
    reduced = decode(tf.io.read_file(files.paths[row]), ratio).numpy()
    if row >= 8:
        x1, y1, x2, y2 = (3 // ratio, 5 // ratio, -(-103 // ratio), -(-105 // ratio))
        reduced = reduced[y1:y2, x1:x2]
    image = Image.fromarray(reduced)
    turn = pictures._TURNS.get(row % 8 + 1)
    return np.asarray(image if turn is None else image.transpose(turn))


@pytest.mark.parametrize("cache", ["none", "encoded", "decoded"])
def test_a_training_reads_photos_smaller(cache, files):
    size = 50, 37  # upright photos are 151 by 203, lying ones 203 by 151
    read = images.reader(files, Loading(2, cache, reduced=True), size).of
    for row in range(16):
        ratio = (4 if row >= 4 else 2) if row < 8 else 2
        np.testing.assert_array_equal(read(row), expected(files, row, ratio))


def test_trainings_and_embeddings_resize_the_same(files):
    size = 24, 18
    augmentation = augment.Augmentation(size)
    rows = [np.arange(16)]
    loading = Loading(2, reduced=True)
    (trained,) = images.training_batches(enumerate(rows), 16, files, 0, augmentation, loading)
    (embedded,) = images.test_batches(files, 16, 2, size, reduced=True)
    few = images.load_few(files, images.make_loader(size, upright=True, reduced=True))
    np.testing.assert_array_equal(trained[0], embedded)
    np.testing.assert_array_equal(few, embedded)

    for row in range(16):
        pixels = expected(files, row, 8 if 4 <= row < 8 else 4)
        np.testing.assert_array_equal(embedded[row], images.resize(tf.constant(pixels), size))


def test_an_exported_network_reads_photos_smaller(files):
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def exported(file):
        return decoding.decode_exportable(file, upright=True, at_least=(50, 37))

    for row in range(8):
        file = tf.io.read_file(files.paths[row])
        ratio = 4 if row >= 4 else 2
        np.testing.assert_array_equal(exported(file), expected(files, row, ratio))


def test_a_box_beyond_its_photo_is_told(files):
    beyond = ImageFiles(files.paths[:1], np.int32([[3, 5, 204, 45]]))
    with pytest.raises(pictures.UnreadableError, match="3,5,204,45 of .*is not within the image"):
        list(images.test_batches(beyond, 1, 1, (5, 12), reduced=True))
