import io
import os

import numpy as np
import pytest
from image_kinds import KINDS, oriented
from PIL import Image, ImageOps, PngImagePlugin

from common import UserError
from data import pictures
from data.dataset import ImageFiles
from data.pictures import open_image
from reports import page, projector
from runtime import terminal


def test_any_image_becomes_rgb(tmp_path):
    Image.new("L", (8, 12), 100).save(tmp_path / "gray.png")
    image = open_image(tmp_path / "gray.png")
    assert (image.mode, image.size) == ("RGB", (8, 12))
    assert (np.asarray(image) == 100).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_that_of_the_pixels(kind):
    file = KINDS[kind][0]
    assert pictures.size(file) == pictures.decode(file).shape[:2]


def test_the_size_of_a_bomb_takes_no_memory_and_damage_is_told():
    riff = b"RIFF\x20\0\0\0WEBP"
    numbers = (16382).to_bytes(3, "little") * 2
    assert pictures.size(riff + b"VP8X\n\0\0\0\x10\0\0\0" + numbers) == (16383, 16383)
    for file in (riff + b"VP8X\n\0\0\0", riff + b"ALPH" + bytes(20), b"\x89PNG\r\n\x1a\n\0\0"):
        with pytest.raises(ValueError, match="."):
            pictures.size(file)
    with pytest.raises(pictures.UnfitError, match="unknown kind"):
        pictures.size(b"no image")


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path):
    Image.new("RGB", (400, 800), "red").save(tmp_path / "large.jpg")
    assert open_image(tmp_path / "large.jpg").size == (400, 800)
    small = open_image(tmp_path / "large.jpg", at_least=64)
    assert small.size == (100, 200)
    np.testing.assert_allclose(np.asarray(small)[50, 50], (255, 0, 0), atol=2)


def test_what_is_no_image_is_named(tmp_path, monkeypatch):
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.jpg")
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    broken = bytearray((tmp_path / "whole.png").read_bytes())
    broken[20] ^= 255
    (tmp_path / "broken.png").write_bytes(broken)
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("half.jpg", "broken.png", "text.jpg", "missing.jpg"):
        with pytest.raises(UserError, match=rf"{name} cannot be read as an image \(.*Replace it"):
            open_image(tmp_path / name)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match="whole.jpg .*64 x 64 pixels are more than the 100"):
        open_image(tmp_path / "whole.jpg")


def test_a_program_is_not_started_for_a_postscript_file(tmp_path, monkeypatch):
    """Pillow would call `gs` from PATH."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_bytes(page)
    with pytest.raises(UserError, match="it is a PostScript file"):
        open_image(tmp_path / "a.jpg")
    assert not (tmp_path / "called").exists()


def test_errors_of_all_kinds_are_told(tmp_path):
    """Pillow raises a ValueError for a text that unpacks to more than a megabyte."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", " " * 2_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image \(.*too large"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_for_people_are_what_a_network_is_given(kind, tmp_path):
    (tmp_path / "image").write_bytes(KINDS[kind][0])
    image = open_image(tmp_path / "image")
    np.testing.assert_array_equal(image, pictures.decode(KINDS[kind][0]))
    small = np.asarray(page.thumbnail(ImageFiles([str(tmp_path / "image")]), 0))
    np.testing.assert_array_equal(small, image)
    sprite = np.asarray(projector.sprite(ImageFiles([str(tmp_path / "image")])).convert("RGB"))
    factor = 64 / max(image.size)
    left, top = (64 - round(image.width * factor)) // 2, (64 - round(image.height * factor)) // 2
    middle = sprite[top:, left:][: round(image.height * factor), : round(image.width * factor)]
    assert np.abs(middle.mean((0, 1)) - np.asarray(image).mean((0, 1))).max() < 6


# ------------------------------------------------------------------------- headers


@pytest.mark.parametrize("kind", KINDS)
def test_headers_tell_kind_size_and_motion(kind):
    header = pictures.read_header(KINDS[kind][0])
    shown = pictures.decode(KINDS[kind][0])
    assert header.kind in kind and header.kind in pictures.KINDS
    assert (header.height, header.width) == shown.shape[:2]
    assert header.orientation == 1 and header.moving == ("moving" in kind)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_told_as_viewers_apply_it(format):
    for value in (0, *range(1, 9), 9, 300):
        file = oriented(value, format=format)
        with Image.open(io.BytesIO(file)) as image:
            upright = ImageOps.exif_transpose(image).size
        header = pictures.read_header(file)
        assert header.orientation == (value if 1 <= value <= 8 else 1)
        turned = header.orientation >= 5
        assert upright == (
            (header.height, header.width) if turned else (header.width, header.height)
        )


def test_orientation_behind_the_pixels_of_a_png_is_found():
    file = oriented(6, format="PNG")
    at = file.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(file[at : at + 4], "big")
    last = file.index(b"IEND") - 4
    moved = file[:at] + file[end:last] + file[at:end] + file[last:]
    assert pictures.read_header(moved).orientation == 6


def test_damaged_exif_leaves_the_image_as_it_is():
    file = oriented(6)
    damaged = file.replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\0\7").replace(b"II*\0", b"II\7\0")
    assert damaged != file and pictures.read_header(damaged).orientation == 1


# ------------------------------------------------------------------------- at the start


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        content = oriented(6 if number in (3, 7) else 1)
        (tmp_path / f"{number:02}.jpg").write_bytes(content)
    return sorted(str(path) for path in tmp_path.iterdir())


def test_turned_images_are_counted_at_the_start(folder, capfd):
    terminal.setup_logging("test")
    pictures.check_sample(ImageFiles(folder))
    warning = capfd.readouterr().err
    assert "2 of the 12 images are stored turned or mirrored" in warning and "03.jpg" in warning
    assert warning.count("\n") == 1
    pictures.check_sample(ImageFiles(folder[:3]))
    pictures.check_sample(ImageFiles([]))
    assert capfd.readouterr().err == ""


def test_of_many_images_a_sample_is_looked_at(folder, capfd, monkeypatch):
    terminal.setup_logging("test")
    monkeypatch.setattr(pictures, "SAMPLE", 4)  # 0, 3, 7 and 11
    pictures.check_sample(ImageFiles(folder))
    assert "2 of the 4 images that were looked at are stored" in capfd.readouterr().err


def test_a_file_of_another_kind_is_named_at_the_start(folder):
    with open(folder[5], "wb") as file:
        file.write(b"\0\0\0\x20ftypheic" + bytes(50))
    with pytest.raises(
        UserError, match=r"05\.jpg cannot be read: it is a HEIC file.*take its line"
    ):
        pictures.check_sample(ImageFiles(folder))


def test_what_is_missing_or_damaged_is_left_to_the_loader(folder):
    os.remove(folder[1])
    with open(folder[2], "r+b") as file:
        file.truncate(40)
    pictures.check_sample(ImageFiles(folder))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_box_is_the_part_that_is_shown(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image", kind)
    whole = np.asarray(open_image(tmp_path / "image"))
    part = np.asarray(open_image(tmp_path / "image", (8, 8), (5, 10, 48, 20)))
    np.testing.assert_array_equal(part, whole[10:20, 5:48])
    with pytest.raises(
        UserError, match="box 5,10,49,20 of .*image is not within .* 48 pixels wide"
    ):
        open_image(tmp_path / "image", box=(5, 10, 49, 20))
