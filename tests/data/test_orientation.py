"""Images are turned as EXIF says: the same way wherever they are read."""

import numpy as np
import pytest
import tensorflow as tf
from image_kinds import GRADIENT, KINDS, encoded, oriented
from PIL import Image, ImageOps, PngImagePlugin

from data import decoding, images, pictures
from data.dataset import ImageFiles
from runtime import terminal

EXPORTABLE = ("JPEG", "PNG", "WEBP")
FORMATS = (*EXPORTABLE, "TIFF", "AVIF")
BOX = 3, 5, 20, 29
NOISE = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


def upright(pixels, orientation):
    """What Pillow makes of pixels that are stored with an orientation."""
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of all formats and orientations, and the orientation of each, with two beyond EXIF's."""
    folder = tmp_path_factory.mktemp("oriented")
    orientations = {}
    for format in FORMATS:
        for orientation in range(10):
            path = folder / f"{orientation}.{format}"
            path.write_bytes(oriented(orientation, format=format))
            orientations[str(path)] = orientation
    return orientations


@pytest.fixture(scope="module")
def exported():
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(file):
        return decoding.decode_exportable(file, upright=True)

    return decode


def expected(path, orientation, box=None):
    stored = decoding.decode(tf.io.read_file(path)).numpy()
    if box:
        stored = stored[box[1] : box[3], box[0] : box[2]]
    return upright(stored, orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_by_pillow(orientation):
    turned = decoding.turn(tf.constant(NOISE), tf.constant(orientation))
    np.testing.assert_array_equal(turned, upright(NOISE, orientation))


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("cache", ["none", "encoded", "decoded"])
def test_a_training_turns_images_after_cutting_out(cache, boxed, files):
    boxes = np.array([BOX] * len(files), np.int32) if boxed else None
    read = images.reader(ImageFiles(list(files), boxes, upright=True), images.Loading(2, cache)).of
    for row, (path, orientation) in enumerate(files.items()):
        turned = expected(path, orientation, BOX if boxed else None)
        np.testing.assert_array_equal(read(row), turned)


def test_an_embedding_turns_images_after_cutting_out(files):
    boxed = ImageFiles(list(files), np.array([BOX] * len(files), np.int32), upright=True)
    size = 24, 24
    batches = np.concatenate(list(images.test_batches(boxed, 4, 2, size)))
    few = images.load_few(boxed, images.make_loader(size, upright=True))
    turned = [expected(path, orientation, BOX) for path, orientation in files.items()]
    resized = [images.resize(tf.constant(image), size) for image in turned]
    np.testing.assert_array_equal(batches, resized)
    np.testing.assert_array_equal(few, resized)


@pytest.mark.parametrize("box", [None, BOX])
def test_pictures_for_people_are_turned(box, files):
    for path, orientation in files.items():
        stored = np.asarray(pictures.open_image(path, box=box))
        turned = np.asarray(pictures.open_image(path, box=box, upright=True))
        np.testing.assert_array_equal(turned, upright(stored, orientation))


def test_an_exported_graph_turns_images(files, exported):
    exportable = {path: files[path] for path in files if path.endswith(EXPORTABLE)}
    for path, orientation in exportable.items():
        file = tf.io.read_file(path)
        np.testing.assert_array_equal(exported(file), expected(path, orientation))
        np.testing.assert_array_equal(
            decoding.decode_exportable(file), expected(path, orientation=1)
        )


def behind_the_pixels(png):
    """The same file, its EXIF moved to its end."""
    at = png.index(b"eXIf") - 4
    size = 12 + int.from_bytes(png[at : at + 4], "big")
    rest = png[:at] + png[at + size :]
    return rest[:-12] + png[at : at + size] + rest[-12:]


def with_text(keyword, text, compressed=False):
    info = PngImagePlugin.PngInfo()
    add = info.add_itxt if keyword.startswith("XML") else info.add_text
    add(keyword, text, zip=compressed)
    return encoded(GRADIENT, "PNG", pnginfo=info)


def little_endian(orientation):
    exif = Image.Exif()
    exif.endian = "<"
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    return encoded(GRADIENT, "JPEG", exif=exif.tobytes())


XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
_exif = Image.Exif()
_exif[0x0112] = 6
_as_hex = _exif.tobytes().hex()
AS_TEXT = f"\nexif\n{len(_as_hex) // 2:8}\n{_as_hex}\n"
SIXES = {
    "little-endian": little_endian(6),
    "PNG, behind the pixels": behind_the_pixels(oriented(6, format="PNG")),
    "PNG, far behind": behind_the_pixels(
        oriented(
            6,
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)),
            "PNG",
        )
    ),
    "JPEG of Adobe": encoded(GRADIENT, "JPEG", xmp=XMP.encode()),
    "PNG of Adobe": with_text("XML:com.adobe.xmp", XMP),
}


@pytest.mark.parametrize("kind", SIXES)
def test_wherever_an_orientation_stands_it_is_found(kind, exported):
    file = tf.constant(SIXES[kind])
    assert decoding.orientation(file) == pictures.read_header(SIXES[kind]).orientation == 6
    stored = decoding.decode(file).numpy()
    np.testing.assert_array_equal(exported(file), upright(stored, 6))


def test_an_exported_graph_refuses_exif_that_it_cannot_read(exported):
    file = with_text("Raw profile type exif", AS_TEXT, compressed=True)
    assert decoding.orientation(tf.constant(file)) == 6
    with pytest.raises(tf.errors.InvalidArgumentError, match="a PNG with EXIF as a text"):
        exported(file)
    decoding.decode_exportable(tf.constant(file))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_turns_no_tiff_by_itself(orientation):
    """Also one that libtiff unpacks."""
    file = oriented(orientation, format="TIFF", compression="tiff_lzw")
    header = pictures.read_header(file)
    assert (header.orientation, header.height, header.width) == (orientation, 32, 24)
    assert pictures.size(file) == (32, 24)
    np.testing.assert_array_equal(pictures.decode(file), np.asarray(GRADIENT))


def test_exif_without_an_orientation_or_damaged_turns_nothing(exported):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    plain = encoded(GRADIENT, "JPEG", exif=exif.tobytes())
    file = oriented(6)
    damaged = file.replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\0\7").replace(b"II*\0", b"II\7\0")
    for content in (plain, damaged):
        assert decoding.orientation(tf.constant(content)) == 1
        np.testing.assert_array_equal(exported(content), decoding.decode(tf.constant(content)))


def test_a_file_without_exif_is_not_left_to_pillow(monkeypatch):
    monkeypatch.setattr(pictures, "orientation", lambda _: 1 / 0)
    for kind, (file, *_) in KINDS.items():
        if not any(word in kind for word in ("WebP", "TIFF", "AVIF")):
            assert decoding.orientation(tf.constant(file)) == 1
    large = encoded(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)), "PNG"
    )
    assert decoding.orientation(tf.constant(large)) == 1


def test_the_start_tells_what_is_applied(files, capfd):
    terminal.setup_logging("test")
    paths = list(files)
    told = "35 of the 50 images are stored turned or mirrored"
    pictures.check_sample(ImageFiles(paths, upright=True))
    line = capfd.readouterr().err
    assert told in line and "They are turned as EXIF says" in line and "WARNING" not in line
    pictures.check_sample(ImageFiles(paths))
    line = capfd.readouterr().err
    assert told in line and "the network sees them as they are stored" in line
