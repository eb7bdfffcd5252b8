"""TensorBoard's projector: embeddings as points in space, each with its image, pid and fid.

An experiment has

    projector_config.pbtxt  the names of the sets of embeddings, for TensorBoard
    projector/NAME/         one set: tensors.tsv, metadata.tsv, and sprite.png, which is one picture
                            of all thumbnails
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import common
from common import UserError
from data.dataset import ImageFiles
from data.pictures import open_image
from runtime import files

# TensorBoard takes sprites of at most 8192 x 8192 pixels. With these numbers they have at most
# 6400 x 6400, which a browser still loads well.
THUMBNAIL = 64
MOST_IMAGES = 10_000


def read_config(experiment_root: str | os.PathLike):
    """The projector's configuration of an experiment: a ProjectorConfig, empty if there is none.

    Raises:
        UserError: the file is something else.
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


def check(experiment_root: str | os.PathLike, name: str) -> None:
    """Check what `write` needs, before slow work.

    Raises:
        UserError: `name` is no name of a folder, or the experiment cannot be written; and as
            read_config does.
    """
    read_config(experiment_root)
    if name in ("", os.curdir, os.pardir) or os.path.basename(name) != name:
        raise UserError(
            f"--projector makes a folder of the file's name without its ending. Received: {name!r}. Give another "
            "--filename."
        )
    if len(os.fsencode(name)) > 255:
        raise UserError(
            f"--projector makes a folder of the file's name, of at most 255 bytes. Received: {name}. Give another "
            "--filename."
        )
    root = Path(experiment_root)
    for folder in (root, root / "projector", root / "projector" / name):
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise UserError(
                f"--projector cannot write to {folder}: it is a file, or its permissions forbid it. Change that, or "
                "copy the experiment."
            )


def sprite(images: ImageFiles) -> Image.Image:
    """Thumbnails of images, row by row in a square of them.

    Each is in the middle of a transparent square. TensorBoard draws points as squares, and finds
    the images only if there are as many rows as columns.

    Raises:
        UserError: a file is no image.
    """
    side = math.isqrt(len(images) - 1) + 1
    picture = Image.new("RGBA", (side * THUMBNAIL, side * THUMBNAIL))
    for number, path in enumerate(images.paths):
        image = open_image(path, THUMBNAIL, images.box(number), images.upright)
        thumbnail = ImageOps.contain(image, (THUMBNAIL, THUMBNAIL))
        row, column = divmod(number, side)
        left = column * THUMBNAIL + (THUMBNAIL - thumbnail.width) // 2
        top = row * THUMBNAIL + (THUMBNAIL - thumbnail.height) // 2
        picture.paste(thumbnail, (left, top))
    return picture


def write(
    experiment_root: str | os.PathLike,
    name: str,
    emb: np.ndarray,
    *,
    pids: Sequence[str],
    fids: Sequence[str],
    images: ImageFiles,
) -> None:
    """Add a set of embeddings to what the projector shows, or replace the one of the same name.

    Args:
        name: what it is called there, and its folder.
        emb: float [N, D], N at most MOST_IMAGES.
        pids, fids: of the N images.
        images: where their pixels are.

    Raises:
        UserError: an image cannot be read; and as read_config does.
    """
    from google.protobuf import text_format

    root = Path(experiment_root)
    config = read_config(experiment_root)
    folder = Path("projector", name)
    thumbnails = folder / "sprite.png"
    tensors = folder / "tensors.tsv"
    metadata = folder / "metadata.tsv"
    (root / folder).mkdir(parents=True, exist_ok=True)
    with files.complete_file(root / thumbnails) as partial:
        sprite(images).save(partial, "PNG")
    # Binary would be smaller, but TensorBoard takes it for text when it happens to begin like some.
    with files.complete_file(root / tensors) as partial:
        np.savetxt(partial, emb, "%.6g", delimiter="\t")
    with files.complete_file(root / metadata) as partial:
        partial.write_text(_table(pids, fids), encoding="utf-8")

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


def _table(pids: Sequence[str], fids: Sequence[str]) -> str:
    lines = ["pid\tfid\n"]
    for pid, fid in zip(pids, fids, strict=True):
        lines.append(f"{_cell(pid)}\t{_cell(fid)}\n")
    return "".join(lines)


def _cell(text: str) -> str:
    """A tab or a line break would be the end of the cell."""
    return common.visible(" ".join(text.split()))
