"""Image files by Pillow: those for people's eyes, and of a network's those that TensorFlow reads
wrong or not at all (data/images.py).

Either way a file shows the same: the first picture of several, colors without transparency, 16 bits
as their upper 8, and the pixels as they are stored, or where asked to, turned as EXIF says.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageChops,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from common import UserError, first_few, reason
from data.dataset import Box, ImageFiles
from runtime.terminal import log
from runtime.wrong_files import what_came

try:
    from PIL import AvifImagePlugin
except ImportError:  # Pillow before 11.3
    AvifImagePlugin = None

KINDS = "JPEG, PNG, GIF, BMP, WebP, TIFF or AVIF"
# 512 MiB as RGB. Pillow refuses larger ones, too, as bombs: small files that fill the memory.
MAX_PIXELS = 2**29 // 3
SAMPLE = 1000  # files that are looked at when a training or an embedding starts, at most
_THREADS = 32  # as in data/dataset.py

# Not Image.open: that tries other kinds, some by starting programs, and warns about half of
# MAX_PIXELS.
_READERS = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
if AvifImagePlugin is not None and AvifImagePlugin.SUPPORTED:
    _READERS["AVIF"] = AvifImagePlugin.AvifImageFile
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # of more than 4 GB
    b"MM\0+": "TIFF",
    b"8BPS": "a Photoshop",
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript",
    b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"PK\3\4": "a zip",
    b"<": "an HTML, SVG or XML",
}
# Where Pillow keeps what may hold an orientation.
_EXIF = ("exif", "xmp", "Raw profile type exif")
# What viewers do for each orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientations that undo two of these; each of the others undoes itself.
_UNDONE_BY = {6: 8, 8: 6}


class UnreadableError(UserError):
    """An image file of a training or an embedding cannot be read or decoded."""


class UnfitError(ValueError):
    """A file is of another kind, or too large, and nothing that reads images here takes it."""


class Header(NamedTuple):
    """What an image file says of itself.

    Attributes:
        kind: one of KINDS.
        height, width: in pixels, as they are stored.
        orientation: EXIF's, 1 to 8; viewers turn or mirror the image if it is not 1.
        moving: whether more pictures follow the first.
    """

    kind: str
    height: int
    width: int
    orientation: int
    moving: bool


# ------------------------------------------------------------------------- images


def open_image(
    path: str | os.PathLike,
    at_least: int | None = None,
    box: Box | None = None,
    upright: bool = False,
) -> Image.Image:
    """Read an image file, as RGB.

    Args:
        at_least: a JPEG may then be decoded at a part of its size, both sides no smaller, which
            takes less time.
        box: the part that is meant; None for the whole image.
        upright: whether to turn it as EXIF says.

    Raises:
        UserError for a file that is missing, no image of KINDS, damaged or too large, and for a box
            that is not within the image.
    """
    try:
        with open(path, "rb") as file, _opened(file) as image:
            if box:
                check_box(path, box, *_size(image))
            elif at_least:
                image.draft("RGB", (at_least, at_least))
            shown, orientation = _loaded(image)
            shown = shown.crop(box) if box else shown
            return _turned(shown, orientation) if upright else shown
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({reason(error)}). Replace it or leave it out."
        ) from None


def decode(encoded: bytes) -> np.ndarray:
    """The bytes of an image file -> uint8 RGB [H, W, 3], as it is stored.

    Raises:
        ValueError, with the reason, for bytes that are no image of KINDS, damaged or too large.
    """
    with _opened(io.BytesIO(encoded)) as image:
        return np.asarray(_loaded(image)[0])


def orientation(encoded: bytes) -> int:
    """EXIF's of the bytes of an image file, 1 to 8; 1 also where it cannot be told."""
    try:
        return read_header(encoded).orientation
    except ValueError:
        return 1


def size(encoded: bytes) -> tuple[int, int]:
    """Height and width of the bytes of an image file, without memory for its pixels.

    Raises:
        ValueError, as decode does; damage behind the header is not seen.
    """
    if kind_of(encoded[:64]) == "WebP":  # Pillow takes memory for its pixels when it opens one
        return _size_of_webp(encoded)
    with _opened(io.BytesIO(encoded)) as image:
        width, height = _size(image)
        return height, width


