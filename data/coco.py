"""Write the CSV of images with annotations in COCO's format: a row for each annotation, with its
box.

    python -m data.coco --annotations instances.json --image_root images --directory csvs
    python -m data.coco --annotations trap.json --image_root images --directory csvs \\
        --pid_key individual --camera_key location --split

all.csv has a row for each annotation. With --split there are also train.csv, query.csv and
gallery.csv. The identity is the annotation's category, or a key of its own.
"""

import argparse
import math
from collections import Counter
from typing import Any, NamedTuple

import common
from common import UserError
from data import csv_builder, dataset, split
from data.dataset import Box
from data.table import BOX
from runtime import terminal
from runtime.terminal import log


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = csv_builder.make_parser(__doc__)
    parser.prog = "python -m data.coco"
    parser.add_argument(
        "--annotations",
        required=True,
        type=common.readable_file,
        metavar="JSON",
        help="The file with images, annotations and categories.",
    )
    parser.add_argument(
        "--pid_key",
        metavar="KEY",
        help="The key of an annotation, or of its attributes, that has the identity, such as track_id. Without it, the "
        "name of the category is the identity.",
    )
    parser.add_argument(
        "--categories",
        nargs="+",
        metavar="NAME",
        help="Take the annotations of these categories only.",
    )
    for name in ("camera", "date", "group"):
        parser.add_argument(
            f"--{name}_key",
            metavar="KEY",
            help=f"The key of an image, or of an annotation, that has the {name}.",
        )
    csv_builder.add_columns(parser)
    parser.add_argument(
        "--on_bad_box",
        choices=("error", "clip", "skip"),
        default="error",
        help="What to do with boxes that are empty or not within their image: end with the first few, clip them to the "
        "image and leave out those that are empty then, or leave all out.",
    )
    split.add_switch(parser)
    return parser.parse_args(argv)


class Source(NamedTuple):
    """What a file of annotations holds, checked as far as a row needs it.

    Attributes:
        images, categories: by id.
    """

    path: str
    images: dict[Any, dict]
    categories: dict[Any, str]
    annotations: list[dict]


def main(args: argparse.Namespace) -> None:
    terminal.setup_logging("data.coco")
    for name in csv_builder.FROM_NAMES:
        if getattr(args, name) and getattr(args, f"{name}_key"):
            raise UserError(
                f"--{name} and --{name}_key say the same in two ways. Give one of them."
            )
    source = read(args.annotations)
    if not source.categories and not args.pid_key:
        raise UserError(
            f"{source.path} has no categories, which are the identities. Give --pid_key, or add categories."
        )
    chosen = choose(source, args.categories)
    boxes = boxes_of(source, chosen, args.on_bad_box)
    if boxes is not None:
        chosen = [annotation for annotation, box in zip(chosen, boxes, strict=True) if box]
    if not chosen:
        raise UserError(f"{source.path} has no annotation that counts. Give other flags.")
    fids = [source.images[annotation["image_id"]]["file_name"] for annotation in chosen]
    columns = csv_builder.columns_from_names(args, fids)
    for name in csv_builder.FROM_NAMES:
        key = getattr(args, f"{name}_key")
        if key:
            columns[name] = [value_of(source, annotation, key) for annotation in chosen]
    if boxes is not None:
        kept = [box for box in boxes if box]
        columns |= {name: [str(box[i]) for box in kept] for i, name in enumerate(BOX)}
    if args.pid_key:
        pids = [value_of(source, annotation, args.pid_key) for annotation in chosen]
    else:
        pids = [source.categories[annotation["category_id"]] for annotation in chosen]
    dataset.check_images(source.path, args.image_root, list(dict.fromkeys(fids)))
    table = csv_builder.with_columns(pids, fids, columns)
    parts = split.parts_of(table, args.split)
    csv_builder.write(args.directory, parts)
    split.warn_of_earlier(args.directory, parts)


# ------------------------------------------------------------------------- the file


def read(path: str) -> Source:
    """Read a file of annotations.

    Raises:
        UserError for a file that is no JSON, or lacks what COCO's format has.
    """
    content = csv_builder.read_json(path)
    expected = (
        "should be a JSON object with the lists images, annotations and categories, as COCO's"
    )
    if not isinstance(content, dict):
        raise UserError(f"{path} {expected}. Received: {type(content).__name__}.")
    images = _by_id(path, content, "images", "file_name")
    categories = {}
    if content.get("categories"):
        named = _by_id(path, content, "categories", "name")
        categories = {number: category["name"] for number, category in named.items()}
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise UserError(f"{path} {expected}. Its annotations are no list of objects.")
    for annotation in annotations:
        if not _has(annotation, "image_id", images):
            raise UserError(
                f"{path}: {_name(annotation)} is of an image that is not in images. Received: "
                f"{annotation.get('image_id')!r}. Add the image, or remove the annotation."
            )
    return Source(path, images, categories, annotations)


def _by_id(path: str, content: dict, name: str, key: str) -> dict[Any, dict]:
    """The objects of a list by their ids; each has a text under `key`."""
    entries = content.get(name)
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{path} should have a list {name}, as COCO's format has. Its keys are "
            f"{', '.join(content) or 'none'}."
        )
    by_id: dict[Any, dict] = {}
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        if (
            not isinstance(number, int | str)
            or not entry.get(key)
            or not isinstance(entry[key], str)
        ):
            raise UserError(
                f"{path}: each of {name} should have an id and a {key}. Received: {entry!r:.200}. Add what is missing."
            )
        if number in by_id:
            raise UserError(
                f"{path}: two of {name} have the id {number!r}: {by_id[number][key]} and {entry[key]}. Give each "
                "its own."
            )
        by_id[number] = entry
    return by_id


