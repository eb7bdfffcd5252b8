"""A small data set of images for the tests that run the commands."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """6 pids with 2 to 5 images of 24×16, in `.root`; `.csv` names them, `.pids` and `.fids` are
    its columns.
    """
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    rows = []
    for pid in range(6):
        color = rng.integers(40, 216, 3)
        for number in range(2 + pid % 4):
            pixels = np.clip(color + rng.normal(0, 25, (24, 16, 3)), 0, 255).astype(np.uint8)
            fid = f"{pid:04d}_c{number % 3 + 1}s1_{number:06d}_00.png"
            Image.fromarray(pixels).save(root / fid)
            rows.append((f"{pid:04d}", fid))
    with open(root / "all.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    pids, fids = zip(*rows, strict=True)
    return SimpleNamespace(root=root, csv=root / "all.csv", pids=pids, fids=fids)
