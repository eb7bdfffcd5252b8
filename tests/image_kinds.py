"""Image files of all kinds that people have, made here, and what each shows."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

GRADIENT = Image.fromarray(
    np.uint8(20 + np.indices((32, 24)).sum(0)[..., None] * np.array([3, 2, 4]) % 230)
)
GRAY = GRADIENT.convert("L")
PALETTE = GRADIENT.quantize(16)
RGB = np.array(GRADIENT)
GRAY_RGB = np.repeat(np.array(GRAY)[..., None], 3, axis=2)
PALETTE_RGB = np.array(PALETTE.convert("RGB"))


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def oriented(orientation, image=GRADIENT, format="JPEG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format, exif=exif, **options)


def png(color, pixels=None, size=None, bits=16):
    """A PNG of 16 bits, uint16 [H, W, C], or one of that size (width, height) without pixels."""
    width, height = size or pixels.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    rows = [] if pixels is None else [b"\0" + row.astype(">u2").tobytes() for row in pixels]
    parts = {b"IHDR": header, b"IDAT": zlib.compress(b"".join(rows)), b"IEND": b""}
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts.items():
        checksum = zlib.crc32(kind + content)
        file += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return file


def tiff(pixels, photometric, bits=None, kind=1, size=None):
    """A TIFF of numbers as they are, [H, W] or [H, W, C]; size: another one in its header."""
    height, width, *channels = pixels.shape
    width, height = size or (width, height)
    count = channels[0] if channels else 1
    content = pixels.tobytes()
    at = 8 + 2 + 10 * 12 + 4
    entries = {
        256: (4, width),
        257: (4, height),
        258: (3, bits or 8 * pixels.itemsize),
        259: (3, 1),
        262: (3, photometric),
        273: (4, at + 2 * count),
        277: (3, count),
        278: (4, height),
        279: (4, len(content)),
        339: (3, kind),
    }
    ifd = struct.pack("<H", len(entries))
    for tag, (type, value) in entries.items():
        if tag == 258 and count > 1:
            ifd += struct.pack("<HHII", tag, type, count, at)
        else:
            ifd += struct.pack("<HHII", tag, type, 1, value)
    each = struct.pack(f"<{count}H", *[bits or 8 * pixels.itemsize] * count)
    return b"II*\0" + struct.pack("<I", 8) + ifd + bytes(4) + each + content


def bmp(bits, rows, compression=0, palette=b"", masks=(), header_size=40, size=(4, 2)):
    """A BMP, its rows from the lowest to the highest; from above if the height is negative."""
    width, height = size
    header = struct.pack(
        "<IiiHHIIiiII",
        *(header_size, width, height, 1, bits, compression, len(rows), 0, 0),
        *(len(palette) // 4, 0),
    )
    header = header.ljust(header_size, b"\0") + struct.pack(f"<{len(masks)}I", *masks) + palette
    at = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + header + rows


def os2_bmp(rows):
    """The oldest form: a header of 12 bytes, 24 bits."""
    return b"BM" + struct.pack("<IHHIIHHHH", 26 + len(rows), 0, 0, 26, 12, 4, 2, 1, 24) + rows


def padded_gif():
    """A GIF of 24 x 32 whose first picture covers only 10 x 8 of it, in the upper left corner."""
    file = bytearray(encoded(PALETTE.crop((0, 0, 10, 8)), "GIF"))
    file[6:10] = struct.pack("<HH", 24, 32)
    return bytes(file)


def without_adobe(jpeg):
    """A CMYK JPEG without Adobe's marker: its numbers are not inverted."""
    at = jpeg.index(b"\xff\xee")
    (size,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
    return jpeg[:at] + jpeg[at + 2 + size :]


def commented(gif):
    """A GIF with a long comment before its first picture."""
    at = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    return gif[:at] + b"!\xfe" + b"\xff" + b"!" * 255 + b"\x03,,,\0" + gif[at:]


_numbers = np.random.default_rng(0)
NOISE16 = _numbers.integers(0, 2**16, (9, 7, 4), np.uint16)
NOISE8 = (NOISE16 >> 8).astype(np.uint8)
# Of the BMPs below, whose upper row is 0 1 2 3 and lower row 3 2 1 0 in the palette.
COLORS = _numbers.integers(0, 256, (4, 3), np.uint8)
BMP_RGB = COLORS[[[0, 1, 2, 3], [3, 2, 1, 0]]]
_bgra = np.concatenate([COLORS[:, ::-1], np.zeros((4, 1), np.uint8)], axis=1)
_palette = {bits: _bgra.tobytes().ljust(4 * 2**bits, b"\0") for bits in (4, 8)}
_bgr_rows = BMP_RGB[::-1, :, ::-1]
_bgra_rows = np.concatenate([_bgr_rows, np.zeros((2, 4, 1), np.uint8)], axis=2).tobytes()
BMP24 = bmp(24, _bgr_rows.tobytes())
_BGR_MASKS = 0xFF0000, 0xFF00, 0xFF

_transparent = GRADIENT.copy()
_transparent.putalpha(GRAY)
_more = {"save_all": True, "append_images": [GRADIENT.rotate(180)]}
_moving_gif = encoded(GRAY, "GIF", save_all=True, append_images=[GRAY.rotate(180)])
_first_color = int(np.array(PALETTE)[0, 0])
_part = np.array(PALETTE.crop((0, 0, 10, 8)).convert("RGB"))

# What TensorFlow decodes: the file, what it shows, and by how many gray levels its compression may
# be off in the mean.
BY_TENSORFLOW = {
    "JPEG": (encoded(GRADIENT, "JPEG", quality=95, subsampling=0), RGB, 8),
    "gray JPEG": (encoded(GRAY, "JPEG", quality=95), GRAY_RGB, 8),
    "CMYK JPEG": (
        encoded(GRADIENT.convert("CMYK"), "JPEG", quality=95, subsampling=0),
        RGB,
        8,
    ),
    "CMYK JPEG without Adobe's marker": (
        without_adobe(encoded(GRADIENT.convert("CMYK"), "JPEG", quality=95, subsampling=0)),
        255 - RGB,
        160,  # it shows something else; that both decoders agree is tested
    ),
    "16-bit gray PNG": (
        encoded(Image.fromarray(np.array(GRAY).astype(np.uint16) * 257), "PNG"),
        GRAY_RGB,
        0,
    ),
    "16-bit gray PNG with alpha": (
        png(4, NOISE16[..., :2]),
        np.repeat(NOISE8[..., :1], 3, axis=2),
        0,
    ),
    "16-bit PNG": (png(2, NOISE16[..., :3]), NOISE8[..., :3], 0),
    "16-bit PNG with alpha": (png(6, NOISE16), NOISE8[..., :3], 0),
    "gray PNG with alpha": (encoded(GRAY.convert("LA"), "PNG"), GRAY_RGB, 0),
    "PNG with alpha": (encoded(_transparent, "PNG"), RGB, 0),
    "PNG with palette": (encoded(GRAY.convert("P"), "PNG"), GRAY_RGB, 0),
    "PNG with palette of 4 bits": (encoded(PALETTE, "PNG", bits=4), PALETTE_RGB, 0),
    "PNG with palette and alpha": (
        encoded(PALETTE, "PNG", transparency=bytes(range(16))),
        PALETTE_RGB,
        0,
    ),
    "PNG with a transparent color": (
        encoded(GRADIENT, "PNG", transparency=tuple(RGB[0, 0].tolist())),
        RGB,
        0,
    ),
    "moving PNG": (encoded(GRADIENT, "PNG", **_more), RGB, 0),
    "BMP": (BMP24, BMP_RGB, 0),
    "BMP from above": (
        bmp(24, _bgr_rows[::-1].tobytes(), size=(4, -2)),
        BMP_RGB,
        0,
    ),
    "BMP with the longest header": (
        bmp(24, _bgr_rows.tobytes(), header_size=124),
        BMP_RGB,
        0,
    ),
    "BMP of 32 bits": (bmp(32, _bgra_rows), BMP_RGB, 0),
    "BMP of 32 bits with masks": (bmp(32, _bgra_rows, 3, masks=_BGR_MASKS), BMP_RGB, 0),
    "gray BMP": (encoded(GRAY, "BMP"), GRAY_RGB, 0),
    "GIF": (encoded(GRAY, "GIF"), GRAY_RGB, 0),
    "GIF with a comment": (commented(encoded(PALETTE, "GIF")), PALETTE_RGB, 0),
    "moving GIF": (_moving_gif, GRAY_RGB, 0),
    "WebP": (encoded(GRADIENT, "WEBP", lossless=True), RGB, 0),
    "lossy WebP": (encoded(GRADIENT, "WEBP", quality=95), RGB, 8),
    "lossy WebP with EXIF": (oriented(1, format="WEBP", quality=95), RGB, 8),
}
# What it decodes wrong, or refuses.
BY_PILLOW = {
    "BMP of 1 bit": (
        encoded(GRAY.convert("1"), "BMP"),
        np.array(GRAY.convert("1").convert("RGB")),
        0,
    ),
    "BMP of 4 bits": (bmp(4, b"\x32\x10\0\0\x01\x23\0\0", palette=_palette[4]), BMP_RGB, 0),
    "BMP of 8 bits": (bmp(8, b"\3\2\1\0\0\1\2\3", palette=_palette[8]), BMP_RGB, 0),
    "BMP of 8 bits, packed": (
        bmp(8, b"\0\4\3\2\1\0\0\0\0\4\0\1\2\3\0\0\0\1", 1, palette=_palette[8]),
        BMP_RGB,
        0,
    ),
    "BMP of 4 bits, packed": (
        bmp(4, b"\0\4\x32\x10\0\0\0\4\x01\x23\0\0\0\1", 2, palette=_palette[4]),
        BMP_RGB,
        0,
    ),
    "BMP of 16 bits": (
        bmp(16, struct.pack("<8H", *[0x7C00, 0x3E0, 0x1F, 0] * 2)),
        np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]] * 2),
        0,
    ),
    "BMP of 16 bits with masks": (
        bmp(16, struct.pack("<8H", *[0xF800, 0x7E0, 0x1F, 0] * 2), 3, masks=(0xF800, 0x7E0, 0x1F)),
        np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]] * 2),
        0,
    ),
    "BMP of OS/2": (os2_bmp(_bgr_rows.tobytes()), BMP_RGB, 0),
    "GIF whose first picture is a part": (padded_gif(), _part, 0),
    "GIF with a transparent color": (
        encoded(PALETTE, "GIF", transparency=_first_color),
        PALETTE_RGB,
        0,
    ),
    "GIF with a comment and a transparent color": (
        commented(encoded(PALETTE, "GIF", transparency=_first_color)),
        PALETTE_RGB,
        0,
    ),
    "WebP with alpha": (encoded(_transparent, "WEBP", lossless=True, exact=True), RGB, 0),
    "lossy WebP with alpha": (encoded(_transparent, "WEBP", quality=95, exact=True), RGB, 8),
    "moving WebP": (encoded(GRADIENT, "WEBP", lossless=True, **_more), RGB, 0),
    "TIFF": (encoded(GRADIENT, "TIFF"), RGB, 0),
    "TIFF by LZW": (encoded(GRADIENT, "TIFF", compression="tiff_lzw"), RGB, 0),
    "gray TIFF": (encoded(GRAY, "TIFF"), GRAY_RGB, 0),
    "gray TIFF, 0 is white": (tiff(np.array(GRAY), 0), 255 - GRAY_RGB, 0),
    "TIFF of 1 bit": (
        encoded(GRAY.convert("1"), "TIFF", compression="group4"),
        np.array(GRAY.convert("1").convert("RGB")),
        0,
    ),
    "TIFF with palette": (encoded(PALETTE, "TIFF"), PALETTE_RGB, 0),
    "TIFF with alpha": (encoded(_transparent, "TIFF"), RGB, 0),
    "CMYK TIFF": (encoded(GRADIENT.convert("CMYK"), "TIFF"), RGB, 0),
    "16-bit TIFF": (tiff(NOISE16[..., :3].copy(), 2), NOISE8[..., :3], 0),
    "16-bit gray TIFF": (
        tiff(NOISE16[..., 0].copy(), 1),
        np.repeat(NOISE8[..., :1], 3, axis=2),
        0,
    ),
    "16-bit gray TIFF, 0 is white": (
        tiff(NOISE16[..., 0].copy(), 0),
        255 - np.repeat(NOISE8[..., :1], 3, axis=2),
        0,
    ),
    "moving TIFF": (encoded(GRADIENT, "TIFF", save_all=True, append_images=[GRAY]), RGB, 0),
    "AVIF": (encoded(GRADIENT, "AVIF", quality=95, subsampling="4:4:4"), RGB, 8),
    "AVIF with alpha": (encoded(_transparent, "AVIF", quality=95, subsampling="4:4:4"), RGB, 8),
    "moving AVIF": (encoded(GRADIENT, "AVIF", quality=95, **_more), RGB, 8),
}
KINDS = BY_TENSORFLOW | BY_PILLOW

# What is refused, and the true reason.
HUGE_JPEG = encoded(Image.new("L", (16, 16)), "JPEG").replace(
    b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10", b"\xff\xc0\x00\x0b\x08\xfa\x00\xfa\x00"
)
_webp = encoded(GRADIENT, "WEBP", quality=95)
REFUSED = {
    "empty": (b"", "it is an empty file: copy it again"),
    "text": (b"no image", "unknown kind, and begins with b'no image'"),
    "zeros": (bytes(30_000), "begins with zeros"),
    "TIFF of floats": (
        tiff(np.zeros((9, 9), "f4"), 1, kind=3),
        "TIFF of floating.* 32 bits.*save it",
    ),
    "TIFF of 32 bits": (tiff(np.zeros((9, 9), "u4"), 1), "it is a TIFF of 32 bits.*save it"),
    "TIFF of signed numbers": (
        tiff(np.zeros((9, 9), "i2"), 1, kind=2),
        "it is a TIFF of signed numbers of 16 bits.*save it",
    ),
    "TIFF of 12 bits": (tiff(np.zeros((9, 9), "u2"), 1, bits=12), "it is a TIFF of 12 bits"),
    "huge TIFF": (
        tiff(np.zeros((9, 9), "u1"), 1, size=(30_000, 30_000)),
        "30000 x 30000 pixels are more than",
    ),
    "cut TIFF": (encoded(GRADIENT, "TIFF")[:300], "."),
    "TIFF of zeros": (b"II*\0" + bytes(60), "."),
    "AVIF of zeros": (b"\0\0\0\x20ftypavif" + bytes(40), "."),
    "cut AVIF": (encoded(GRADIENT, "AVIF")[:-200], "."),
    "HEIC": (b"\0\0\0\x20ftypheic" + bytes(40), "it is a HEIC file"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is a PostScript file"),
    "web page": (b"<!DOCTYPE html><html>", "it is a web page and not the file that it offers"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "huge PNG": (
        png(0, size=(14_000, 13_500), bits=1) + bytes(20_000),
        "14000 x 13500 pixels are more than the 178,956,970 that are allowed",
    ),
    "huge JPEG": (HUGE_JPEG + bytes(20_000), "64000 x 64000 pixels are more than"),
    "huge WebP": (
        _webp[:26] + struct.pack("<HH", 16383, 16383) + _webp[30:] + bytes(20_000),
        "pixels are more than the 178,956,970",
    ),
    "huge GIF": (
        encoded(PALETTE, "GIF")[:6]
        + struct.pack("<HH", 65535, 65535)
        + encoded(PALETTE, "GIF")[10:],
        "65535 x 65535 pixels are more than",
    ),
    "huge BMP": (bmp(24, bytes(24), size=(30_000, 30_000)), "30000 x 30000 pixels"),
    "BMP of odd masks": (
        bmp(32, bytes(32), 3, masks=(0xF, 0xF0, 0xF00)),
        "Unsupported BMP bitfields layout",
    ),
    "cut JPEG": (encoded(GRADIENT, "JPEG")[:-300], "[Tt]runcated"),
    "cut PNG": (encoded(GRADIENT, "PNG")[:60], "damaged|truncated"),
    "cut BMP": (BMP24[:-9], "truncated"),
    "cut GIF": (encoded(GRADIENT, "GIF")[:30], "damaged|truncated|no more images|EOF"),
    "cut WebP": (_webp[:40], "damaged|truncated|could not"),
}
