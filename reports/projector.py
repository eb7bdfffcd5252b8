"""TensorBoard's projector: embeddings as points in space, each shown as its image, with pid and
fid.

In an experiment:

    projector_config.pbtxt  names the sets of embeddings, for TensorBoard
    projector/NAME/         one of them: tensors.tsv, metadata.tsv, and sprite.png, all thumbnails in one picture
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import common
from common import UserError
from runtime import files

# TensorBoard takes sprites of at most 8192 x 8192 pixels. These make 6400 x 6400, which a browser
# still loads well.
THUMBNAIL = 64
MOST_IMAGES = 10_000


def read_config(experiment_root: str | os.PathLike):
    """The projector's configuration of an experiment, empty where there is none yet: a
    ProjectorConfig.

    Raises: UserError for a file that is none.
    """
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig

    path = Path(experiment_root, "projector_config.pbtxt")
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ProjectorConfig())
    except FileNotFoundError:
        return ProjectorConfig()
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no configuration of TensorBoard's projector ({common.reason(error)}). Remove or repair it."
        ) from None


def sprite(paths: Sequence[str]) -> Image.Image:
    """Thumbnails of image files, row by row in a square of them, each in the middle of a
    transparent square.

    TensorBoard draws points as squares, and finds the images only where there are as many rows as
    columns.

    Raises: UserError for a file that is no image.
    """
    side = math.isqrt(len(paths) - 1) + 1
    picture = Image.new("RGBA", (side * THUMBNAIL, side * THUMBNAIL))
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                image.draft(
                    "RGB", (THUMBNAIL, THUMBNAIL)
                )  # a large JPEG is decoded at a part of its size
                thumbnail = ImageOps.contain(image.convert("RGB"), (THUMBNAIL, THUMBNAIL))
        except (OSError, SyntaxError) as error:  # Pillow raises the latter for a broken PNG
            raise UserError(
                f"{path} cannot be read as an image ({error}). Replace it or leave it out."
            ) from None
        row, column = divmod(number, side)
        left, top = (THUMBNAIL - thumbnail.width) // 2, (THUMBNAIL - thumbnail.height) // 2
        picture.paste(thumbnail, (column * THUMBNAIL + left, row * THUMBNAIL + top))
    return picture


def write(
    experiment_root: str | os.PathLike,
    name: str,
    emb: np.ndarray,
    pids: Sequence[str],
    fids: Sequence[str],
    paths: Sequence[str],
) -> None:
    """Add a set of embeddings to what the projector shows, or replace the one of the same name.

    Args:
      name: what it is called there, and its folder.
      emb: float [N, D], N at most MOST_IMAGES. pids, fids, paths: of the N images.

    Raises: UserError for an image that cannot be read, and as read_config does.
    """
    from google.protobuf import text_format

    root, config, folder = (
        Path(experiment_root),
        read_config(experiment_root),
        Path("projector", name),
    )
    (root / folder).mkdir(parents=True, exist_ok=True)
    tensors, metadata, thumbnails = (
        folder / file for file in ("tensors.tsv", "metadata.tsv", "sprite.png")
    )
    with files.complete_file(root / thumbnails) as partial:
        sprite(paths).save(partial, "PNG")
    # Binary would be smaller, but TensorBoard takes it for text when it happens to begin like some.
    with files.complete_file(root / tensors) as partial:
        np.savetxt(partial, emb, "%.6g", delimiter="\t")
    with files.complete_file(root / metadata) as partial:
        rows = (("pid", "fid"), *zip(pids, fids, strict=True))
        partial.write_text(
            "".join("\t".join(map(_cell, row)) + "\n" for row in rows), encoding="utf-8"
        )

    others = [entry for entry in config.embeddings if entry.tensor_name != name]
    del config.embeddings[:]
    config.embeddings.extend(others)
    entry = config.embeddings.add(
        tensor_name=name, tensor_path=str(tensors), metadata_path=str(metadata)
    )
    entry.sprite.image_path = str(thumbnails)
    entry.sprite.single_image_dim.extend([THUMBNAIL, THUMBNAIL])
    with files.complete_file(root / "projector_config.pbtxt") as partial:
        partial.write_text(text_format.MessageToString(config), encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split())  # a tab or a line break would be the end of the cell
