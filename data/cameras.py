"""Which person and camera an image shows, as data sets write it into file names: for excluders,
sampling and CSVs.
"""

import argparse
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from common import UserError


class Form(NamedTuple):
    """How a data set names its files."""

    pattern: (
        str  # regular expression of the beginning of a base name; its two groups are pid and camera
    )
    words: str  # the same for people, with an example


FORMS = {
    "market1501": Form(r"(.+)_c(\d+)s\d+_", "PID_cCsS_, as 0001_c1s1_001051_00.jpg does"),
    "duke": Form(r"(.+)_c(\d+)_", "PID_cC_, as 0001_c2_f0046182.jpg does"),
    "msmt17": Form(r"(\d+)_\d+_(\d+)_", "PID_NUMBER_C_, as 0001_004_12_0303noon_0160_1.jpg does"),
    "cuhk03": Form(r"(.+)_c(\d+)_", "PID_cC_, as 0001_c1_1.png does"),
    "veri776": Form(r"(.+)_c(\d+)_", "PID_cC_, as 0001_c001_00016450_0.jpg does"),
}


def pid_and_camera(form: str, fid: str) -> tuple[str, str] | None:
    """What the base name of `fid` says, read as a name of FORMS; None where it is of another form."""
    match = re.match(FORMS[form].pattern, os.path.basename(fid))
    return match and match.groups()


def rule(text: str) -> str:
    """A flag type: a name of FORMS, or a regular expression with one group, the camera."""
    try:
        groups = 1 if text in FORMS else re.compile(text).groups
    except re.error:
        groups = None
    if groups != 1:
        raise argparse.ArgumentTypeError(
            f"should be one of {', '.join(FORMS)}, or a regular expression with one group, the camera. Received: {text}"
        )
    return text


def of_fids(fids: Sequence[str], rule: str | None) -> list[str] | None:
    """The camera of each fid; None without a rule.

    Args:
        rule: a name of FORMS, or a regular expression with one group. It is searched for in the
            whole fid, folders included.

    Raises: UserError for the first fid without a camera.
    """
    if rule is None:
        return None
    found = []
    for fid in fids:
        match = pid_and_camera(rule, fid) if rule in FORMS else re.search(rule, fid)
        if match is None or match[1] is None:
            form = (
                f"{rule}: a file name should begin with {FORMS[rule].words}"
                if rule in FORMS
                else f"{rule} not found"
            )
            raise UserError(
                f"--cameras {form}. Received: {fid!r}. Give the name or the regular expression that fits the data set, "
                "or leave --cameras out."
            )
        found.append(match[1])
    return found
