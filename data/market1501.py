"""Write the CSVs of Market-1501: train, query, gallery.

    python -m data.market1501 --image_root Market-1501-v15.09.15 --directory market1501

Distractors (pid 0000) and junk (pid -1) stay in the gallery: the former count as mistakes, the
latter are ignored by evaluate.py --excluder market1501. Where the folder gt_bbox is there,
multi_query.csv has its images of the persons and cameras that are queries, for evaluate.py
--multi_query.
"""

import os

from data import cameras, csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official(
    {
        "train": Figures(12936, 751, 6),
        "query": Figures(3368, 750, 6),
        "gallery": Figures(19732, 750, 6),
    },
    pattern="market1501",
    non_identities=("0000", "-1"),
)


def build(root: str) -> dict[str, csv_builder.Rows]:
    if not os.path.isdir(os.path.join(root, "gt_bbox")):
        return csv_builder.from_folders(root, OFFICIAL)
    parts = csv_builder.from_folders(
        root, OFFICIAL, csv_builder.FOLDERS | {"multi_query": "gt_bbox"}
    )
    keys = {cameras.pid_and_camera("market1501", fid) for _, fid in parts["query"]}
    parts["multi_query"] = [
        row for row in parts["multi_query"] if cameras.pid_and_camera("market1501", row[1]) in keys
    ]
    return parts


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
