"""The bytes of an image file -> pixels, by TensorFlow where it is right and by Pillow where not.

What is right is what data/pictures.py shows to people, but for the rounding of JPEG. Pixels come as
they are stored; `orientation` tells how EXIF says to turn them, and `turn` does so.
"""

import numpy as np
import tensorflow as tf

import common
from data import pictures

# How TIFF and AVIF begin; HEIC does, too.
_TIFF_OR_AVIF = r"II[*+]\x00|MM\x00[*+]|\C{4}ftyp"
# What TensorFlow's decoder reads wrong, or refuses: palettes and other BMPs, GIFs whose first picture
# is a part or transparent, transparent and moving WebP, TIFF, AVIF.
_FOR_PILLOW = rf"(BM|GIF8|RIFF\C{{4}}WEBPVP8[LX]|{_TIFF_OR_AVIF})\C*"
# Bytes that more than MAX_PIXELS take at least: a PNG of 1 bit packs 1032 bytes into one.
_SMALL_FILE = 20_000

# By how much TensorFlow decodes a JPEG smaller, in less time.
_RATIOS = (1, 2, 4, 8)

# What stands before an orientation: EXIF's of a JPEG, of a PNG in two ways, of a WebP; Adobe's, plain
# or in a PNG.
_MARKS = "|".join(
    [
        r"Exif\x00\x00",
        "eXIf",
        "Raw profile type exif",
        "WEBPVP8X",
        "tiff:Orientation",
        "XML:com.adobe.xmp",
    ]
)
# It stands before the pixels or behind them, in so many bytes.
_MARKS_WITHIN = 2**15
# The orientation among the first entries of EXIF, of 12 bytes each, in both orders of bytes.
_EXIF_ORIENTATION = (
    r"\C*?(?:Exif\x00\x00|eXIf|EXIF\C{4})(?:"
    r"II\*\x00\x08\x00{3}\C{2}(?:\C{12}){0,60}?\x12\x01\x03\x00\x01\x00{3}([\x01-\x08])\x00|"
    r"MM\x00\*\x00{3}\x08\C{2}(?:\C{12}){0,60}?\x01\x12\x00\x03\x00{3}\x01\x00([\x01-\x08]))\C*"
)
_ADOBES_ORIENTATION = r"\C*?tiff:Orientation(?:=\"|>)([1-8])\C*"


def decode(encoded: tf.Tensor, ratio: tf.Tensor | None = None) -> tf.Tensor:
    """The bytes of an image file of pictures.KINDS, whatever its name -> uint8 RGB [H, W, 3].

    Shows what pictures.decode does, not turned. TensorFlow decodes JPEG, PNG and plain WebP, in
    parallel; the others are left to Pillow.

    Args:
        ratio: as of reduction; H and W are then the ratio's part of those of the file, rounded up.

    Raises:
        tf.errors.OpError, or eagerly a ValueError of Pillow's, for what is no such file, damaged,
        or has more than pictures.MAX_PIXELS. Which of these, `fault` tells.
    """
    with tf.device("CPU:0"):  # where text and files are
        for_pillow = tf.strings.regex_full_match(encoded, _FOR_PILLOW)
        may_be_large = tf.strings.length(encoded) > _SMALL_FILE

        def decode_with_care():
            return tf.cond(
                for_pillow,
                lambda: _decode_by_pillow(encoded),
                # Not an assertion: its state could make a deterministic tf.data give up threads.
                lambda: _decode_by_tensorflow(
                    tf.where(_fits(encoded), encoded, "too large"), ratio
                ),
            )

        return tf.cond(
            for_pillow | may_be_large,
            decode_with_care,
            lambda: _decode_by_tensorflow(encoded, ratio),
        )


def _decode_by_tensorflow(encoded: tf.Tensor, ratio: tf.Tensor | None) -> tf.Tensor:
    def whole():
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    def reduced_by(number):
        return lambda: tf.io.decode_jpeg(encoded, channels=3, ratio=number)

    if ratio is None:
        image = whole()
    else:
        ways = [whole, *map(reduced_by, _RATIOS[1:])]
        image = tf.switch_case(tf.searchsorted(_RATIOS, ratio[None])[0], ways)
    return tf.ensure_shape(image, [None, None, 3])


