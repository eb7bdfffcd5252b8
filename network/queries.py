"""What is searched for: an image, a folder of images, a data set, or embeddings that are there."""

import dataclasses
import os
from typing import NamedTuple

import numpy as np

from common import UserError
from data import dataset, folders, pictures
from data.dataset import Box, Dataset
from evaluation import embeddings_file
from evaluation import gallery as galleries
from evaluation.embeddings_file import Origin


class Queries(NamedTuple):
    """Q images to look for.

    Attributes:
        images: their pids are "" where no data set tells them.
        image_root: the directory that their fids are relative to; "" for embeddings.
        embs: float32 [Q, D], where they are embedded already.
        origin: how these were made.
    """

    images: Dataset
    image_root: str
    embs: np.ndarray | None = None
    origin: Origin = Origin()


def find_queries(
    path: str, crop: Box | None, image_root: str | None, allow_any_path: bool = False
) -> Queries:
    """The images that a path means. Their files are there, and a sample of them is readable.

    Args:
        path: an image, a folder, a data set or a file of embeddings.
        crop: the part of a single image that is meant.
        image_root: what the fids of a data set are relative to.
        allow_any_path: allow fids that lead out of it.

    Raises:
        UserError: it is none of these, or something is missing or cannot be read.
    """
    if crop is not None and not _is_image(path):
        raise UserError(f"--crop is for a query that is one image. Received: {path}")
    if os.path.isdir(path):
        queries = Queries(_unnamed(_images_in(path), path), path)
    elif not os.path.isfile(path):
        raise UserError(f"--query should be an existing image, folder or CSV. Received: {path}")
    elif _is_image(path):
        images = _unnamed([path], path)
        boxes = None if crop is None else np.array([crop], np.int32)
        queries = Queries(dataclasses.replace(images, boxes=boxes), "")
    elif embeddings_file.is_embeddings(path):
        found = galleries.load(path)
        return Queries(found.images, "", found.embs, found.origin)
    else:
        images = dataset.load(path, "query")
        if image_root is None:
            raise UserError(f"which directory are the images of {path} in? Give --image_root.")
        dataset.check_images(path, image_root, images.fids, allow_any_path, allow_links=False)
        queries = Queries(images, image_root)
    pictures.check_sample(queries.images.files(queries.image_root))
    return queries


def _unnamed(fids: list[str], path: str) -> Dataset:
    """Images without pids."""
    return Dataset(np.full(len(fids), "", object), np.array(fids, object), path)


def _images_in(folder: str) -> list[str]:
    try:
        return folders.find_images(folder)
    except UserError as error:
        raise UserError(str(error).replace("--image_root", "--query")) from None


def _is_image(path: str) -> bool:
    """Whether a file is an image, or is called one: a data set is neither."""
    if not os.path.isfile(path):
        return False
    if path.lower().endswith(folders.IMAGES):
        return True
    with open(path, "rb") as file:
        return pictures.kind_of(file.read(64)) in pictures.KINDS.replace(" or", ",").split(", ")
