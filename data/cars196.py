"""Write the CSVs of Cars196 (Stanford Cars) for metric learning: train (classes 1 to 98) and test
(99 to 196).

    python -m data.cars196 --image_root cars196 --directory cars196

The folder holds either car_ims/ and cars_annos.mat, or cars_train/, cars_test/,
devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat (here or in devkit/): both were
published, with the same images. The second's division into training and test is that of
classification and plays no part. Reading .mat files takes SciPy.

Test images are queries and gallery at once: give test.csv for both, and --excluder diagonal.
"""

import os
from importlib.util import find_spec

import numpy as np

from common import UserError
from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official({"train": Figures(8054, 98), "test": Figures(8131, 98)})


def build(root: str) -> dict[str, csv_builder.Rows]:
    if os.path.isdir(os.path.join(root, "car_ims")):
        rows = _annotations(root, "cars_annos.mat", "relative_im_path", "")
        return csv_builder.split_classes(root, "cars_annos.mat", rows, last_for_training=98)
    labels = "cars_test_annos_withlabels.mat"
    if os.path.exists(os.path.join(root, "devkit", labels)):
        labels = f"devkit/{labels}"
    rows = _annotations(root, "devkit/cars_train_annos.mat", "fname", "cars_train/")
    rows += _annotations(root, labels, "fname", "cars_test/")
    return csv_builder.split_classes(root, "the .mat files", rows, last_for_training=98)


def _annotations(root: str, name: str, column: str, folder: str) -> csv_builder.Rows:
    """What the struct array `annotations` of a MATLAB file says: class, folder + column."""
    csv_builder.require(root, name)
    if not find_spec("scipy"):
        raise UserError(f"reading {name} needs SciPy: pip install scipy.")
    import scipy.io

    path = os.path.join(root, name)
    try:
        annotations = np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)["annotations"])
        labels, files = annotations["class"], annotations[column]
    except Exception as error:  # SciPy raises many kinds for a damaged file
        raise UserError(
            f"{path} cannot be read, or has no classes: {error}. Is it the original, with labels?"
        ) from None
    return [(f"{label}", f"{folder}{file}") for label, file in zip(labels, files, strict=True)]


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