def _decode_by_pillow(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.numpy_function(_decode_content, [encoded], tf.uint8, stateful=False)
    image.set_shape([None, None, 3])
    return image


def _decode_content(content: bytes | np.ndarray) -> np.ndarray:
    return pictures.decode(_as_bytes(content))


def _as_bytes(content: bytes | np.ndarray) -> bytes:
    """content: bytes, and where TensorFlow runs eagerly an array of one object."""
    return content if isinstance(content, bytes) else content.item()


def _fits(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the header of a JPEG, PNG or plain WebP tells no more than MAX_PIXELS: bool."""
    start = _start(encoded)

    def jpeg_size():
        return tf.image.extract_jpeg_shape(encoded)[:2]

    def png_size():
        return tf.io.decode_raw(tf.strings.substr(start, 16, 8), tf.int32, little_endian=False)

    def webp_size():
        size = tf.io.decode_raw(tf.strings.substr(start, 26, 4), tf.uint16)
        return tf.cast(size, tf.int32) & 0x3FFF  # the upper two bits are a scale, for viewers

    size = tf.case(
        [
            (tf.strings.substr(start, 0, 3) == b"\xff\xd8\xff", jpeg_size),
            (tf.strings.substr(start, 0, 4) == b"\x89PNG", png_size),
            (tf.strings.substr(start, 8, 8) == b"WEBPVP8 ", webp_size),
        ],
        default=lambda: tf.zeros(2, tf.int32),
    )
    width_or_height = tf.cast(size, tf.int64)
    return width_or_height[0] * width_or_height[1] <= pictures.MAX_PIXELS


def _start(encoded: tf.Tensor) -> tf.Tensor:
    """The first 80 bytes, filled up with zeros."""
    return tf.strings.substr(tf.strings.substr(encoded, 0, 80) + b"\0" * 80, 0, 80)


# ------------------------------------------------------------------------- large JPEGs


def reduction(
    encoded: tf.Tensor, box: tf.Tensor | None, orientation: tf.Tensor, at_least: tuple[int, int]
) -> tf.Tensor:
    """By how much a JPEG can be decoded smaller, and still be resized to a size without enlarging.

    Args:
        encoded: the bytes of an image file.
        box: int32 [4], the part that is meant, as of data.dataset.Dataset; None for all.
        orientation: by which it is turned after that, int32 [].
        at_least: height and width that it is resized to.

    Returns:
        int32 [], one of 1, 2, 4 and 8; 1 for all files that are no JPEGs.
    """

    def of_jpeg():
        stored = tf.image.extract_jpeg_shape(encoded)[:2]
        part = stored if box is None else _size_of_part(stored, box)
        needed = tf.where(orientation >= 5, at_least[::-1], at_least)
        times = tf.reduce_min(part // needed)
        return tf.reduce_max(tf.where(times >= _RATIOS, _RATIOS, 1))

    with tf.device("CPU:0"):
        is_jpeg = tf.strings.substr(_start(encoded), 0, 3) == b"\xff\xd8\xff"
        return tf.cond(is_jpeg, of_jpeg, lambda: tf.constant(1))


def _size_of_part(stored: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Height and width of a box, int32 [2]; 0 for one beyond the image, which all of it will tell."""
    first, end = box[1::-1], box[:1:-1]
    within = tf.reduce_all(end <= stored)
    return tf.where(box[2] > 0, tf.where(within, end - first, 0), stored)


def reduced_box(box: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """A box in an image that is decoded smaller: all pixels that have a part of it, int32 [4]."""
    return tf.concat([box[:2] // ratio, (box[2:] + ratio - 1) // ratio], axis=0)


# ------------------------------------------------------------------------- orientation


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """EXIF's of the bytes of an image file, 1 to 8: int32 [].

    A file without EXIF, for which it is 1, takes some microseconds; the others are left to Pillow.
    """
    with tf.device("CPU:0"):
        return tf.cond(
            _may_be_turned(_ends(encoded)),
            lambda: _orientation_by_pillow(encoded),
            lambda: tf.constant(1),
        )


def turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn and mirror an image as viewers do: uint8 [H, W, 3] -> the same, or [W, H, 3].

    Args:
        orientation: EXIF's, int32 [], 1 to 8.
    """

    def turned():
        transposed = tf.cond(orientation >= 5, lambda: _transposed(image), lambda: image)
        upside_down = _is_one_of(orientation, [3, 4, 7, 8])
        mirrored = _is_one_of(orientation, [2, 3, 6, 7])
        return tf.raw_ops.Reverse(tensor=transposed, dims=tf.stack([upside_down, mirrored, False]))

    with tf.device("CPU:0"):
        return tf.ensure_shape(tf.cond(orientation == 1, lambda: image, turned), [None, None, 3])


def _transposed(image: tf.Tensor) -> tf.Tensor:
    """Rows as columns. Not by tf.transpose: oneDNN says in an error of some processors that it has none."""
    height, width = tf.unstack(tf.shape(image)[:2])
    pixels = tf.range(width)[:, None] + width * tf.range(height)  # their places, [W, H]
    return tf.gather(tf.reshape(image, [-1, 3]), pixels)


def _is_one_of(number: tf.Tensor, numbers: list[int]) -> tf.Tensor:
    return tf.reduce_any(number == tf.constant(numbers))


def _ends(encoded: tf.Tensor) -> tf.Tensor:
    """The first and the last bytes, where _MARKS are."""
    size = tf.strings.length(encoded)
    return tf.cond(
        size <= 2 * _MARKS_WITHIN,
        lambda: encoded,
        lambda: (
            tf.strings.substr(encoded, 0, _MARKS_WITHIN)
            + tf.strings.substr(encoded, size - _MARKS_WITHIN, _MARKS_WITHIN)
        ),
    )


def _may_be_turned(ends: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_full_match(ends, rf"(?:{_TIFF_OR_AVIF})\C*|\C*(?:{_MARKS})\C*")


def _orientation_by_pillow(encoded: tf.Tensor) -> tf.Tensor:
    found = tf.numpy_function(_orientation_of_content, [encoded], tf.int32, stateful=False)
    return tf.ensure_shape(found, [])


def _orientation_of_content(content: bytes | np.ndarray) -> np.int32:
    return np.int32(pictures.orientation(_as_bytes(content)))


def _exportable_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """As orientation, without Python.

    Raises:
        tf.errors.InvalidArgumentError for a PNG with EXIF as a text.
    """
    ends = _ends(encoded)

    def read():
        as_text = tf.strings.regex_full_match(ends, r"\C*Raw profile type exif\C*")
        told = "a PNG with EXIF as a text, which may turn it: save it without EXIF"
        with tf.control_dependencies([tf.debugging.Assert(~as_text, [told])]):
            found = tf.strings.regex_replace(ends, _EXIF_ORIENTATION, r"\1\2")
        found = tf.cond(
            tf.strings.length(found) == 1,
            lambda: found,
            lambda: tf.strings.regex_replace(ends, _ADOBES_ORIENTATION, r"\1"),
        )
        digit = tf.where(tf.strings.length(found) == 1, found, "1")
        # A number, or a digit as text, whose lower bits are the number.
        return tf.cast(tf.io.decode_raw(digit, tf.uint8)[0] & 15, tf.int32)

    return tf.cond(_may_be_turned(ends), read, lambda: tf.constant(1))


# ------------------------------------------------------------------------- without Python


def decode_exportable(
    encoded: tf.Tensor, upright: bool = False, at_least: tuple[int, int] | None = None
) -> tf.Tensor:
    """As decode, for a graph that other programs run, without Python.

    Args:
        upright: whether to turn the image as EXIF says.
        at_least: the size that it is resized to, where a JPEG is decoded smaller; see reduction.

    Raises:
        tf.errors.InvalidArgumentError also for what TensorFlow would decode wrong: BMPs with colors
        in a palette, of 16 bits, packed or with a header of OS/2; GIFs whose first picture is a
        part or transparent; transparent and moving WebP; TIFF and AVIF; upright, PNGs with EXIF as
        a text.
    """
    start = _start(encoded)
    foreign = tf.strings.regex_full_match(start, rf"(?:{_TIFF_OR_AVIF})\C*")
    plain = tf.case(
        [
            (tf.strings.substr(start, 0, 2) == b"BM", lambda: _is_plain_bmp(encoded)),
            (tf.strings.substr(start, 0, 4) == b"GIF8", lambda: _is_plain_gif(encoded)),
            (tf.strings.substr(start, 8, 4) == b"WEBP", lambda: _is_plain_webp(start)),
            (foreign, lambda: False),
        ],
        default=lambda: True,
    )
    large = f"an image of more than {pictures.MAX_PIXELS} pixels: make it smaller"
    special = (
        "a BMP other than of 24 or 32 bits, a GIF whose first picture is a part or transparent, a transparent or "
        "moving WebP, a TIFF or an AVIF: save it as PNG"
    )
    checks = [
        tf.debugging.Assert(_fits(encoded), [large]),
        tf.debugging.Assert(plain, [special]),
    ]
    turned = _exportable_orientation(encoded) if upright else tf.constant(1)
    with tf.control_dependencies(checks):
        checked = tf.identity(encoded)
        ratio = None if at_least is None else reduction(checked, None, turned, at_least)
        image = _decode_by_tensorflow(checked, ratio)
    return turn(image, turned) if upright else image


def _is_plain_bmp(encoded: tf.Tensor) -> tf.Tensor:
    start = _start(encoded)
    header_size = _number(start, 14, tf.int32)
    bits = _number(start, 28, tf.uint16)
    compression = _number(start, 30, tf.int32)
    known = (header_size == 40) | (header_size == 108) | (header_size == 124)
    # For gray, palettes hold 0, 1, 2 ...: TensorFlow takes the numbers and not the colors.
    ramp = b"".join(bytes([gray, gray, gray, 0]) for gray in range(256))
    palette_at = tf.where(known, header_size, 0) + 14
    is_gray = tf.strings.substr(encoded + b"\0" * 2048, palette_at, 1024) == ramp
    blue_first = tf.strings.substr(start, 54, 12) == b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
    plain = (compression == 0) & ((bits == 24) | (bits == 32) | ((bits == 8) & is_gray))
    return known & (plain | ((compression == 3) & (bits == 32) & blue_first))


def _is_plain_gif(encoded: tf.Tensor) -> tf.Tensor:
    content = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    flags = content[10]
    colors = tf.where(flags & 0x80 != 0, tf.bitwise.left_shift(2, flags & 7), 0)

    def skip_extension(at, transparent):
        is_control = content[at + 1] == 0xF9
        transparent = tf.where(is_control, content[at + 3] & 1 == 1, transparent)
        (at,) = tf.while_loop(
            lambda at: content[at] != 0, lambda at: (at + content[at] + 1,), (at + 2,)
        )
        return at + 1, transparent

    at, transparent = tf.while_loop(
        lambda at, _: content[at] == 0x21, skip_extension, (13 + 3 * colors, False)
    )
    # Left and top are 0, width and height those of the screen.
    whole = tf.concat([[0x2C, 0, 0, 0, 0], content[6:10]], axis=0)
    return ~transparent & tf.reduce_all(content[at : at + 9] == whole)


def _is_plain_webp(start: tf.Tensor) -> tf.Tensor:
    chunk = tf.strings.substr(start, 12, 4)
    with_alpha = (chunk == b"VP8L") & (_number(start, 24, tf.uint8) & 0x10 != 0)
    alpha_or_moving = (chunk == b"VP8X") & (_number(start, 20, tf.uint8) & 0x12 != 0)
    return ~(with_alpha | alpha_or_moving)


def _number(start: tf.Tensor, at: int, dtype: tf.DType) -> tf.Tensor:
    """One of a header's, which are little-endian."""
    return tf.io.decode_raw(tf.strings.substr(start, at, dtype.size), dtype)[0]


def fault(encoded: bytes) -> str | None:
    """Why the bytes of an image file cannot be decoded; None if they can be."""
    try:
        decode(tf.constant(encoded))
    except (tf.errors.OpError, ValueError) as error:
        told_by_tensorflow = common.reason(error)
    else:
        return None
    try:
        pictures.decode(encoded)
    except ValueError as error:
        return str(error)
    return told_by_tensorflow
