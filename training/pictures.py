"""Pictures of a training batch: what the network is given, and what it confuses."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

_GREY, _GREEN, _RED = "#909090", "#2e8b2e", "#c62828"


def network_input(images: np.ndarray, batch_k: int, most: int = 16) -> np.ndarray:
    """The first images of a batch, the K of a pid side by side.

    Args:
      images: float32 RGB 0..255 [B, H, W, 3], K of each pid in a row; a device's part of a batch
          will do.
      most: how many images, unless those of one pid are more.

    Returns: uint8 RGB [h, w, 3].
    """
    count = max(1, min(most, len(images)) // batch_k)
    images = np.clip(np.rint(images[: count * batch_k]), 0, 255).astype(np.uint8)
    return _grid(
        [
            np.concatenate(images[row : row + batch_k], axis=1)
            for row in range(0, len(images), batch_k)
        ],
        2,
    )


def hardest_triplets(pids: Sequence, dists: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The triplets that are most wrong: those of the largest d(anchor, positive) - d(anchor,
    negative) come first.

    Args:
      pids: [B].
      dists: float [B, B].

    Returns: (anchor, its furthest positive, its closest negative), `count` at most. An image that
      has no positive or no negative is no anchor.
    """
    pids = np.asarray(pids)
    same = pids[:, None] == pids
    positives = np.where(same & ~np.eye(len(pids), dtype=bool), dists, -np.inf)
    negatives = np.where(same, np.inf, dists)
    differences = positives.max(axis=1) - negatives.min(axis=1)
    anchors = [
        int(row) for row in np.argsort(-differences, kind="stable") if np.isfinite(differences[row])
    ]
    return [
        (row, int(positives[row].argmax()), int(negatives[row].argmin())) for row in anchors[:count]
    ]


def draw_triplets(
    paths: Sequence[str], pids: Sequence[str], dists: np.ndarray, count: int = 8
) -> np.ndarray:
    """The hardest triplets of a batch: each anchor with its furthest positive (green) and closest
    negative (red).

    Below each image stand its distance to the anchor, its pid and its file's name. A file that
    cannot be read is a grey field.

    Args:
      paths, pids: of the batch's images, [B] each.
      dists: float [B, B].

    Returns: uint8 RGB [h, w, 3].
    """
    drawn = []
    for anchor, positive, negative in hardest_triplets(pids, dists, count):
        texts = (
            "anchor",
            f"positive: {dists[anchor, positive]:.3f}",
            f"negative: {dists[anchor, negative]:.3f}",
        )
        rows = zip((anchor, positive, negative), texts, (_GREY, _GREEN, _RED), strict=True)
        drawn.append(
            np.concatenate(
                [_card(paths[row], text, pids[row], color) for row, text, color in rows], axis=1
            )
        )
    return _grid(drawn, columns=1)


def _card(
    path: str, text: str, pid: str, color: str, size: tuple[int, int] = (104, 128)
) -> np.ndarray:
    """An image file, fitted into `size` (width, height), in a frame, with lines of text below:
    uint8 [h, w, 3].
    """
    edge, line = 3, 15
    card = Image.new("RGB", (size[0] + 2 * edge + 4, size[1] + 2 * edge + 3 * line + 6), "white")
    draw, font = ImageDraw.Draw(card), ImageFont.load_default(12)
    frame = 0, 0, size[0] + 2 * edge - 1, size[1] + 2 * edge - 1
    try:
        with Image.open(path) as file:
            image = ImageOps.contain(file.convert("RGB"), size)
    except Exception:  # Pillow raises any kind, and a picture less is no reason to end a training
        draw.rectangle(frame, _GREY, color, edge)
    else:
        draw.rectangle(frame, None, color, edge)
        card.paste(
            image, (edge + (size[0] - image.width) // 2, edge + (size[1] - image.height) // 2)
        )
    for number, words in enumerate((text, f"pid {pid}", os.path.basename(path))):
        while font.getlength(words) > size[0] + 2 * edge:
            words = "…" + words[2:]  # ends of names tell more than beginnings
        draw.text(
            (0, size[1] + 2 * edge + 2 + number * line),
            words,
            color if number == 0 else "black",
            font,
        )
    return np.asarray(card)


def _grid(pictures: list[np.ndarray], columns: int, gap: int = 12) -> np.ndarray:
    """uint8 pictures of one size, in rows of `columns`, on white; a white pixel if there are none."""
    if not pictures:
        return np.full((1, 1, 3), 255, np.uint8)
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid
