"""JSON files, which people edit and which come from elsewhere: read here alone.

Only what can be written again is read: no NaN, no number beyond 64 bits, no key twice, no half of a
character.
"""

import json
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any

DIGEST = "digest"

_HALF = re.compile(rb"\\u[dD]")  # UTF-8 itself has none


def read(path: str | os.PathLike) -> Any:
    """The value that a file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON. The message says what is wrong with it.
    """
    return parse(Path(path).read_bytes())


def parse(content: bytes) -> Any:
    """The value of the content of a file, UTF-8 with or without a byte order mark.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = json.loads(
            content.decode("utf-8-sig"),
            parse_constant=_refuse,
            parse_int=_integer,
            parse_float=_finite,
            object_pairs_hook=_object,
        )
        if _HALF.search(content):
            # Text that is no Unicode would fail where it is shown. What stands for the bytes of a
            # file name (surrogateescape) may stay.
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!a} is half of a character") from None
    return value


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits[:20]}... is a number beyond 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is a number beyond 64 bits")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:50]!a} stands there twice")
    return values


# ------------------------------------------------------------------------- has it changed?


def with_digest(values: dict[str, Any]) -> dict[str, Any]:
    """The same, as JSON has it, with a digest by which `is_changed` sees a later change."""
    values = json.loads(json.dumps(values))  # keys become text, which changes their order
    return values | {DIGEST: _digest(values)}


def is_changed(values: dict[str, Any]) -> bool:
    """Whether values are not those that their digest is of. False where there is none."""
    return DIGEST in values and values[DIGEST] != _digest(values)


def _digest(values: dict[str, Any]) -> str:
    values = {name: value for name, value in values.items() if name != DIGEST}
    # A change of one character cannot escape a CRC. Spaces and the order of keys do not matter.
    text = json.dumps(values, sort_keys=True)
    return f"crc32 {zlib.crc32(text.encode()):08x}"
