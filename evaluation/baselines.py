"""Embeddings without learning, to compare a network with.

Where a baseline's figures are near those of the network, the test is easy or the training was short.
"""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data import fids
from data.dataset import Dataset, ImageFiles, distinct_files
from data.pictures import open_image
from evaluation.pipeline import Embedded, Options, Results, evaluate
from runtime import cores, terminal

STRIPES = 6
# Of red, of green and of blue: 64 colors. Of 4, 8 and 16, in RGB and HSV, this did best on
# data.synthetic.
BINS = 4


def color_histogram(image: np.ndarray) -> np.ndarray:
    """Roots of the shares of the 64 colors in each stripe: uint8 RGB [H, W, 3] -> float32 [6 * 64].

    Squares add up to 1/6 in each stripe, and so to 1; stripes of images with less than six rows may
    be empty, all 0.
    """
    height, width, _ = image.shape
    middle = image[:, width // 4 : width - width // 4]
    red, green, blue = np.moveaxis(middle.astype(np.int64) * BINS // 256, -1, 0)
    color = (red * BINS + green) * BINS + blue
    stripe = np.arange(height)[:, None] * STRIPES // height
    place = stripe * BINS**3 + color
    counts = np.bincount(place.ravel(), minlength=STRIPES * BINS**3).reshape(STRIPES, -1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.sqrt(shares / STRIPES).astype(np.float32).ravel()


def color_histograms(images: ImageFiles) -> np.ndarray:
    """The histogram of each image: float32 [N, 6 * 64]. On a terminal a line shows the progress.

    Raises:
        UserError for a file that is no image.
    """

    def histogram(row: int) -> np.ndarray:
        image = open_image(images.paths[row], box=images.box(row), upright=images.upright)
        return color_histogram(np.asarray(image))

    embs = np.empty((len(images), STRIPES * BINS**3), np.float32)
    pool = ThreadPoolExecutor(cores.count())
    try:
        with terminal.bar(len(images), "img", delay=1) as bar:
            for row, emb in enumerate(pool.map(histogram, range(len(images)))):
                embs[row] = emb
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)  # an error or Ctrl-C does not wait for the rest
    return embs


# Each makes embeddings [N, D], whose metric is euclidean, of N images.
BASELINES: dict[str, Callable[[ImageFiles], np.ndarray]] = {"color_histogram": color_histograms}


def evaluate_baseline(
    name: str, query: Dataset, gallery: Dataset, image_root: str | os.PathLike, options: Options
) -> Results:
    """Evaluate the embeddings of a baseline as those of a network, but with its own metric.

    Args:
        name: one of BASELINES.
        query, gallery: Q and G images below image_root.

    Raises:
        UserError for a file that is no image.
    """
    # Query and gallery may be one set.
    images, places = distinct_files([query.files(image_root), gallery.files(image_root)])
    embs = BASELINES[name](images)[places]
    Q = len(query)
    return evaluate(
        Embedded(query, embs[:Q], fids.real_paths(query.fids, image_root)),
        Embedded(gallery, embs[Q:], fids.real_paths(gallery.fids, image_root)),
        dataclasses.replace(options, metric="euclidean", recalls=(), open_set=False, groups=None),
    )
