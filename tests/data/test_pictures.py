import numpy as np
import pytest
from PIL import Image

from common import UserError
from data.pictures import open_image


def test_any_image_becomes_rgb(tmp_path):
    Image.new("L", (8, 12), 100).save(tmp_path / "gray.png")
    image = open_image(tmp_path / "gray.png")
    assert (image.mode, image.size) == ("RGB", (8, 12))
    assert (np.asarray(image) == 100).all()


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path):
    Image.new("RGB", (400, 800), "red").save(tmp_path / "large.jpg")
    assert open_image(tmp_path / "large.jpg").size == (400, 800)
    small = open_image(tmp_path / "large.jpg", at_least=(64, 64))
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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="whole.jpg .*decompression bomb"):
        open_image(tmp_path / "whole.jpg")
