"""Find the images of a gallery that are nearest to a query.

    python search.py --experiment_root exp --gallery gallery.csv --query photo.jpg
    python search.py --experiment_root exp --gallery gallery.csv --query photo.jpg --crop 10,20,90,180
    python search.py --experiment_root exp --gallery exp/gallery_embeddings.h5 --query folder \
        --filename found.csv --report report

The gallery is embedded already, by embed.py. Queries are embedded by the checkpoint that embedded
the gallery, with its views, as far as the gallery's file says them. A query that is a file of
embeddings needs no network, and no TensorFlow.

    python search.py --experiment_root exp --gallery gallery.csv --query query.csv --threshold results.json

also tells which of the images found count as the same: those nearer than a distance, which evaluate.py
measures with --roc.

    python search.py --experiment_root exp --gallery gallery.csv --build ivf --index gallery.index
    python search.py --experiment_root exp --gallery gallery.csv --index gallery.index --query photo.jpg

builds an index of a large gallery, and searches in it. This needs the extra "search" of
pyproject.toml.
"""

import argparse
import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

# As in evaluate.py: the threads of evaluation/ keep the cores busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import common
from common import UserError
from data import cameras, dataset, fids
from data.dataset import Dataset
from evaluation import gallery as galleries
from evaluation import gallery_index, pipeline
from evaluation.embeddings_file import Origin
from evaluation.gallery import Gallery, Threshold
from evaluation.pipeline import Embedded
from evaluation.search import Exact, Found, Ignore
from experiment import args_json, flags
from network import like_gallery, search_flags, view_flags
from network.queries import Queries, find_queries
from runtime import files, terminal
from runtime.terminal import log
from runtime.version import version

COLUMNS = ("query", "rank", "pid", "fid", "distance", "same")
_SHOWN = 10  # queries on the terminal, at most
# Flags of how queries are embedded.
_OF_EMBEDDING = ("checkpoint", "weights", *view_flags.Views._fields)

# ------------------------------------------------------------------------- flags


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    group = parser.add_argument_group("experiment")
    common.add_flag(
        group,
        "experiment_root",
        required=False,
        help="The experiment that embedded the gallery: it embeds the queries, and tells the metric of its training. "
        "Not needed where --query is a file of embeddings and --metric is given.",
    )
    flags.add_checkpoint_flags(group)
    _add_search(parser)
    _add_output(parser)
    _add_index(parser)
    view_flags.add_for_queries(parser)
    args = view_flags.parse_args(parser, argv)
    _check_combinations(parser, args)
    return args


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    search_flags.add_gallery(group)
    group.add_argument(
        "--query",
        metavar="PATH",
        help="What to look for: an image, a folder of images, a CSV of pid,fid, or a file of embeddings that says its "
        "fids.",
    )
    group.add_argument(
        "--crop",
        type=_box,
        metavar="X1,Y1,X2,Y2",
        help="The part of the query image that is meant, in pixels of the image as it is stored; x2 and y2 are the "
        "first beyond it.",
    )
    group.add_argument(
        "--top_k",
        type=common.positive_int,
        default=10,
        metavar="K",
        help="Number of gallery images to find for each query.",
    )
    search_flags.add_metric(group)
    group.add_argument(
        "--excluder",
        type=common.plugin_name("excluders"),
        metavar="NAME",
        help="Pass over gallery images as an evaluation does, such as those of the same person in the same camera: "
        + ", ".join(common.plugin_names("excluders"))
        + ". Without this flag, none. Not for a search with --index.",
    )
    search_flags.add_threshold(group)
    common.add_flag(
        group,
        "image_root",
        help="Directory that the file ids of CSVs and gallery are relative to. Without this flag, that of the "
        "gallery's embeddings, or of the training.",
    )
    common.add_flag(group, "allow_any_path")
    common.add_flag(group, "batch_size", help="Number of images embedded or compared at a time.")
    common.add_flag(group, "loading_threads")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--filename",
        type=common.writeable_file,
        metavar="FILE",
        help=f"Write what was found to this file, as CSV ({', '.join(COLUMNS)}) if it ends in .csv, or as JSON if it "
        "ends in .json. Without it, the first queries are printed.",
    )
    group.add_argument(
        "--report",
        type=common.writeable_directory,
        metavar="DIR",
        help="Write search.html there, a page with the images of the queries and of what was found. The directory is "
        "created if it does not exist.",
    )


