"""Write the CSVs of CUHK03 in the new protocol (767 pids for training, 700 for testing).

    python -m data.cuhk03_np --image_root cuhk03-np --directory cuhk03

The folder is that published with the re-ranking code of Zhong et al.; it has the boxes twice, drawn
by hand (labeled) and by a detector (detected). Of each that is there: labeled_train, labeled_query,
labeled_gallery, and so on. Evaluate with --excluder cuhk03.
"""

import os

from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official(
    {
        "labeled_train": Figures(7368, 767, 2),
        "labeled_query": Figures(1400, 700, 2),
        "labeled_gallery": Figures(5328, 700, 2),
        "detected_train": Figures(7365, 767, 2),
        "detected_query": Figures(1400, 700, 2),
        "detected_gallery": Figures(5332, 700, 2),
    },
    pattern="cuhk03",
)


def build(root: str) -> dict[str, csv_builder.Rows]:
    boxes = [kind for kind in ("labeled", "detected") if os.path.isdir(os.path.join(root, kind))]
    folders = {
        f"{kind}_{part}": f"{kind}/{folder}"
        for kind in boxes or ["labeled"]
        for part, folder in csv_builder.FOLDERS.items()
    }
    return csv_builder.from_folders(root, OFFICIAL, folders)


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
