"""Write the CSVs of Market-1501: train, query, gallery.

    python -m data.market1501 --image_root Market-1501-v15.09.15 --directory market1501

Distractors (pid 0000) and junk (pid -1) stay in the gallery: the former count as mistakes, the latter are ignored by
evaluate.py --excluder market1501.
"""

from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official(
    {"train": Figures(12936, 751, 6), "query": Figures(3368, 750, 6), "gallery": Figures(19732, 750, 6)},
    form="market1501",
    nobody=("0000", "-1"),
)


def build(root: str) -> dict[str, csv_builder.Rows]:
    return csv_builder.from_folders(root, OFFICIAL)


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
