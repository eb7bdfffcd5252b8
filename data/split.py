"""Divide the images of a CSV: identities into training and test, images of the test into queries
and gallery.

    python -m data.split all.csv --directory csvs
    python -m data.split all.csv --directory csvs --train_pids train.txt --query_cameras 1 2
    python -m data.split all.csv --directory csvs --train_share 0.7 --date '(\\d{4}-\\d\\d-\\d\\d)' \\
        --query_from 2024-06-01

Writes train.csv, query.csv and gallery.csv (with --queries 0 train.csv and test.csv), with the
columns of the CSV, and says what it did. No identity is in both training and test.
"""

import argparse
import math
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import common
from common import UserError
from data import csv_builder, dataset, table
from data.csv_builder import Table
from runtime import terminal
from runtime.terminal import log

PARTS = ("train", "query", "gallery", "test")  # the names of the CSVs

# So many identities of nearly equal numbers of images are shuffled among each other before every
# so-manieth is taken: the seed counts, and both parts have rare and frequent ones alike.
_BLOCK = 10


class Rules(NamedTuple):
    """How to divide. At most one of the rules for identities is given, and one of those for queries.

    Attributes:
        train_share: of the identities.
        train_pids, test_pids: the identities by hand; all others are for the other part.
        distractors: pids that stand for no identity; their images are in the gallery.
        query_cameras: the cameras whose images are queries.
        query_from: the date from which on images are queries.
        query_fids: the queries by hand.
        queries: how many images of each identity and camera are queries, where they are drawn; 0
            leaves the test undivided.
        seed: of what is drawn.
    """

    train_share: float = 0.5
    train_pids: list[str] | None = None
    test_pids: list[str] | None = None
    distractors: Sequence[str] = ()
    query_cameras: list[str] | None = None
    query_from: str | None = None
    query_fids: list[str] | None = None
    queries: int = 1
    seed: int = 0


class Division(NamedTuple):
    """The parts, and what was done, line by line."""

    parts: dict[str, Table]
    lines: list[str]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m data.split"
    defaults = Rules()
    parser.add_argument(
        "csv",
        type=common.readable_file,
        metavar="CSV",
        help="The images: a CSV with or without a header.",
    )
    csv_builder.add_directory(parser)
    csv_builder.add_columns(parser)
    identities = parser.add_argument_group("identities").add_mutually_exclusive_group()
    identities.add_argument(
        "--train_share",
        type=common.number(float, lambda x: 0 < x < 1, "a number between 0 and 1"),
        default=defaults.train_share,
        metavar="X",
        help="Share of the identities that are for training. They are drawn so that both parts have identities of few "
        "and of many images alike, and of each group.",
    )
    for name, other in (("train", "testing"), ("test", "training")):
        identities.add_argument(
            f"--{name}_pids",
            type=common.readable_file,
            metavar="FILE",
            help=f"The pids for {name}ing, one a line, instead; all others are for {other}.",
        )
    parser.add_argument(
        "--distractors",
        nargs="+",
        default=[],
        metavar="PID",
        help="Pids that stand for no identity, such as unknown: their images are in the gallery.",
    )
    queries = parser.add_argument_group(
        "queries",
        "Which images of the identities for testing are queries; all others are the gallery.",
    ).add_mutually_exclusive_group()
    queries.add_argument(
        "--queries",
        type=common.non_negative_int,
        default=defaults.queries,
        metavar="N",
        help="So many images of each identity, drawn at random: with cameras, of each identity and camera; with "
        "tracklets and no cameras, so many tracklets. At least one stays in the gallery. 0 writes test.csv instead, "
        "for evaluations in which each image is looked for among all others (--excluder diagonal).",
    )
    queries.add_argument(
        "--query_cameras",
        nargs="+",
        metavar="CAMERA",
        help="All images of these cameras.",
    )
    queries.add_argument("--query_from", metavar="DATE", help="All images of this date or later.")
    queries.add_argument(
        "--query_list",
        type=common.readable_file,
        metavar="FILE",
        help="Those whose file ids this file lists, one a line.",
    )
    parser.add_argument(
        "--seed",
        type=common.non_negative_int,
        default=defaults.seed,
        metavar="N",
        help="Seed of what is drawn.",
    )
    return parser.parse_args(argv)


