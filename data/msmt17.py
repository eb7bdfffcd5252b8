"""Write the CSVs of MSMT17, V1 or V2 (with masked faces): train, query, gallery.

    python -m data.msmt17 --image_root MSMT17_V1 --directory msmt17

train.csv is list_train.txt and list_val.txt, the 32,621 images that the data set's paper trains on.
Pid 0000 is a person like the others, and equal pids of training and test are not the same person.
Evaluate with --excluder msmt17.
"""

import os

from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official(
    {
        "train": Figures(32621, 1041, 15),
        "query": Figures(11659, 3060, 15),
        "gallery": Figures(82161, 3060, 15),
    },
    pattern="msmt17",
)
VERSIONS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
LISTS = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}


def build(root: str) -> dict[str, csv_builder.Rows]:
    here = [folders for folders in VERSIONS if os.path.isdir(os.path.join(root, folders[0]))]
    train_folder, test_folder = (here or VERSIONS)[0]
    for folder in (train_folder, test_folder):
        csv_builder.require(root, folder)
    parts = {}
    for part, lists in LISTS.items():
        folder = train_folder if part == "train" else test_folder
        parts[part] = [
            row for name in lists for row in csv_builder.from_list(root, name, folder, OFFICIAL)
        ]
    return parts


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
