"""Pictures of a training batch: what the network is given, and what it confuses."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from common import UserError, visible
from data.dataset import ImageFiles
from data.pictures import open_image

_GRAY, _GREEN, _RED = "#909090", "#2e8b2e", "#c62828"
_WIDTH, _HEIGHT = 104, 128  # of an image on a card, in pixels
_EDGE, _LINE = 3, 15  # width of a frame and height of a line of text, in pixels


class Triplet(NamedTuple):
    """Three rows of a batch."""

    anchor: int
    positive: int
    negative: int


def network_input(images: np.ndarray, batch_k: int, most: int = 16) -> np.ndarray:
    """Draw the first images of a batch, the K of a pid side by side.

    Args:
        images: float32 RGB in 0..255 [B, H, W, 3], K of each pid in a row; a device's part of a
            batch will do.
        most: number of images, unless those of one pid are more.

    Returns:
        uint8 RGB [h, w, 3].
    """
    pids = max(1, min(most, len(images)) // batch_k)
    shown = np.clip(np.rint(images[: pids * batch_k]), 0, 255).astype(np.uint8)
    starts = range(0, len(shown), batch_k)
    strips = [np.concatenate(shown[start : start + batch_k], axis=1) for start in starts]
    return _grid(strips, columns=2)


def hardest_triplets(pids: Sequence, dists: np.ndarray, count: int) -> list[Triplet]:
    """The triplets that are most wrong: the largest d(anchor, positive) - d(anchor, negative).

    Args:
        pids: of the batch, B of them.
        dists: float [B, B].

    Returns:
        at most `count` anchors, the worst first, each with its furthest positive and its closest
        negative. An image without a positive or a negative is no anchor.
    """
    of_row = np.asarray(pids, dtype=object)
    same = of_row[:, None] == of_row
    positives = np.where(same & ~np.eye(len(of_row), dtype=bool), dists, -np.inf)
    negatives = np.where(same, np.inf, dists)
    differences = positives.max(axis=1) - negatives.min(axis=1)
    order = np.argsort(-differences, kind="stable")
    anchors = [int(row) for row in order if np.isfinite(differences[row])]
    return [
        Triplet(row, int(positives[row].argmax()), int(negatives[row].argmin()))
        for row in anchors[:count]
    ]


def draw_triplets(
    images: ImageFiles, pids: Sequence[str], dists: np.ndarray, count: int = 8
) -> np.ndarray:
    """Draw the hardest triplets of a batch, one in a row.

    The furthest positive has a green frame, the closest negative a red one. Below each image stand
    its distance to the anchor, its pid and its file's name. A file that cannot be read is a gray
    field.

    Args:
        images, pids: of the batch, B of each.
        dists: float [B, B].

    Returns:
        uint8 RGB [h, w, 3].
    """

    def card(row: int, text: str, color: str) -> np.ndarray:
        name = os.path.basename(images.paths[row])
        return _card(images.select([row]), [text, f"pid {pids[row]}", name], color)

    strips = []
    for anchor, positive, negative in hardest_triplets(pids, dists, count):
        cards = [
            card(anchor, "anchor", _GRAY),
            card(positive, f"positive: {dists[anchor, positive]:.3f}", _GREEN),
            card(negative, f"negative: {dists[anchor, negative]:.3f}", _RED),
        ]
        strips.append(np.concatenate(cards, axis=1))
    return _grid(strips, columns=1)


def _card(image: ImageFiles, lines: list[str], color: str) -> np.ndarray:
    """An image in a frame, with lines of text below, the first in color: uint8 [h, w, 3]."""
    width = _WIDTH + 2 * _EDGE
    height = _HEIGHT + 2 * _EDGE
    card = Image.new("RGB", (width + 4, height + len(lines) * _LINE + 6), "white")
    draw = ImageDraw.Draw(card)
    frame = 0, 0, width - 1, height - 1
    try:
        whole = open_image(image.paths[0], box=image.box(0), upright=image.upright)
        whole = ImageOps.mirror(whole) if image.is_mirrored(0) else whole
        shown = ImageOps.contain(whole, (_WIDTH, _HEIGHT))
    except (UserError, MemoryError):  # a picture less is no reason to end a training
        draw.rectangle(frame, _GRAY, color, _EDGE)
    else:
        draw.rectangle(frame, None, color, _EDGE)
        left = _EDGE + (_WIDTH - shown.width) // 2
        top = _EDGE + (_HEIGHT - shown.height) // 2
        card.paste(shown, (left, top))
    font = ImageFont.load_default(12)
    for number, text in enumerate(map(visible, lines)):
        while font.getlength(text) > width:
            text = "…" + text[2:]  # ends of names tell more than beginnings
        position = 0, height + 2 + number * _LINE
        draw.text(position, text, color if number == 0 else "black", font)
    return np.asarray(card)


def _grid(pictures: list[np.ndarray], columns: int, gap: int = 12) -> np.ndarray:
    """Pictures of one size, uint8, in rows of `columns` on white; one white pixel if there are none."""
    if not pictures:
        return np.full((1, 1, 3), 255, np.uint8)
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top = number // columns * (height + gap)
        left = number % columns * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid
