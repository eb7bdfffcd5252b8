"""Write the CSVs of Stanford Online Products: train and test.

    python -m data.sop --image_root Stanford_Online_Products --directory sop

Test images are queries and gallery at once: give test.csv for both, and --excluder diagonal.
"""

from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official({"train": Figures(59551, 11318), "test": Figures(60502, 11316)})


def build(root: str) -> dict[str, csv_builder.Rows]:
    return {part: _rows(root, f"Ebay_{part}.txt") for part in OFFICIAL.figures}


def _rows(root: str, name: str) -> csv_builder.Rows:
    # A header, then image_id class_id super_class_id path.
    lines = csv_builder.read_list(root, name, columns=4)[1:]
    return csv_builder.listed(root, name, [(class_id, path) for _, class_id, _, path in lines])


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
