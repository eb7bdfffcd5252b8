"""Person and camera of an image, as data sets write them into file names, or into columns: for
excluders, sampling and CSVs.
"""

import argparse
import dataclasses
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common import UserError, first_few, has_one_group
from data.dataset import Dataset, ImageFiles

COLUMN = "column"  # the rule that takes the camera from the CSV


class FileNamePattern(NamedTuple):
    """How a data set names its files."""

    regex: str  # of the beginning of a base name; its two groups are pid and camera
    words: str  # the same for people, with an example


PATTERNS = {
    "market1501": FileNamePattern(
        regex=r"(.+)_c(\d+)s\d+_", words="PID_cCsS_, as 0001_c1s1_001051_00.jpg does"
    ),
    "duke": FileNamePattern(regex=r"(.+)_c(\d+)_", words="PID_cC_, as 0001_c2_f0046182.jpg does"),
    "msmt17": FileNamePattern(
        regex=r"(\d+)_\d+_(\d+)_", words="PID_NUMBER_C_, as 0001_004_12_0303noon_0160_1.jpg does"
    ),
    "cuhk03": FileNamePattern(regex=r"(.+)_c(\d+)_", words="PID_cC_, as 0001_c1_1.png does"),
    "veri776": FileNamePattern(
        regex=r"(.+)_c(\d+)_", words="PID_cC_, as 0001_c001_00016450_0.jpg does"
    ),
}


def pid_and_camera(pattern: str, fid: str) -> tuple[str, str] | None:
    """Parse the base name of `fid` by PATTERNS[pattern]. Returns: None if it does not match."""
    match = re.match(PATTERNS[pattern].regex, os.path.basename(fid))
    return match and (match[1], match[2])


def rule(text: str) -> str:
    """A flag type: COLUMN, a name of PATTERNS, or a regular expression with one group, the camera."""
    if text not in (COLUMN, *PATTERNS) and not has_one_group(text):
        raise argparse.ArgumentTypeError(
            f"should be {COLUMN}, one of {', '.join(PATTERNS)}, or a regular expression with one group, the camera. "
            f"Received: {text}"
        )
    return text


def cameras_of(images: Dataset, rule: str | None) -> Sequence[str] | None:
    """The camera of each image; None without a rule.

    Args:
        rule: COLUMN, a name of PATTERNS, or a regular expression with one group. The latter is
            searched for in the whole fid, folders included.

    Raises:
        UserError for a data set without the column, or for the first fid without a camera.
    """
    if rule is None:
        return None
    if rule == COLUMN:
        return _column(images)
    found = []
    names = {}  # images of a camera share its name: a million strings less
    for fid in images.fids:
        camera = _camera(fid, rule)
        if camera is None:
            expected = f"{rule} not found"
            if rule in PATTERNS:
                expected = f"{rule}: a file name should begin with {PATTERNS[rule].words}"
            raise UserError(
                f"--cameras {expected}. Received: {fid!r}. Give the name or the regular expression that fits the data "
                "set, or leave --cameras out."
            )
        found.append(names.setdefault(camera, camera))
    return found


def files(images: Dataset, image_root: str | Sequence[str], rule: str | None) -> ImageFiles:
    """Where the pixels of images are, and with a rule the camera of each, "" where it tells none.

    Args:
        image_root: as of Dataset.files.
        rule: as of cameras_of.
    """
    found = images.files(image_root)
    if rule is None:
        return found
    if rule == COLUMN:
        cameras = np.full(len(images), "", object) if images.cameras is None else images.cameras
    else:
        cameras = cameras_in(images.fids, rule)
    return dataclasses.replace(found, cameras=cameras)


def cameras_in(fids: Sequence[str], rule: str | None) -> np.ndarray:
    """The camera that each fid tells by a rule, as of cameras_of; "" where it tells none: str [N]."""
    if rule in (None, COLUMN):
        return np.full(len(fids), "", object)
    return np.array([_camera(fid, rule) or "" for fid in fids], object)


def numbers(names: Sequence[str], known: Mapping[str, int]) -> np.ndarray:
    """The number of each camera, -1 for one that has none: int32 [N]."""
    return np.array([known.get(name, -1) for name in names], np.int32)


def check_known(found: Sequence[str], known: Collection[str]) -> None:
    """Raises: UserError for a camera of the training set that --camera_names lacks."""
    others = sorted(set(found).difference(known))
    if others:
        raise UserError(
            f"the training set has cameras that --camera_names lacks: {first_few(others)}. Received: "
            f"{first_few(list(known))}. Name all of them, or leave it out."
        )


def pids_and_cameras(images: Dataset) -> list[tuple[str, str]]:
    """Both columns of the CSV, for each image. Raises: UserError where it has no cameras."""
    return list(zip(images.pids, _column(images), strict=True))


def _column(images: Dataset) -> np.ndarray:
    if images.cameras is None:
        raise UserError(
            f"{images.path} has no column camera. Give a CSV with a header and this column, such as pid,fid,camera; or "
            "read cameras from file names, by --cameras or --excluder with the name of a data set."
        )
    return images.cameras


def _camera(fid: str, rule: str) -> str | None:
    if rule in PATTERNS:
        parsed = pid_and_camera(rule, fid)
        return parsed and parsed[1]
    match = re.search(rule, fid)
    return match and match[1]
