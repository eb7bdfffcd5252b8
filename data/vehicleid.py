"""Write the CSVs of PKU VehicleID, vehicles: train, and query and gallery of 800, 1600 and 2400
vehicles.

    python -m data.vehicleid --image_root VehicleID_V1.0 --directory vehicleid

What counts is what train_test_split/ lists. As in the data set's paper, one image of each vehicle,
drawn at random, is the gallery, and all others are queries. The paper means the figures of ten
draws: give each another --seed and --directory. Evaluate with --excluder diagonal.
"""

import argparse
import random
from collections import defaultdict

import common
from data import csv_builder
from data.csv_builder import Figures, Official, Table

COLUMNS = ("pid", "fid")
SIZES = (800, 1600, 2400)  # small, medium, large
# How many queries there are was published in different numbers.
OFFICIAL = Official(
    {"train": Figures(113346, 13164)} | {f"gallery_{size}": Figures(size, size) for size in SIZES}
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = csv_builder.make_parser(__doc__)
    parser.prog = "python -m data.vehicleid"
    parser.add_argument(
        "--seed",
        type=common.non_negative_int,
        default=0,
        metavar="N",
        help="Seed of the images that make the gallery.",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    csv_builder.main(args, lambda root: build(root, args.seed), OFFICIAL)


def build(root: str, seed: int = 0) -> csv_builder.Parts:
    parts: dict[str, csv_builder.Part] = {"train": Table(COLUMNS, _listed(root, "train_list"))}
    for size in SIZES:
        rows = _listed(root, f"test_list_{size}")
        chosen = _one_of_each_pid(rows, random.Random(f"{seed} {size}"))
        queries = [row for row in rows if row not in chosen]
        gallery = [row for row in rows if row in chosen]
        parts[f"query_{size}"] = Table(COLUMNS, queries)
        parts[f"gallery_{size}"] = Table(COLUMNS, gallery)
    return parts


def _listed(root: str, name: str) -> csv_builder.Rows:
    source = f"train_test_split/{name}.txt"
    lines = csv_builder.read_list(root, source, columns=2)
    rows = [(vehicle, f"image/{image}.jpg") for image, vehicle in lines]
    return csv_builder.listed(root, source, rows)


def _one_of_each_pid(rows: csv_builder.Rows, draw: random.Random) -> set[tuple[str, str]]:
    rows_of = defaultdict(list)
    for row in rows:
        rows_of[row[0]].append(row)
    return {draw.choice(of_pid) for of_pid in rows_of.values()}


if __name__ == "__main__":
    common.run(main, parse_args)
