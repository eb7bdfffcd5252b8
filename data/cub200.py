"""Write the CSVs of CUB-200-2011, birds, for metric learning: train (classes 1 to 100) and test
(101 to 200).

    python -m data.cub200 --image_root CUB_200_2011 --directory cub200

Test images are queries and gallery at once: give test.csv for both, and --excluder diagonal.
"""

from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official({"train": Figures(5864, 100), "test": Figures(5924, 100)})


def build(root: str) -> dict[str, csv_builder.Rows]:
    label_of = dict(csv_builder.read_list(root, "image_class_labels.txt", columns=2))
    images = csv_builder.read_list(root, "images.txt", columns=2)
    rows = [(label_of.get(number, ""), f"images/{path}") for number, path in images]
    return csv_builder.split_classes(root, "images.txt", rows, last_for_training=100)


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