def add_switch(parser: argparse.ArgumentParser) -> None:
    """Add --split, for builders of a single CSV."""
    parser.add_argument(
        "--split",
        action="store_true",
        help="Also divide the images into train.csv, query.csv and gallery.csv, as python -m data.split does without "
        "flags.",
    )


def parts_of(images: Table, with_split: bool) -> csv_builder.Parts:
    """The parts for a builder of a single CSV: all, and with --split those of divide."""
    if not with_split:
        return {"all": images}
    division = divide(images, Rules())
    print(*division.lines, sep="\n")
    return {"all": images} | division.parts


def main(args: argparse.Namespace) -> None:
    terminal.setup_logging("data.split")
    images = read(args.csv)
    found = csv_builder.columns_from_names(args, images.column("fid") or [])
    images = _with_columns(images, found)
    rules = Rules(
        train_share=args.train_share,
        train_pids=_lines_of(args.train_pids),
        test_pids=_lines_of(args.test_pids),
        distractors=args.distractors,
        query_cameras=args.query_cameras,
        query_from=args.query_from,
        query_fids=_lines_of(args.query_list),
        queries=args.queries,
        seed=args.seed,
    )
    division = divide(images, rules)
    _check_not_replaced(args.csv, args.directory, division.parts)
    print(*division.lines, sep="\n")
    csv_builder.write(args.directory, division.parts)
    warn_of_earlier(args.directory, division.parts)


def read(path: str) -> Table:
    """A data set with all its columns but split, which is what is to be decided.

    Raises:
        UserError as dataset.load does.
    """
    dataset.load(path)  # what can be wrong with its rows
    with open(path, "rb") as file:
        columns = table.read(path, file.read()).columns
    names = tuple(name for name in table.COLUMNS if name in columns and name != "split")
    cells = [map(str, columns[name]) for name in names]
    return Table(names, list(zip(*cells, strict=True)))


def _with_columns(images: Table, more: dict[str, list[str]]) -> Table:
    """The table with more columns, in place of those of the same names."""
    columns = {name: images.column(name) or [] for name in images.columns} | more
    return Table(tuple(columns), list(zip(*columns.values(), strict=True)))