def _add_index(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("index of a large gallery")
    search_flags.add_index(group)
    kinds = ", ".join(f"{name} ({what})" for name, what in gallery_index.KINDS.items())
    group.add_argument(
        "--build",
        choices=tuple(gallery_index.KINDS),
        help=f"First build the index and write it to --index, a directory that is new or empty: {kinds}.",
    )
    group.add_argument(
        "--recall",
        type=common.number(float, lambda x: 0 < x <= 1, "a number above 0, up to 1"),
        default=0.99,
        metavar="X",
        help=f"Share of the true {gallery_index.RECALL_AT} nearest that a search in the index should find. More takes "
        "more time. It is measured with images of the gallery.",
    )


def _box(text: str) -> dataset.Box:
    try:
        return dataset.parse_box(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check_combinations(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.build and args.index is None:
        parser.error("argument --build: needs --index, the directory to write to")
    if args.query is None and not args.build:
        parser.error(
            "the following arguments are required: --query. Give an image, a folder or a CSV"
        )
    if args.excluder and args.index:
        parser.error("argument --excluder: not with --index. Leave one of them out")
    if args.filename and not args.filename.lower().endswith((".csv", ".json")):
        parser.error(f"argument --filename: should end in .csv or .json. Received: {args.filename}")
    search_flags.check_threshold(parser, args)
    if args.build is None and args.recall != parser.get_default("recall"):
        parser.error("argument --recall: has no effect without --build. Give it, too")
    for name in ("crop", "top_k", "filename", "report", "threshold", "excluder", *_OF_EMBEDDING):
        if args.query is None and getattr(args, name) != parser.get_default(name):
            parser.error(f"argument --{name}: has no effect without --query. Give it, too")


# ------------------------------------------------------------------------- the command


def main(args: argparse.Namespace) -> None:
    """Check all that can be wrong before anything slow and before anything is written; search."""
    terminal.setup_logging("search")
    gallery = galleries.load(args.gallery, args.gallery_embeddings, args.experiment_root)
    metric = search_flags.metric(args)
    if args.build:
        gallery_index.check_metric(metric)
        _check_new(args.index)
    threshold = search_flags.threshold(args, gallery, metric)
    queries, plan = None, None
    if args.query is not None:
        queries = find_queries(
            args.query, args.crop, _root(args, gallery.origin), args.allow_any_path
        )
        if queries.embs is not None:
            queries = queries._replace(image_root=_root(args, queries.origin) or "")
        plan = _check_queries(args, queries, gallery)
        if args.report:
            _check_report(args, queries, gallery)
    if args.build:
        built = gallery_index.build(args.index, gallery.embs, metric, args.build, args.recall)
        search_flags.tell_recall(built, args.recall)
        log.info(f"Wrote the index to {args.index}.")
    if queries is None:
        return
    searcher = search_flags.searcher(args, gallery, metric)
    queries = _embedded(args, queries, plan)
    query_embs = queries.embs
    k = min(args.top_k, len(gallery.embs))
    if k < args.top_k:
        log.info(f"The gallery has only {k} images.")
    if isinstance(searcher, Exact):
        found = searcher.search(query_embs, k, _ignored(args.excluder, queries, gallery))
    else:
        found = searcher.search(query_embs, k)
    made = _made(args, gallery, metric, threshold)
    if args.filename:
        _write(args.filename, queries.images, gallery.images, found, threshold, made)
        log.info(f"Wrote {args.filename}.")
    else:
        _print(queries.images, gallery.images, found, threshold)
    if args.report:
        _write_report(args, queries, gallery, found, threshold, made)


def _check_new(directory: str) -> None:
    try:
        common.writeable_directory(directory)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--index: {error}.") from None
    if os.path.isdir(directory) and os.listdir(directory):
        raise UserError(f"--index {directory} is not empty. Give a directory that is new or empty.")


def _root(args: argparse.Namespace, origin: Origin) -> str | None:
    """The directory of images, those of a file of embeddings; None where nothing tells it."""
    if args.image_root:
        return args.image_root
    if origin.image_root is not None:
        return origin.image_root
    if args.experiment_root is None:
        return None
    root = args_json.load(args.experiment_root)[0].image_root
    return root if isinstance(root, str) else None


def _check_queries(
    args: argparse.Namespace, queries: Queries, gallery: Gallery
) -> like_gallery.Plan | None:
    """How to embed the queries; None for those that are embedded. Raises: UserError."""
    dim = gallery.embs.shape[1]
    if queries.embs is not None:
        given = [name for name in _OF_EMBEDDING if getattr(args, name)]
        if given:
            raise UserError(
                f"--{given[0]} has no effect: {args.query} has embeddings already. Leave it out, or give the images."
            )
        if queries.embs.shape[1] != dim:
            raise UserError(
                "queries and gallery should have the same dimension. Received: "
                f"{queries.embs.shape[1]} in {args.query}, {dim} in {gallery.path}. Embed both with one experiment."
            )
        like_gallery.warn_about_differences(queries.origin, gallery.origin)
        return None
    if args.experiment_root is None:
        raise UserError(f"--experiment_root is needed to embed {args.query}. Give it.")
    views = view_flags.given(args)
    return like_gallery.plan(
        args.experiment_root,
        gallery.origin,
        dim,
        args.checkpoint,
        args.weights,
        views if any(views) else None,
    )


def _embedded(
    args: argparse.Namespace, queries: Queries, plan: like_gallery.Plan | None
) -> Queries:
    """The queries with their embeddings. plan: how to embed them; None where they are there."""
    if plan is None:
        return queries
    log.info(f"Embedding the queries, {len(queries.images)}, with {plan.checkpoint}.")
    embedder = plan.make_embedder(batch_size=args.batch_size, loading_threads=args.loading_threads)
    images = dataclasses.replace(queries.images, upright=plan.trained.upright)
    embs = embedder(cameras.files(images, queries.image_root, plan.trained.camera_rule))
    return queries._replace(images=images, embs=embs)


def _check_report(args: argparse.Namespace, queries: Queries, gallery: Gallery) -> None:
    """Raises: UserError where the page cannot be written."""
    from reports import search as report

    report.check_replaced(args.report)
    root = _root(args, gallery.origin)
    if root is None or not os.path.isdir(root):
        raise UserError(
            f"--report needs the images of the gallery. Their directory is {root or 'not known'}: give --image_root."
        )
    dataset.check_paths(args.gallery, root, gallery.images.fids, args.allow_any_path)
    if queries.embs is not None:  # where their files are did not matter until here
        shown = queries.images.fids[: report.QUERIES]
        dataset.check_images(
            args.query, queries.image_root, shown, args.allow_any_path, allow_links=False
        )


def _ignored(excluder: str | None, queries: Queries, gallery: Gallery) -> Ignore | None:
    """Which gallery images are passed over for the queries."""
    if excluder is None:
        return None
    of_gallery = Embedded(gallery.images, gallery.embs)
    of_queries = pipeline.without_embs(queries.images)
    root = gallery.origin.image_root
    if pipeline.excludes_by_file(excluder) and root is not None and os.path.isdir(root):
        of_gallery = of_gallery._replace(files=fids.real_paths(gallery.images.fids, root))
        files_of_queries = fids.real_paths(queries.images.fids, queries.image_root)
        of_queries = of_queries._replace(files=files_of_queries)
    ignored = pipeline.load_excluder(excluder, pipeline.names_for(excluder, of_gallery))
    names = pipeline.names_for(excluder, of_queries)
    return lambda block: ignored(names[block])


# ------------------------------------------------------------------------- what is written


def _made(
    args: argparse.Namespace, gallery: Gallery, metric: str, threshold: Threshold | None
) -> dict[str, Any]:
    """How the search was made: `made` of the JSON file, and a table on the page."""
    made = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "version": version(),
        "gallery embeddings": os.path.abspath(gallery.path),
        "gallery checkpoint": gallery.origin.checkpoint,
        "metric": metric,
        "threshold": threshold and threshold.distance,
        "threshold is": threshold and threshold.why,
    }
    given = {name: value for name, value in vars(args).items() if name not in made}
    return made | {name: value for name, value in given.items() if value is not None}


def _by_query(
    queries: Dataset, gallery: Dataset, found: Found, threshold: Threshold | None
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The name of each query, which others may have, too, and what was found for it, with COLUMNS.

    `same` is None without a threshold.
    """
    names = queries.names()
    for row, name in enumerate(names):
        listed = []
        places = found.rows[row].tolist()
        for rank, (place, dist) in enumerate(
            zip(places, found.dists[row].tolist(), strict=True), 1
        ):
            if place < 0:
                break
            same = None if threshold is None else dist < threshold.distance
            fid = gallery.name(place)
            values = (name, rank, gallery.pids[place] or None, fid, dist, same)
            listed.append(dict(zip(COLUMNS, values, strict=True)))
        yield name, listed


def _write(
    path: str,
    queries: Dataset,
    gallery: Dataset,
    found: Found,
    threshold: Threshold | None,
    made: Mapping[str, Any],
) -> None:
    by_query = _by_query(queries, gallery, found, threshold)
    try:
        if path.lower().endswith(".json"):
            listed = [
                {
                    "query": name,
                    "found": [{each: row[each] for each in COLUMNS[1:]} for row in rows],
                }
                for name, rows in by_query
            ]
            files.write_json(path, {"made": dict(made), "queries": listed})
            return
        with (
            files.complete_file(path) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for _, rows in by_query:
                writer.writerows(rows)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}. Give another --filename."
        ) from None


def _print(queries: Dataset, gallery: Dataset, found: Found, threshold: Threshold | None) -> None:
    few = queries.select(slice(_SHOWN))
    table = [list(COLUMNS if threshold else COLUMNS[:-1])]
    rows = [row for _, rows in _by_query(few, gallery, found, threshold) for row in rows]
    for row in rows:
        cells = row | {"distance": f"{row['distance']:#.4g}", "pid": row["pid"] or ""}
        if threshold is not None:
            cells["same"] = "same" if row["same"] else ""
        table.append([str(cells[name]) for name in table[0]])
    print("\n".join(terminal.columns(table)))
    if len(queries) > _SHOWN:
        log.info(
            f"These are the first {_SHOWN} of {len(queries)} queries. --filename writes all of them."
        )


def _write_report(
    args: argparse.Namespace,
    queries: Queries,
    gallery: Gallery,
    found: Found,
    threshold: Threshold | None,
    made: Mapping[str, Any],
) -> None:
    from reports import search as report

    root = _root(args, gallery.origin) or ""
    shown = found.rows[: report.QUERIES, : report.LENGTH]
    names = gallery.images.fids[np.unique(shown[shown >= 0])]
    dataset.check_images(args.gallery, root, names, args.allow_any_path, allow_links=False)
    page = report.write(
        args.report,
        report.Images(queries.images, queries.image_root),
        report.Images(gallery.images, root),
        found,
        threshold,
        made,
    )
    log.info(f"Wrote {page}.")


if __name__ == "__main__":
    common.run(main, parse_args)
