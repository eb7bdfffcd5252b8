import contextlib
import re
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from golden_images import FILES
from image_kinds import BY_PILLOW, BY_TENSORFLOW, KINDS, REFUSED, encoded, oriented
from paths import GOLDEN
from PIL import Image

from common import UserError
from data import decoding, images, pictures
from data.dataset import ImageFiles


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def exported(file):
    return decoding.decode_exportable(file)


def close(image, expected, tolerance):
    height, width, _ = expected.shape  # of a GIF's part, only that is compared
    assert image.dtype == np.uint8
    assert np.abs(image[:height, :width].astype(int) - expected).mean() <= tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_files_show_what_a_viewer_shows(kind):
    file, expected, tolerance = KINDS[kind]
    image = decoding.decode(tf.constant(file)).numpy()
    shown = pictures.decode(file)
    assert image.shape == shown.shape
    close(image, expected, tolerance)
    close(shown, expected, tolerance)
    close(image, shown, 2 if tolerance else 0)  # decoders of JPEG round otherwise


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_shows_the_same(kind, tmp_path):
    file, _, _ = KINDS[kind]
    (tmp_path / "image").write_bytes(file)
    whole = decoding.decode(tf.constant(file)).numpy()
    (batch,) = images.test_batches([str(tmp_path / "image")] * 3, 4, 2, whole.shape[:2])
    np.testing.assert_array_equal(batch, [whole] * 3)
    for cache in ("none", "encoded", "decoded"):
        read = images.reader([str(tmp_path / "image")], images.Loading(2, cache)).of
        np.testing.assert_array_equal(read(0), whole)


@pytest.mark.parametrize("kind", BY_TENSORFLOW)
def test_an_exported_network_shows_the_same(kind):
    file, _, _ = KINDS[kind]
    np.testing.assert_array_equal(exported(file), decoding.decode(tf.constant(file)))


@pytest.mark.parametrize("kind", [*BY_PILLOW, *REFUSED])
def test_an_exported_network_refuses_what_it_would_show_wrong(kind):
    file = (BY_PILLOW | REFUSED)[kind][0]
    refused = pytest.raises(tf.errors.InvalidArgumentError)
    with refused as told:
        exported(file)
    if kind in BY_PILLOW:
        assert "save it as PNG" in str(told.value)
    if kind in ("huge PNG", "huge JPEG", "huge WebP"):
        assert "more than 178956970 pixels" in str(told.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_has_the_true_reason(kind, tmp_path):
    file, why = REFUSED[kind]
    fault = decoding.fault(file)
    assert fault and re.search(why, fault) and "\n" not in fault
    with pytest.raises(ValueError, match=why):
        pictures.decode(file)
    path = tmp_path / "image"
    path.write_bytes(file)
    assert not images.decodable([str(path)], 2).any()


def test_avif_names_the_package_where_pillow_lacks_it(monkeypatch, tmp_path):
    monkeypatch.delitem(pictures._READERS, "AVIF")
    file = KINDS["AVIF"][0]
    message = r"it is an AVIF file, which needs Pillow 11\.3 or newer: pip install 'pillow>=11\.3'"
    assert re.match(message, decoding.fault(file))
    (tmp_path / "a.jpg").write_bytes(file)
    with pytest.raises(UserError, match=rf"a\.jpg cannot be read: {message}"):
        pictures.check_sample(ImageFiles([str(tmp_path / "a.jpg")]))


@pytest.mark.parametrize(
    "brands, kind",
    [
        (b"avif\0\0\0\0mif1miaf", "AVIF"),
        (b"mif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"avis\0\0\0\0", "AVIF"),
        (b"heic\0\0\0\0mif1heic", "a HEIC"),
        (b"mif1\0\0\0\0mif1heic", "a HEIC"),
        (b"isom\0\0\0\0", "a video"),
    ],
)
def test_avif_is_told_from_its_relatives(brands, kind):
    assert pictures.kind_of(b"\0\0\0\x20ftyp" + brands) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_good_files_have_no_fault(kind):
    assert decoding.fault(KINDS[kind][0]) is None


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_files_that_may_be_large_are_decoded_as_others(format):
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    file = encoded(Image.fromarray(noise), format, quality=90)
    assert len(file) > 20_000
    plain = tf.io.decode_image(file, channels=3, expand_animations=False)
    np.testing.assert_array_equal(decoding.decode(tf.constant(file)), plain)
    np.testing.assert_array_equal(exported(file), plain)


@pytest.mark.parametrize("name", FILES)
def test_jpeg_and_png_are_tensorflows_to_the_bit(name):
    file = (GOLDEN / "images" / name).read_bytes()
    plain = tf.io.decode_image(file, channels=3, expand_animations=False)
    np.testing.assert_array_equal(decoding.decode(tf.constant(file)), plain)


def test_the_limit_of_pixels_is_the_same_for_all(monkeypatch):
    """One pixel more than allowed is refused, by Pillow and by TensorFlow."""
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    image = Image.fromarray(noise)
    files = [encoded(image, kind, quality=95) for kind in ("JPEG", "PNG", "WEBP", "BMP")]
    for most, allowed in ((30_000, True), (29_999, False)):
        monkeypatch.setattr(pictures, "MAX_PIXELS", most)
        for file in files:
            fault = decoding.fault(file)
            assert fault is None if allowed else "200 x 150 pixels are more than" in fault


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_not_applied(orientation):
    file = oriented(orientation, quality=95)
    plain = oriented(1, quality=95)
    np.testing.assert_array_equal(pictures.decode(file), pictures.decode(plain))
    np.testing.assert_array_equal(
        decoding.decode(tf.constant(file)), decoding.decode(tf.constant(plain))
    )


def png(*chunks):
    """A black PNG of 8 by 8 pixels, with chunks before its pixels."""
    header = b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (header, *chunks, (b"IDAT", zlib.compress(bytes(8 * 25))), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


PACKED = zlib.compress(bytes(30_000_000), 9)  # 30 kB


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"comment\0\0" + PACKED)],
        [(b"zTXt", b"comment\0\0" + zlib.compress(bytes(1_000_000)))] * 70,
        [(b"iCCP", b"profile\0\0" + PACKED)],
        [(b"eXIf", bytes(1_000_000))],
        [(b"IDAT", PACKED)],
    ],
    ids=["a text", "texts", "a profile", "EXIF", "pixels"],
)
def test_a_small_file_that_unpacks_to_much_is_its_pixels_or_an_error(chunks, tmp_path):
    (tmp_path / "a.png").write_bytes(png(*chunks))
    pixels = decoding.decode(tf.io.read_file(str(tmp_path / "a.png")))
    np.testing.assert_array_equal(pixels, np.zeros((8, 8, 3)))
    pictures.check_sample(ImageFiles([str(tmp_path / "a.png")]))
    with contextlib.suppress(UserError):
        np.testing.assert_array_equal(pictures.open_image(tmp_path / "a.png"), pixels)