def _size_of_webp(encoded: bytes) -> tuple[int, int]:
    """(RFC 9649, sections 2.5 to 2.7)."""
    chunk, numbers = encoded[12:16], encoded[20:30]
    if len(numbers) < 10 or chunk not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ValueError("it begins as a WebP file, but is damaged")
    if chunk == b"VP8 ":
        height, width = (int.from_bytes(numbers[at : at + 2], "little") & 0x3FFF for at in (8, 6))
        return height, width
    if chunk == b"VP8L":
        packed = int.from_bytes(numbers[1:5], "little")
        return 1 + (packed >> 14 & 0x3FFF), 1 + (packed & 0x3FFF)
    height, width = (1 + int.from_bytes(numbers[at : at + 3], "little") for at in (7, 4))
    return height, width


def read_header(encoded: bytes) -> Header:
    """What the bytes of an image file say of it.

    Raises:
        ValueError, as decode does; damage behind the header is not seen.
    """
    with _opened(io.BytesIO(encoded)) as image:
        kind = kind_of(encoded)
        moving = kind != "JPEG" and getattr(image, "is_animated", False)
        # A PNG may have it behind the pixels, where Pillow finds it by decoding them.
        orientation = _orientation(image, behind=b"eXIf" in encoded)
        width, height = _size(image)
        return Header(kind, height, width, orientation, moving)


def _size(image: Image.Image) -> tuple[int, int]:
    """Width and height as they are stored."""
    if _is_tiff(image):  # Pillow tells those of the turned image
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def _is_tiff(image: Image.Image) -> bool:
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def _orientation(image: Image.Image, behind: bool = False) -> int:
    """EXIF's, 1 to 8. behind: whether there may be EXIF behind the pixels, not decoded yet."""
    told = _is_tiff(image) or any(name in image.info for name in _EXIF)
    if not (behind or told):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises any kind, and the pixels may be good
        return 1
    return orientation if orientation in range(1, 9) else 1  # viewers ignore other values


def kind_of(start: bytes) -> str:
    """The kind of a file by its first bytes, 64 will do: one of KINDS, or words such as "a HEIC".

    "" for a kind that is not known.
    """
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        is_still = brand in (b"mif1", b"msf1")
        if brand in (b"avif", b"avis") or (is_still and b"avif" in start[12:64]):
            return "AVIF"
        return "a HEIC" if brand in (b"heic", b"heix", b"mif1", b"msf1") else "a video"
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    return ""


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """The image of a file, not decoded yet.

    Raises:
        UnfitError; ValueError, with the reason, here and for what goes wrong in the caller's block.
    """
    start = file.read(64)
    kind = kind_of(start)
    if kind not in _READERS:
        raise UnfitError(_not_an_image(start, kind))
    file.seek(0)
    try:
        with _READERS[kind](file) as image:
            _check_numbers(image)
            if image.width * image.height > MAX_PIXELS:
                raise UnfitError(
                    f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} that are allowed: make it "
                    "smaller"
                )
            yield image
    except (MemoryError, UnfitError, UserError):
        raise
    except Image.DecompressionBombError:  # a WebP is opened with memory for its pixels
        raise UnfitError(
            f"its pixels are more than the {MAX_PIXELS:,} that are allowed: make it smaller"
        ) from None
    except Exception as error:  # Pillow raises any kind
        raise ValueError(_damage(error, kind)) from None


def _not_an_image(start: bytes, kind: str) -> str:
    what = what_came(start)
    if what:
        return f"it is {what}"
    if kind == "AVIF":
        return "it is an AVIF file, which needs Pillow 11.3 or newer: pip install 'pillow>=11.3'"
    if kind:
        return f"it is {kind} file"
    if not any(start):
        return "the file begins with zeros, as one that was not copied to its end does"
    return f"it is of an unknown kind, and begins with {start[:16]!r}"


def _damage(error: Exception, kind: str) -> str:
    if isinstance(error, UnidentifiedImageError) or not str(error):
        return f"it begins as a {kind} file, but is damaged"
    return reason(error)


