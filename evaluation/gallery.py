"""The images to search in, and a distance below which two images count as the same."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common import UserError
from data import dataset
from data.dataset import Dataset
from evaluation import embeddings_file
from evaluation.embeddings_file import Origin
from runtime import json_files
from runtime.terminal import log

_BOX = re.compile(r"(.+)#(\d+),(\d+),(\d+),(\d+)", re.DOTALL)
# Flags of evaluate.py that change embeddings or distances, which a search does not do.
_POST_PROCESSING = ("pool_tracklets", "multi_query", "query_expansion", "rerank")


class Gallery(NamedTuple):
    """Images, G of them, and their embeddings.

    Attributes:
        images: their pids are "" where only the file of embeddings is known.
        embs: float32 [G, D], finite; may be a memory map.
        origin: how the embeddings were made.
        path: of their file.
    """

    images: Dataset
    embs: np.ndarray
    origin: Origin
    path: str


def load(
    path: str,
    embeddings: str | None = None,
    experiment_root: str | None = None,
    split: str = "gallery",
) -> Gallery:
    """Read embedded images.

    Args:
        path: a file of embeddings, or the data set that was embedded.
        embeddings: the file of a data set's embeddings; that in experiment_root if None.
        split: the rows of a data set that are meant, where it has splits.

    Raises:
        UserError: a file is missing, damaged, of other images, or does not say its images.
    """
    if embeddings_file.is_embeddings(path):
        if embeddings is not None:
            raise UserError(
                f"{path} has embeddings itself. Give the data set that they are of, or leave {embeddings} out."
            )
        embs, names = embeddings_file.load_alone(path)
        if names is None:
            raise UserError(
                f"{path} does not say which images it has embeddings of. Give their data set, a CSV of pid,fid, and "
                "this file as its embeddings."
            )
        images = _named(names, path)
    else:
        images = dataset.load(path, split)
        embeddings = embeddings or _in_experiment(path, experiment_root, split)
        path = embeddings
        embs = embeddings_file.load_part(path, images, split)
    if not len(embs):
        raise UserError(f"{path} has no embeddings. Give a file that has some.")
    origin = embeddings_file.origin(path)
    # Pictures of them are to be turned as EXIF says where the network saw them so.
    images = dataclasses.replace(images, upright=origin.orientation == "exif")
    return Gallery(images, embs, origin, path)


def _in_experiment(csv: str, experiment_root: str | None, split: str) -> str:
    if experiment_root is None:
        raise UserError(
            f"where are the embeddings of {csv}? Give their file, or the --experiment_root that has it."
        )
    path = embeddings_file.default_path(experiment_root, csv, split)
    if not os.path.isfile(path):
        raise UserError(
            f"{path} does not exist. Call: python embed.py --experiment_root {experiment_root} --dataset {csv}; or "
            "give the file of embeddings."
        )
    return path


def _named(names: Sequence[str], path: str) -> Dataset:
    """The images of Dataset.names, without pids."""
    fids = []
    boxes = np.zeros((len(names), 4), np.int32)
    for row, name in enumerate(names):
        match = _BOX.fullmatch(name)
        fids.append(match[1] if match else name)
        if match:
            boxes[row] = [min(int(number), 2**31 - 1) for number in match.groups()[1:]]
    return Dataset(
        np.full(len(names), "", object),
        np.array(fids, object),
        path,
        boxes=boxes if boxes.any() else None,
    )


# ------------------------------------------------------------------------- thresholds


class Threshold(NamedTuple):
    """A pair of images whose distance is smaller counts as the same.

    Attributes:
        distance: at least 0.
        why: where it comes from, for people.
    """

    distance: float
    why: str


def threshold(text: str, at: str, metric: str, network: str | None = None) -> Threshold:
    """The distance below which two images count as the same.

    Args:
        text: a number, or the JSON file that evaluate.py writes with --roc.
        at: "EER", or an FPR as the file has it, such as "0.001".
        metric: that of the search.
        network: fingerprint of the network that embedded the gallery, where it is known.

    Raises:
        UserError: it is neither, or the file has no distance of this kind, one of another metric, or
            one after post-processing.
    """
    try:
        number = float(text)
    except ValueError:
        return _evaluated(text, at, metric, network)
    if not 0 <= number < math.inf:
        raise UserError(f"--threshold should be a distance of at least 0. Received: {text}")
    return Threshold(number, "given")


def _evaluated(path: str, at: str, metric: str, network: str | None) -> Threshold:
    try:
        values = json_files.read(path)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--threshold should be a number, or a JSON file of evaluate.py. Received: {path} ({what})"
        ) from None
    values = values if isinstance(values, dict) else {}
    if json_files.is_changed(values):
        log.warning(f"{path} was changed after evaluate.py wrote it.")
    at_fpr = values.get("distance_at_FPR")
    at_fpr = at_fpr if isinstance(at_fpr, dict) else {}
    distance = values.get("EER_distance") if at == "EER" else at_fpr.get(at)
    if not isinstance(distance, int | float) or isinstance(distance, bool):
        there = [*at_fpr, *(["EER"] if "EER_distance" in values else [])]
        raise UserError(
            f"{path} has no distance at {at}, but at {', '.join(there) or 'none'}. Give another --threshold_at, or "
            "evaluate with --roc."
        )
    made = values.get("made")
    made = made if isinstance(made, dict) else {}
    measured = _inside(made, "flags", "metric")
    if measured is not None and measured != metric:
        raise UserError(
            f"{path} has distances of --metric {measured}. Received: {metric}. Evaluate with the metric of the search."
        )
    changed = [name for name in _POST_PROCESSING if _inside(made, "flags", name)]
    if changed:
        raise UserError(
            f"{path} has distances with --{changed[0]}, and a search has none of these. Evaluate without it."
        )
    evaluated = _inside(made, "gallery", "network")
    if None not in (evaluated, network) and evaluated != network:
        log.warning(f"{path} was measured with another network than that of the gallery.")
    why = "the equal error rate" if at == "EER" else f"FPR {at}"
    return Threshold(float(distance), f"{why} in {path}")


def _inside(values: dict, outer: str, inner: str) -> object:
    found = values.get(outer)
    return found.get(inner) if isinstance(found, dict) else None
