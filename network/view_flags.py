"""The flags of which views of an image are embedded, and the same as a file of embeddings has them."""

import argparse
import itertools
from typing import NamedTuple

from common import UserError
from data.view_names import view_names
from evaluation import pooling

CROPS = ("center", "avgpool", "five")


class Views(NamedTuple):
    """Which views of each image are embedded, as the flags of embed.py."""

    flip_augment: bool = False
    crop_augment: str | None = None
    aggregator: str | None = None


def add(group: argparse._ActionsContainer) -> None:
    """Add the flags."""
    group.add_argument(
        "--flip_augment", action="store_true", help="Also embed the mirror image of each image."
    )
    group.add_argument(
        "--crop_augment",
        choices=CROPS,
        help="Resize to the pre_crop size of the training, then embed the crop of the net_input size at the center, "
        "or five of them, center and corners, or the whole image at once (avgpool). Without this flag, resize to the "
        "net_input size.",
    )
    group.add_argument(
        "--aggregator",
        choices=tuple(pooling.AGGREGATORS),
        help="How the embeddings of the views of an image become one. Give it with --flip_augment and with "
        "--crop_augment five, and only then.",
    )


def add_for_queries(parser: argparse.ArgumentParser) -> None:
    """Add the flags for queries, whose views are those of a gallery if none is given."""
    add(
        parser.add_argument_group(
            "views of a query", "Without these flags, those of the gallery, as its file says."
        )
    )


def parse_args(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse a command line. Views that do not fit together are an error in the flags."""
    args = parser.parse_args(argv)
    try:
        given(args)
    except UserError as error:
        parser.error(str(error))
    return args


def given(args: argparse.Namespace) -> Views:
    """Those of a command line. Raises: UserError where they do not fit together."""
    pooling.check_aggregator(args.aggregator, args.flip_augment, args.crop_augment)
    return Views(args.flip_augment, args.crop_augment, args.aggregator)


def of_file(names: tuple[str, ...], aggregator: str | None) -> Views:
    """The views of a file of embeddings, by their names.

    Raises:
        UserError: no flags make such views.
    """
    for flip, crop in itertools.product((False, True), (None, *CROPS)):
        if tuple(view_names(flip, crop)) == names:
            return Views(flip, crop, aggregator if len(names) > 1 else None)
    raise UserError(
        f"there are no such views as the gallery's: {', '.join(names)}. Embed it anew with embed.py."
    )
