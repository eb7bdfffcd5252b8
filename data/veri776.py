"""Write the CSVs of VeRi-776, vehicles: train, query, gallery.

    python -m data.veri776 --image_root VeRi --directory veri776

What counts is what name_train.txt, name_query.txt and name_test.txt list. Evaluate with --excluder
veri776.
"""

from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official(
    {"train": Figures(37778, 576), "query": Figures(1678, 200), "gallery": Figures(11579, 200)},
    pattern="veri776",
)
LISTS = {"train": "train", "query": "query", "gallery": "test"}


def build(root: str) -> dict[str, csv_builder.Rows]:
    return {
        part: csv_builder.from_list(root, f"name_{name}.txt", f"image_{name}", OFFICIAL)
        for part, name in LISTS.items()
    }


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
