"""Write the CSVs of DukeMTMC-reID: train, query, gallery.

    python -m data.duke --image_root DukeMTMC-reID --directory duke

Of the gallery's pids 408 are in no query. Evaluate with --excluder duke.
"""

from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official(
    {
        "train": Figures(16522, 702, 8),
        "query": Figures(2228, 702, 8),
        "gallery": Figures(17661, 1110, 8),
    },
    pattern="duke",
)


def build(root: str) -> dict[str, csv_builder.Rows]:
    return csv_builder.from_folders(root, OFFICIAL)


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
