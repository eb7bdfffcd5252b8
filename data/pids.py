"""Pids that are probably not what was meant: spelled in two ways, missing, or of too few images."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from common import first_few

# The share of pids with few images that is warned about. A convention, not measured.
MANY = 0.25

_NUMBER = re.compile(r"(-?)\+?0*([0-9]+)(?:\.([0-9]*?)0*)?")
# What pandas, NumPy, spreadsheets and data bases write where there is no value.
_MISSING = {"nan", "none", "null", "na", "n/a", "<na>", "#n/a"}


def warnings(pids: Sequence[str], K: int | None) -> list[str]:
    """What is doubtful in the pids of a training set, a line for each kind; [] if nothing is.

    Args:
        pids: of each image.
        K: images of a pid in a batch; None where batches do not repeat images to have so many.
    """
    lines = []
    alike = look_alikes(pids)
    if alike:
        lines.append(
            f"pids that look alike but count as different ({len(alike)} in all): {first_few(alike)}. Spell each pid in "
            "one way, unless they are meant to differ."
        )
    missing = read_like_missing(pids)
    if missing:
        lines.append(
            f"pids that read like a missing value: {first_few(missing)}. Leave these images out, unless they show one "
            "identity."
        )
    return lines + ([] if K is None else few_images(pids, K))


def look_alikes(pids: Sequence[str]) -> list[str]:
    """Pids that differ, but not to the eye or not as numbers: "'1' = '0001' = '1.0'" and so on.

    What does not count: space around and within, invisible characters such as a byte order mark
    (BOM) within a joined file, upper and lower case, forms of one character, zeros before a number
    and after its decimal point.
    """
    alike = defaultdict(list)
    for pid in dict.fromkeys(pids):
        alike[_meant(pid)].append(pid)
    return [" = ".join(_visible(names)) for names in alike.values() if len(names) > 1]


def read_like_missing(pids: Sequence[str]) -> list[str]:
    """Pids such as nan, each with the number of its images."""
    return [
        f"{pid!r} ({count} images)"
        for pid, count in Counter(pids).items()
        if _meant(pid) in _MISSING | {""}
    ]


def few_images(pids: Sequence[str], K: int) -> list[str]:
    """A warning, [] or one line, where a training would learn to tell copies.

    A pid with fewer than K images repeats them in a batch. It is warned about where a share of MANY
    of the pids or more have fewer; this includes all sets where half of the pids have one image.
    """
    K = max(K, 2)  # a single image never makes a pair
    images_of = Counter(pids).values()
    few = sum(count < K for count in images_of)
    single = sum(count == 1 for count in images_of)
    lack = f"fewer than {K} images, {single} of them a single one"
    return _copies(few, len(images_of), lack, "--batch_k")


def often_drawn(few: int, count: int) -> list[str]:
    """The same warning where pids are drawn at random, [] or one line.

    Args:
        few: how many of `count` pids have fewer images than a batch draws of them on average.
    """
    lack = "fewer images than a batch draws of them on average"
    return _copies(few, count, lack, "--batch_size")


def _copies(few: int, count: int, lack: str, flag: str) -> list[str]:
    share = few / count
    if share < MANY:
        return []
    return [
        f"{few} of the {count} pids ({share:.0%}) have {lack}. "
        "A batch repeats their images, and copies are easy to tell: a low loss and a high precision mean little then. "
        f"Add images of these pids, leave them out, or give a smaller {flag}."
    ]


def _meant(pid: str) -> str:
    """What a pid probably stands for: equal for pids that look alike."""
    text = unicodedata.normalize("NFKC", pid)
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # BOM, zero-width space
    text = " ".join(text.split()).casefold()
    number = _NUMBER.fullmatch(text)
    if number:
        sign, whole, fraction = number.groups()
        return f"{sign}{whole}.{fraction or ''}"
    return text


def _visible(names: Sequence[str]) -> list[str]:
    """The names, quoted; with the codes of their characters where they would look the same."""
    shown = [repr(name) for name in names]
    distinct = {unicodedata.normalize("NFKC", name) for name in shown}
    return shown if len(distinct) == len(names) else [ascii(name) for name in names]
