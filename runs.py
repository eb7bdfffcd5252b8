"""Several experiments side by side: what differs between them, how far they are, how well they do.

    python runs.py exp1 exp2
    python runs.py experiments        # all that are in a folder
    python runs.py experiments --csv > runs.csv

A row for each: its name; the last iteration of those planned, with the mean loss and the
batch-p@(K-1) of it; of its evaluations, the JSON files of evaluate.py in its directory, the one of
the highest mAP and, where that is another, the newest; then the flags that are not the same in all.
A dash stands for what is not there.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
from common import UserError
from experiment import args_json

# Different in each experiment, or without a part in what it learns.
_NOT_COMPARED = {"experiment_root", "resume"}
_LOSS = re.compile(
    r"iter: *(\d+), loss min\|avg\|max: *[^|]*\| *([^|]*?)\|.*?batch-p@\d+: *([\d.]+%)"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "experiments",
        nargs="+",
        type=common.readable_directory,
        metavar="DIR",
        help="Directories of experiments, or folders that hold some.",
    )
    parser.add_argument("--csv", action="store_true", help="Write the table as CSV.")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    roots = [root for directory in args.experiments for root in experiments(directory)]
    rows = table(roots)
    if args.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def experiments(directory: str) -> list[Path]:
    """The directory itself if it is an experiment, else the experiments in it, by name.

    Raises: UserError when there is none.
    """
    found = [Path(directory)] if Path(directory, "args.json").exists() else []
    found = found or sorted(path.parent for path in Path(directory).glob("*/args.json"))
    if not found:
        raise UserError(
            f"{directory} is no experiment and holds none: there is no args.json in it. Give the --experiment_root of "
            "a training, or the folder above."
        )
    return found


def table(roots: Sequence[Path]) -> list[list[str]]:
    """The header and a row for each experiment, all of the same length."""
    flags = [args_json.read(root) for root in roots]
    names = sorted(set().union(*flags) - _NOT_COMPARED)
    differing = [name for name in names if len({json.dumps(args.get(name)) for args in flags}) > 1]
    rows = [
        [
            "experiment",
            "iteration",
            "loss",
            "batch-p",
            "best mAP",
            "top-1",
            "file",
            "newest mAP",
            *differing,
        ]
    ]
    for root, args in zip(roots, flags, strict=True):
        iteration, loss, precision = progress(root)
        cells = [
            str(root),
            f"{iteration} of {args.get('train_iterations', '?')}",
            loss,
            precision,
            *_evaluations(root),
        ]
        rows.append(
            cells + ["-" if args.get(name) is None else _text(args[name]) for name in differing]
        )
    used = [column for column in zip(*rows, strict=True) if any(cell != "-" for cell in column[1:])]
    return [list(row) for row in zip(*used, strict=True)]


def progress(root: Path) -> tuple[int, str, str]:
    """Of the last iteration in train.log: its number, mean loss and precision; 0 and dashes where
    there is none.
    """
    last = 0, "-", "-"
    log = root / "train.log"
    if log.exists():
        with open(log, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if match := _LOSS.search(line):
                    last = int(match[1]), match[2], match[3]
    return last


def evaluations(root: Path) -> Iterator[tuple[Path, float, float]]:
    """The files that evaluate.py wrote, from the oldest to the newest, each with its mAP and top-1."""
    for path in sorted(root.glob("*.json"), key=lambda path: (path.stat().st_mtime, path)):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            yield path, float(result["mAP"]), float(result["CMC"][0])
        except (ValueError, TypeError, LookupError):  # another JSON file
            continue


def _evaluations(root: Path) -> list[str]:
    found = list(evaluations(root))
    if not found:
        return ["-"] * 4
    path, mean_ap, top_1 = max(found, key=lambda result: result[1])
    newest = found[-1]
    return [
        f"{mean_ap:.1%}",
        f"{top_1:.1%}",
        path.name,
        "-" if newest[0] == path else f"{newest[1]:.1%}",
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    common.run(main, parse_args)