def _lines_of(path: str | None) -> list[str] | None:
    """The lines of a list without the blank ones; None without a list."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text. Save it as such, one name a line.") from None
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path} is empty. It should have one name a line.")
    return lines


def _check_not_replaced(path: str, directory: str, parts: Iterable[str]) -> None:
    for name in parts:
        target = os.path.join(directory, f"{name}.csv")
        if os.path.exists(target) and os.path.samefile(path, target):
            raise UserError(
                f"{target} would replace the CSV that is divided. Give another --directory, or rename the CSV."
            )


def warn_of_earlier(directory: str, parts: csv_builder.Parts) -> None:
    """Warn of CSVs of an earlier division in the directory, of which no new one took the place.

    Only of those that hold identities which are for training now: a test on them would say nothing.
    """
    train = parts.get("train")
    pids = set(train.column("pid") or []) if isinstance(train, Table) else set()
    for name in PARTS:
        path = os.path.join(directory, f"{name}.csv")
        if name in parts or not os.path.isfile(path):
            continue
        try:
            shared = pids.intersection(dataset.load(path).pids)
        except UserError:
            continue  # not a data set
        if shared:
            log.warning(
                f"{path} is of an earlier division: it has pids that train.csv has now "
                f"({common.first_few(sorted(shared))}). Remove it."
            )


# ------------------------------------------------------------------------- dividing


def divide(images: Table, rules: Rules) -> Division:
    """Divide images into train, query and gallery. Their order in each stays that of the table.

    Raises:
        UserError for a rule that does not fit the images, and where a part would be empty.
    """
    pids = images.column("pid") or []
    _check_known(rules.distractors, set(pids), "--distractors")
    identities = [pid for pid in dict.fromkeys(pids) if pid not in rules.distractors]
    if len(identities) < 2:
        raise UserError(
            f"training and test need an identity each. Received: {len(identities)} in all. Add images of others, or "
            "use the CSV as it is."
        )
    train_pids, line = _train_pids(images, identities, rules)
    is_test = [pid not in train_pids for pid in pids]
    test = Table(
        images.columns, [row for row, yes in zip(images.rows, is_test, strict=True) if yes]
    )
    train = Table(images.columns, [row for row in images.rows if row[0] in train_pids])
    if rules.queries == 0:
        return Division({"train": train, "test": test}, [line])
    is_query, lines = _queries(test, rules)
    chosen = list(zip(test.rows, is_query, strict=True))
    query = Table(images.columns, [row for row, yes in chosen if yes])
    gallery = Table(images.columns, [row for row, yes in chosen if not yes])
    if not query.rows or not gallery.rows:
        raise UserError(
            f"no image would be in {'gallery' if query.rows else 'query'}.csv. {' '.join([line, *lines])} Give other "
            "rules for the queries, or add images."
        )
    parts = {"train": train, "query": query, "gallery": gallery}
    return Division(parts, [line, *lines, *_without_match(query, gallery)])


def _check_known(names: Iterable[str], known: set[str], source: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        hint = common.suggestion(unknown[0], known)
        raise UserError(
            f"{source}: {len(unknown)} names are not in the CSV: {common.first_few(unknown)}.{hint} It should have "
            f"names of the CSV only, such as {common.first_few(sorted(known))}."
        )


def _train_pids(images: Table, identities: list[str], rules: Rules) -> tuple[set[str], str]:
    """The identities for training, and how they were found."""
    if rules.train_pids is not None or rules.test_pids is not None:
        name = "--train_pids" if rules.train_pids is not None else "--test_pids"
        listed = rules.train_pids if rules.train_pids is not None else rules.test_pids
        _check_known(listed or [], set(identities), name)
        given = set(listed or [])
        train = given if rules.train_pids is not None else set(identities) - given
        how = f"as {name} says"
    else:
        train = _drawn(images, identities, rules)
        alike = "images and group" if "group" in images.columns else "images"
        how = f"drawn with --seed {rules.seed}, alike in their numbers of {alike}"
    tested = len(identities) - len(train)
    if not train or not tested:
        raise UserError(
            f"training and test need an identity each. Received: {len(train)} for training, {tested} for testing, "
            f"{how}. Give another --train_share, or other lists."
        )
    return train, f"Identities: {len(train)} for training, {tested} for testing, {how}."


def _drawn(images: Table, identities: list[str], rules: Rules) -> set[str]:
    """A share of the identities, drawn by systematic sampling along their numbers of images, within
    each group.
    """
    images_of = Counter(images.column("pid"))
    groups = images.column("group") or [""] * len(images.rows)
    group_of = dict(zip(images.column("pid") or [], groups, strict=True))
    draw = random.Random(rules.seed)
    ordered = sorted(identities, key=lambda pid: (group_of[pid], images_of[pid], pid))
    shuffled = []
    for start in range(0, len(ordered), _BLOCK):
        block = ordered[start : start + _BLOCK]
        draw.shuffle(block)
        shuffled += block
    offset = draw.random()
    steps = [math.floor(index * rules.train_share + offset) for index in range(len(shuffled) + 1)]
    return {pid for index, pid in enumerate(shuffled) if steps[index + 1] > steps[index]}


# ------------------------------------------------------------------------- queries


def _queries(test: Table, rules: Rules) -> tuple[list[bool], list[str]]:
    """Whether each image of the test is a query, and how that was found."""
    if rules.query_fids is not None:
        fids = test.column("fid") or []
        _check_known(rules.query_fids, set(fids), "--query_list, of the identities for testing")
        wanted = set(rules.query_fids)
        is_query = [fid in wanted for fid in fids]
        line = "Queries: as --query_list says."
    elif rules.query_cameras is not None:
        cameras = _required(test, "camera", "--query_cameras")
        _check_known(
            rules.query_cameras, set(cameras), "--query_cameras, of the images for testing"
        )
        is_query = [camera in rules.query_cameras for camera in cameras]
        line = f"Queries: all images of the cameras {', '.join(rules.query_cameras)}."
    elif rules.query_from is not None:
        dates = _required(test, "date", "--query_from")
        first = _date(rules.query_from)
        is_query = [_date(date) >= first for date in dates]
        line = f"Queries: all images of {rules.query_from} or later."
    else:
        return _drawn_queries(test, rules)
    no_identity = [pid in rules.distractors for pid in test.column("pid") or []]
    return [yes and not no for yes, no in zip(is_query, no_identity, strict=True)], [line]


def _required(images: Table, name: str, flag: str) -> list[str]:
    cells = images.column(name)
    if cells is None:
        raise UserError(
            f"{flag} needs the column {name}, which the CSV does not have. Its columns are "
            f"{', '.join(images.columns)}. Add it, or give --{name} with a regular expression that finds it in the "
            "file ids."
        )
    return cells


def _date(text: str) -> list[int]:
    """What dates are compared by: their numbers. Raises: UserError where there are none."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if not numbers:
        raise UserError(
            f"a date should have numbers, the year first, such as 2024-06-01 or 20240601. Received: {text!r}."
        )
    return numbers


