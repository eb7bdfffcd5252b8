"""Image files for people's eyes, by Pillow. Those of a network are read by data/images.py."""

import os

from PIL import Image

from common import UserError


def open_image(path: str | os.PathLike, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file whole, as RGB.

    Args:
        at_least: (width, height); a JPEG may then be decoded at a part of its size that is no
            smaller, which takes less time.

    Raises: UserError for a file that is missing or no image.
    """
    try:
        with Image.open(path) as image:
            if at_least:
                image.draft("RGB", at_least)
            return image.convert("RGB")
    # Pillow raises SyntaxError for a broken PNG.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}). Replace it or leave it out."
        ) from None