def _has(annotation: dict, key: str, known: dict) -> bool:
    value = annotation.get(key)
    return isinstance(value, int | str) and value in known


def _name(annotation: dict) -> str:
    return f"the annotation with id {annotation.get('id')!r}"


def choose(source: Source, categories: list[str] | None) -> list[dict]:
    """The annotations of the categories, or all. Those of crowds are left out and told.

    Raises:
        UserError for a category that the file does not have.
    """
    chosen = [annotation for annotation in source.annotations if annotation.get("iscrowd") != 1]
    crowds = len(source.annotations) - len(chosen)
    if crowds:
        log.info(f"{crowds} annotations of crowds (iscrowd) are left out.")
    for annotation in chosen:
        if source.categories and not _has(annotation, "category_id", source.categories):
            raise UserError(
                f"{source.path}: {_name(annotation)} is of a category that is not in categories. Received: "
                f"{annotation.get('category_id')!r}. Add the category, or remove the annotation."
            )
    if categories is None:
        return chosen
    names = sorted(set(source.categories.values()))
    for name in categories:
        if name not in names:
            raise UserError(
                f"--categories: {source.path} has no category {name!r}.{common.suggestion(name, names)} It has "
                f"{', '.join(names)}."
            )
    return [one for one in chosen if source.categories[one["category_id"]] in categories]


def value_of(source: Source, annotation: dict, key: str) -> str:
    """What an annotation, its attributes or its image has under a key, as text.

    Raises:
        UserError where that is missing, or neither text nor a whole number.
    """
    attributes = annotation.get("attributes")
    places = (annotation, attributes, source.images[annotation["image_id"]])
    values = [place[key] for place in places if isinstance(place, dict) and key in place]
    value = values[0] if values else None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        keys = sorted({name for place in places if isinstance(place, dict) for name in place})
        raise UserError(
            f"{source.path}: {_name(annotation)} should have {key}, a text or a whole number, in itself, its "
            f"attributes or its image. Received: {value!r}.{common.suggestion(key, keys)} Its keys are "
            f"{', '.join(keys)}."
        )
    return str(value)


# ------------------------------------------------------------------------- boxes


def boxes_of(source: Source, chosen: list[dict], on_bad_box: str) -> list[Box | None] | None:
    """The box of each annotation, None for one that is left out; None if no annotation has one.

    Raises:
        UserError for boxes that are empty or not within their image, if on_bad_box is "error".
    """
    if not any("bbox" in annotation for annotation in chosen):
        log.info(f"No annotation of {source.path} has a bbox: the images are taken whole.")
        return None
    boxes: list[Box | None] = []
    bad: Counter[str] = Counter()
    for annotation in chosen:
        image = source.images[annotation["image_id"]]
        exact = corners(annotation.get("bbox"))
        size = _number(image.get("width")), _number(image.get("height"))
        box = exact and within(exact, size)
        if exact is None or not is_within(exact, size):
            shown = f"{_name(annotation)}, {annotation.get('bbox')!r} in {image['file_name']}"
            bad[f"{shown} of {size[0]:g}x{size[1]:g}"] += 1
            boxes.append(box if on_bad_box == "clip" else None)
        else:
            boxes.append(box)
    if bad and on_bad_box == "error":
        raise UserError(
            f"{source.path}: {bad.total()} boxes are not x, y, width and height of an area within their image: "
            f"{common.first_few(list(bad), '; ')}. Correct them, or give --on_bad_box clip or skip."
        )
    if bad:
        left_out = sum(box is None for box in boxes)
        log.warning(
            f"{bad.total()} boxes are not within their image; {left_out} of them are left out: "
            f"{common.first_few(list(bad), '; ')}"
        )
    return boxes


def _number(value: Any) -> float:
    """A width or height; infinity where the file has none that is sensible."""
    is_size = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31
    return float(value) if is_size else math.inf


def corners(bbox: Any) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of COCO's x, y, width, height; None for what is no box."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    if not all(isinstance(number, int | float) and abs(number) < 2**31 for number in bbox):
        return None
    x, y, width, height = bbox
    return x, y, x + width, y + height


def is_within(exact: tuple[float, float, float, float], size: tuple[float, float]) -> bool:
    """Whether a box has an area and lies within its image, up to a pixel: tools round."""
    x1, y1, x2, y2 = exact
    return -1 < x1 < x2 < size[0] + 1 and -1 < y1 < y2 < size[1] + 1


def within(exact: tuple[float, float, float, float], size: tuple[float, float]) -> Box | None:
    """The smallest box of whole pixels around one, clipped to the image; None if that is empty."""
    x1, y1, x2, y2 = (round(number, 3) for number in exact)  # 10.000000001 is 10
    left, top = max(math.floor(x1), 0), max(math.floor(y1), 0)
    right, bottom = min(math.ceil(x2), size[0]), min(math.ceil(y2), size[1])
    if left >= right or top >= bottom:
        return None
    return left, top, int(right), int(bottom)


if __name__ == "__main__":
    common.run(main, parse_args)