def _check_numbers(image: Image.Image) -> None:
    """Raises: UnfitError for a TIFF of other numbers than 1 to 8 or 16 bits, from black to white."""
    if not _is_tiff(image):
        return
    bits = set(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    kinds = set(image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
    if not bits <= {1, 2, 4, 8, 16} or kinds != {1}:
        words = {2: "signed numbers of ", 3: "floating-point numbers of "}.get(max(kinds), "")
        raise UnfitError(
            f"it is a TIFF of {words}{max(bits)} bits, and nothing says what is white: save it with 8 or 16 bits, "
            "unsigned"
        )


def _loaded(image: Image.Image) -> tuple[Image.Image, int]:
    """The pixels as they are stored, as RGB, and EXIF's orientation."""
    if _is_tiff(image):
        # Pillow turns a TIFF while it loads it, and forgets that.
        orientation = _orientation(image)
        return _turned(_as_rgb(image), _UNDONE_BY.get(orientation, orientation)), orientation
    shown = _as_rgb(image)
    # Now that the pixels are there, so is EXIF behind them.
    return shown, _orientation(image)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    white_is_0 = (
        _is_tiff(image) and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    )
    image.load()
    image.info.pop("transparency", None)  # what is dropped anyway Pillow would warn about
    if image.mode.startswith("I"):  # gray of 16 bits, of which convert() makes white
        pixels = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(255 - pixels if white_is_0 else pixels).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "CMYK" and "adobe" not in image.info and not _is_tiff(image):
        image = ImageChops.invert(image)  # Pillow takes all JPEGs for Adobe's, which are inverted
    return image.convert("RGB")


# ------------------------------------------------------------------------- at the start


def check_sample(images: ImageFiles) -> None:
    """Look at the headers of image files before slow work; of many only at SAMPLE, evenly spread.

    The log tells how many EXIF says to turn, and warns where that is not applied. What is missing
    or damaged is left to whoever loads it.

    Raises:
        UserError for a file that is no image of KINDS, or too large, and for a box that is not
            within its image.
    """
    places = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int)) if len(images) else []
    sample = [images.paths[place] for place in places]
    boxes = [images.box(place) for place in places]
    pool = ThreadPoolExecutor(_THREADS)
    try:
        orientations = list(pool.map(_look, sample, boxes))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    turned = [path for path, each in zip(sample, orientations, strict=True) if each != 1]
    if not turned:
        return
    of = "" if len(sample) == len(images) else " that were looked at"
    if images.upright:
        log.info(
            f"{len(turned)} of the {len(sample)} images{of} are stored turned or mirrored ({first_few(turned)}). They "
            "are turned as EXIF says and viewers do."
        )
    else:
        log.warning(
            f"{len(turned)} of the {len(sample)} images{of} are stored turned or mirrored ({first_few(turned)}). EXIF "
            "tells viewers so, but the network sees them as they are stored. python -m data.check "
            "--orientation stored names them; `mogrify -auto-orient` turns the files."
        )


def _look(path: str, box: Box | None) -> int:
    """The orientation of a file, 1 where it cannot be told. Raises: UserError, as check_sample."""
    try:
        with open(path, "rb") as file, _opened(file) as image:
            if box:
                check_box(path, box, *_size(image))
            return _orientation(image)
    except UnfitError as error:
        raise unreadable(path, str(error)) from None
    except (OSError, ValueError):
        return 1


def check_box(path: str | os.PathLike, box: Box, width: int, height: int) -> None:
    """Raises: UnreadableError unless the box is within the image, which is so large as stored."""
    if box[2] > width or box[3] > height:
        raise UnreadableError(
            f"the box {','.join(map(str, box))} of {path} is not within the image, which is {width} pixels wide and "
            f"{height} high as it is stored. Correct x1,y1,x2,y2 or take the line out of the CSV; "
            "python -m data.check finds all such."
        )


def unreadable(path: str, why: str) -> UnreadableError:
    """The error about an image file of a training or an embedding that cannot be decoded."""
    return UnreadableError(
        f"the image {path} cannot be read: {why}. It should be a {KINDS} file. Repair it or take its line out of the "
        "CSV; python -m data.check finds all such."
    )


def out_of_reach(path: str, why: str, tries: int = 1) -> UnreadableError:
    """The error about an image file that the system does not let us read."""
    after = f", in {tries} tries" if tries > 1 else ""
    return UnreadableError(
        f"the image {path} cannot be read{after}: {why}. Look whether its disk or share is there and its permissions "
        "allow it (too many open files: ulimit -n 4096), then call again; a training goes on with --resume."
    )