def _drawn_queries(test: Table, rules: Rules) -> tuple[list[bool], list[str]]:
    """One image of each identity and camera; without cameras one tracklet or image of each identity.

    What an identity has is drawn by the seed and its pid, so that it stays when others are added.
    """
    kind = next((name for name in ("camera", "tracklet") if name in test.columns), "image")
    names = test.column(kind) or [""] * len(test.rows)
    units_of: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (pid, name) in enumerate(zip(test.column("pid") or [], names, strict=True)):
        if pid not in rules.distractors:
            units_of[pid][name or f"image {row}"].append(row)  # no tracklet: one of its own
    chosen: set[int] = set()
    for pid, units in units_of.items():
        draw = random.Random(f"{rules.seed} {pid}")
        if len(units) > 1:
            chosen.update(_query_rows(list(units.values()), kind, rules.queries, draw))
    each = "identity and camera" if kind == "camera" else "identity"
    unit = "tracklet" if kind == "tracklet" else "image"
    lines = [f"Queries: {rules.queries} {unit} of each {each}, drawn with --seed {rules.seed}."]
    lonely = [pid for pid, units in units_of.items() if len(units) == 1]
    if lonely:
        lines.append(
            f"{len(lonely)} identities ({common.first_few(lonely)}) have a single {kind} and so are only in the "
            "gallery: no query of theirs could have a match."
        )
    return [row in chosen for row in range(len(test.rows))], lines


def _query_rows(units: list[list[int]], kind: str, count: int, draw: random.Random) -> list[int]:
    """The queries among the rows of an identity.

    Args:
        units: two or more: the rows of each of its cameras, of each tracklet, or each row.
        count: of queries to draw.
    """
    if kind != "camera":
        drawn = draw.sample(units, min(count, len(units) - 1))
        return [row for unit in drawn for row in unit]
    # Each camera keeps an image for the gallery, but for one where all have a single image.
    large = [rows for rows in units if len(rows) > 1]
    if not large:
        return draw.choice(units)
    return [row for rows in large for row in draw.sample(rows, min(count, len(rows) - 1))]


def _without_match(query: Table, gallery: Table) -> list[str]:
    """A line about the queries that have no match in the gallery, or [] if all have one."""
    cameras_of = defaultdict(set)
    for row, camera in enumerate(gallery.column("camera") or [""] * len(gallery.rows)):
        cameras_of[gallery.rows[row][0]].add(camera)
    cameras = query.column("camera") or ["none"] * len(query.rows)
    without = [
        row[1]
        for row, camera in zip(query.rows, cameras, strict=True)
        if not cameras_of[row[0]] - {camera}
    ]
    if not without:
        return []
    where = " from another camera" if "camera" in query.columns else ""
    return [
        f"{len(without)} queries ({common.first_few(without)}) have no match{where} in the gallery, and do not "
        "count in an evaluation."
    ]


if __name__ == "__main__":
    common.run(main, parse_args)
