r"""Score embeddings: mAP, CMC and more of a query set against a gallery set.

    python evaluate.py --excluder market1501 --experiment_root exp --filename results.json \
        --query_dataset query.csv --gallery_dataset test.csv

takes the metric of the training from exp/args.json, and the embeddings from where embed.py puts
them, exp/query_embeddings.h5 and exp/test_embeddings.h5. For embeddings from elsewhere:

    python evaluate.py --excluder market1501 --metric euclidean --filename results.json \
        --query_dataset query.csv --query_embeddings query_embeddings.h5 \
        --gallery_dataset test.csv --gallery_embeddings test_embeddings.h5

A query without a true match, because the gallery has none or the excluder ignores all of them, has
no AP: it is left out of all figures, named on stderr, and null among the `aps` of the results file.
(The original counted it in CMC.)

What changes embeddings or distances composes, in this order: --pool_tracklets pools the images of
tracklets, --multi_query queries, --query_expansion replaces embeddings, --rerank distances. With the
last three the ranking of one query depends on the other queries, too.

    python evaluate.py ... --per_query queries.csv

also writes a table of the queries: AP, INP, number of true matches, ranks of the first and the last.

    python evaluate.py ... --report report --image_root images --activations exp

also writes a page, report/report.html, that shows the best and the worst queries and what was found
for them. With --baseline color_histogram the figures of an evaluation without any learning stand
beside it, in the report and in a second line on the terminal. From Python: `from evaluation import evaluate`.
"""

import argparse
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

# NumPy reads this when it is imported. The threads of evaluation/ keep the cores busy: more of
# them, inside each matrix product, would only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import common
from common import UserError
from data import dataset, fids
from data.dataset import Dataset
from evaluation import embeddings_file, figures, grouping, pipeline, plausibility, pooling
from evaluation.embeddings_file import Origin
from evaluation.grouping import Groups
from evaluation.pipeline import Embedded, Options, Results
from evaluation.verification import OpenSet
from experiment import args_json
from runtime import files, json_files, terminal
from runtime.tensorflow import import_tensorflow
from runtime.version import version

_SHOWN_GROUPS = 20  # on the terminal, at most

# ------------------------------------------------------------------------- flags


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    _add_inputs(parser)
    _add_figures(parser)
    _add_post_processing(parser)
    _add_report(parser)
    args = parser.parse_args(argv)
    _take_from_experiment(parser, args)
    _check_combinations(parser, args)
    _check_output(parser, args, "filename", is_result)
    _check_output(parser, args, "per_query", is_per_query)
    return args


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is compared")
    group.add_argument(
        "--excluder",
        required=True,
        type=common.plugin_name("excluders"),
        metavar="NAME",
        help="Which gallery images are ignored for a query: "
        + ", ".join(common.plugin_names("excluders"))
        + ".",
    )
    common.add_flag(
        group,
        "experiment_root",
        required=False,
        help="The experiment that embedded both sets: it tells the metric of its training, the files of embeddings, "
        "and for --report and --baseline the image_root, where these flags are not given.",
    )
    for part in ("query", "gallery"):
        group.add_argument(
            f"--{part}_dataset",
            required=True,
            type=common.readable_file,
            metavar="CSV",
            help=f"The {part} set: one line pid,fid for every image.",
        )
        group.add_argument(
            f"--{part}_embeddings",
            type=common.readable_file,
            metavar="FILE",
            help=f"Embeddings of the {part} set, as embed.py writes them: HDF5, Parquet or .npy. Without this flag, "
            f"<name of the {part}_dataset>_embeddings.h5 in the experiment_root.",
        )
    common.add_flag(
        group,
        "metric",
        help="Distance between embeddings: that of the training, which is taken without this flag.",
    )


def _add_figures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("figures")
    group.add_argument(
        "--figures",
        nargs="+",
        type=figures.name,
        metavar="NAME",
        help=f"What is printed: some of {', '.join(figures.NAMES)}, each K an integer. Without this flag, mAP, top-1, "
        "top-2, top-5, top-10 and mINP.",
    )
    group.add_argument(
        "--filename",
        type=common.writeable_file,
        metavar="JSON",
        help="Write mAP, mINP, MAP_at_R, R_precision, CMC (one per rank), precision_at_recall (interpolated), and aps "
        "and inps (one per query, null without a true match) to this file, where no cameras are read also Recall_at_K, "
        "and how they were made: date, version, flags, checkpoints.",
    )
    group.add_argument(
        "--per_query",
        type=common.writeable_file,
        metavar="CSV",
        help=f"Write a row for each query to this file: {', '.join(pipeline.PER_QUERY_COLUMNS)}.",
    )
    group.add_argument(
        "--roc",
        action="store_true",
        help="Also write TPR_at_FPR to the JSON file, the share of true pairs that is accepted when a given share "
        "of the wrong pairs is, with distance_at_FPR, and the equal error rate, EER and EER_distance. --report has "
        "them always.",
    )
    group.add_argument(
        "--open_set",
        action="store_true",
        help="Some queries have a pid that the gallery lacks. Print how many of them would be accepted at each of "
        "these distances, and write it to the JSON file.",
    )
    group.add_argument(
        "--groups",
        type=grouping.rule,
        metavar="RULE",
        help="Also tell the figures of each group of queries, and write those of each pair of groups, of queries and "
        "of gallery images, to the JSON file. RULE is a column of the CSVs, group or camera; a data set whose file "
        "names tell cameras, such as market1501; or a regular expression that is searched for in the fid, with one "
        "group in parentheses.",
    )
    common.add_flag(
        group,
        "batch_size",
        help="Largest number of queries compared at a time. Fewer take less memory. It does not change any result.",
    )
    group.add_argument(
        "--use_market_ap",
        action="store_true",
        help="Compute AP as the code that came with Market-1501 does (trapezoids), instead of as scikit-learn does "
        "(steps).",
    )


def _add_post_processing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("post-processing, in this order")
    group.add_argument(
        "--pool_tracklets",
        choices=tuple(pooling.QUERY_POOLS),
        help="Pool the images of one tracklet, as the CSV's column tracklet has it, number by number, into one: in "
        "query set and gallery. It gets the name of the first of them.",
    )
    group.add_argument(
        "--multi_query",
        choices=tuple(pooling.QUERY_POOLS),
        help="Pool the queries of one pid and camera, number by number, into one query. It gets the "
        "name of the first of them.",
    )
    group.add_argument(
        "--query_expansion",
        type=common.integer(2),
        nargs="?",
        const=5,
        metavar="K",
        help="Average query expansion: each embedding of queries and gallery becomes the mean of its K nearest in "
        "both, itself counted, weighted by cosine ** --query_expansion_alpha. Without a number, K is 5.",
    )
    group.add_argument(
        "--query_expansion_alpha",
        type=common.real(lambda x: 0 <= x < math.inf, "a finite number of at least 0"),
        default=Options.query_expansion_alpha,
        metavar="X",
        help="Exponent of the weights. With 0, the K nearest have the same weight.",
    )
    group.add_argument(
        "--rerank",
        action="store_true",
        help="k-reciprocal re-ranking (Zhong et al. 2017), with the neighbors in query and gallery together.",
    )
    group.add_argument(
        "--rerank_k1",
        type=common.positive_int,
        default=Options.rerank_k1,
        metavar="K",
        help="Number of nearest neighbors within which two images must find each other.",
    )
    group.add_argument(
        "--rerank_k2",
        type=common.positive_int,
        default=Options.rerank_k2,
        metavar="K",
        help="Number of nearest images, the image itself counted, over which its neighborhood is averaged.",
    )
    group.add_argument(
        "--rerank_lambda",
        type=common.number(float, lambda x: 0 <= x <= 1, "a number in 0..1"),
        default=Options.rerank_lambda,
        metavar="X",
        help="Weight of the distance itself, in 0..1. The neighborhoods have the rest of the weight.",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("report")
    group.add_argument(
        "--report",
        type=common.writeable_directory,
        metavar="DIR",
        help="Write report.html there, a page with charts, and with the images of the worst and the best queries and "
        "what was found for them; and the charts as PNG. The directory is created if it does not exist.",
    )
    common.add_flag(
        group,
        "image_root",
        help="Directory that the file ids of both CSVs are relative to, for --report and --baseline.",
    )
    common.add_flag(group, "allow_any_path")
    group.add_argument(
        "--baseline",
        choices=("color_histogram",),
        help="Also evaluate what needs no learning, color histograms of the images: where they do as well, the test is "
        "easy, or the training was short. Their metric is euclidean; all else is as for the network.",
    )
    group.add_argument(
        "--activations",
        type=common.readable_directory,
        metavar="DIR",
        help="An experiment. The report also shows where its network looks. This needs TensorFlow.",
    )


# flag: the one without which it has no effect, or several, of which one is enough
_NEEDS: dict[str, str | tuple[str, ...]] = {
    "rerank_k1": "rerank",
    "rerank_k2": "rerank",
    "rerank_lambda": "rerank",
    "query_expansion_alpha": "query_expansion",
    "image_root": ("report", "baseline"),
    "allow_any_path": ("report", "baseline"),
    "activations": "report",
    "roc": "filename",
}


def _take_from_experiment(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Let --experiment_root tell what is not given, and end with an error where nothing does."""
    root = args.experiment_root
    if root is None:
        names = ("query_embeddings", "gallery_embeddings", "metric")
        lacking = [f"--{name}" for name in names if getattr(args, name) is None]
        if lacking:
            parser.error(
                f"the following arguments are required: {', '.join(lacking)}. Give them, or the --experiment_root "
                "that tells them"
            )
        return
    for part in ("query", "gallery"):
        if getattr(args, f"{part}_embeddings") is None:
            csv = getattr(args, f"{part}_dataset")
            path = embeddings_file.default_path(root, csv, part)
            if not os.path.isfile(path):
                parser.error(
                    f"argument --{part}_embeddings: {path} does not exist. Call: python embed.py --experiment_root "
                    f"{root} --dataset {csv}; or give the file"
                )
            setattr(args, f"{part}_embeddings", path)
    if args.metric is None:
        args.metric = args_json.metric_of_training(root)
    if (args.report or args.baseline) and args.image_root is None:
        args.image_root = _image_root_of_training(parser, root)


def _image_root_of_training(parser: argparse.ArgumentParser, experiment_root: str) -> str | None:
    settings, _ = args_json.load(experiment_root)
    if settings.image_root is None:
        return None
    if not isinstance(settings.image_root, str):
        parser.error(
            f"argument --image_root: {experiment_root}/args.json has several. Give the one of these CSVs"
        )
    try:
        return common.readable_directory(settings.image_root)
    except argparse.ArgumentTypeError as error:
        parser.error(
            f"argument --image_root: that of {experiment_root}/args.json {error}. Give another"
        )


def _check_combinations(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for name in ("report", "baseline"):
        if getattr(args, name) is not None and args.image_root is None:
            parser.error(
                f"argument --image_root: needed with --{name}. Give the directory of the images"
            )
    for name in _NEEDS:
        if not _in_effect(args, name) and getattr(args, name) != parser.get_default(name):
            parser.error(
                f"argument --{name}: has no effect without --{' or --'.join(_needed(name))}. Add that, or leave this "
                "out"
            )
    try:
        options_of(args)
    except UserError as error:
        parser.error(f"argument --{error}")


def _needed(name: str) -> tuple[str, ...]:
    """The flags of which a flag needs one; () for a flag that needs none."""
    needed = _NEEDS.get(name, ())
    return (needed,) if isinstance(needed, str) else needed


def _in_effect(args: argparse.Namespace, name: str) -> bool:
    """Whether a flag, given or not, has an effect beside the others."""
    needed = _needed(name)
    return not needed or any(getattr(args, other) for other in needed)


def _check_output(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    name: str,
    may_be_replaced: Callable[[str], bool],
) -> None:
    """End with an error where the file of an output flag would replace something else."""
    path = getattr(args, name)
    if path is None:
        return
    if name == "per_query" and args.filename is not None and _same_file(path, args.filename):
        parser.error(
            f"argument --per_query: should not be the file of --filename. Received: {path}"
        )
    if not os.path.exists(path):
        return
    for flag in ("query_dataset", "query_embeddings", "gallery_dataset", "gallery_embeddings"):
        if os.path.samefile(path, getattr(args, flag)):
            parser.error(
                f"argument --{name}: should not be the file of --{flag}, which it would replace. "
                f"Received: {path}"
            )
    if not may_be_replaced(path):
        parser.error(
            f"argument --{name}: should not be a file of another kind, which it would replace. Received: "
            f"{path}. Give another name, or take the file away"
        )


def _same_file(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def is_result(path: str) -> bool:
    """Whether a file is empty or what --filename writes."""
    try:
        content = Path(path).read_bytes()
        return not content or "mAP" in json_files.parse(content)
    except (OSError, TypeError, ValueError):
        return False


def is_per_query(path: str) -> bool:
    """Whether a file is empty or what --per_query writes."""
    try:
        with open(path, encoding="utf-8") as file:
            line = file.readline()
    except (OSError, ValueError):
        return False
    return not line or line.rstrip("\n") == ",".join(pipeline.PER_QUERY_COLUMNS)


def options_of(args: argparse.Namespace) -> Options:
    """The flags as evaluation.evaluate takes them. Raises: UserError for those that do not fit."""
    return Options(
        metric=args.metric,
        excluder=args.excluder,
        pool_tracklets=args.pool_tracklets,
        multi_query=args.multi_query,
        query_expansion=args.query_expansion,
        query_expansion_alpha=args.query_expansion_alpha,
        rerank=args.rerank,
        rerank_k1=args.rerank_k1,
        rerank_k2=args.rerank_k2,
        rerank_lambda=args.rerank_lambda,
        use_market_ap=args.use_market_ap,
        recalls=pipeline.RECALLS if args.filename else (),
        fprs=_fprs(args),
        open_set=args.open_set,
        groups=args.groups,
        batch_size=args.batch_size,
    )


def _fprs(args: argparse.Namespace) -> tuple[float, ...]:
    """The shares of wrong pairs for which distances are asked, in the order of the flags."""
    asked = [figures.false_positives(name) for name in args.figures or ()]
    fprs = [fpr for fpr in asked if fpr is not None]
    if args.roc or args.report or args.open_set or "EER" in (args.figures or ()):
        fprs = [*pipeline.FPRS, *fprs]
    return tuple(dict.fromkeys(fprs))


# ------------------------------------------------------------------------- the command


def main(args: argparse.Namespace) -> None:
    log = terminal.setup_logging("evaluate")
    options = options_of(args)

    # What can be wrong with flags and files is found here, before anything slow.
    query_set = dataset.load(args.query_dataset, "query")
    gallery_set = dataset.load(args.gallery_dataset, "gallery")
    csvs = (args.query_dataset, args.gallery_dataset)
    pipeline.check_datasets(query_set, gallery_set, options, names=csvs)
    query, gallery = _embedded(args, query_set, gallery_set)
    embeddings = (args.query_embeddings, args.gallery_embeddings)
    pipeline.check_embs(query, gallery, names=embeddings)
    origins = tuple(embeddings_file.origin(path) for path in embeddings)
    query = _as_embedded(query, origins[0])
    gallery = _as_embedded(gallery, origins[1])
    query, gallery = _with_files(query, gallery, options, origins)
    _warn_about_metric(log, args, origins[0])
    _warn_about_embeddings(log, args, (query, gallery), origins)
    if args.report:
        from reports import evaluation as report  # only here, for Matplotlib's sake

        report.check_replaced(args.report)
    if args.report or args.baseline:
        for csv, images in zip(csvs, (query_set, gallery_set), strict=True):
            dataset.check_images(
                csv, args.image_root, images.fids, args.allow_any_path, allow_links=False
            )
    activations = _load_activations(args.activations)

    results = pipeline.evaluate(query, gallery, options)

    if args.pool_tracklets:
        _log_tracklets(log, gallery_set, results)
    if args.multi_query:
        _log_pooling(log, len(query_set.fids), len(results.query.fids))
    _warn_about_unmatched(log, results)
    print(summary(results, args.figures))
    if results.open_set is not None:
        print(open_set_table(results, results.open_set))
    if results.groups is not None:
        print(groups_table(results.groups))
    made = made_of(args, (query, gallery), origins)
    if args.filename is not None:
        content = json_files.with_digest(results.as_json() | {"made": made})
        _write("filename", args.filename, files.write_json, content)
    if args.per_query is not None:
        _write("per_query", args.per_query, write_table, results.per_query())
    baselines = _evaluate_baseline(args, query.dataset, gallery.dataset, options)
    if args.report:
        checkpoints = [origin.checkpoint for origin in origins]
        rows = made_rows(args, made)
        report.write(
            args.report, results, args.image_root, rows, activations, checkpoints, baselines
        )
        log.info(f"Wrote {os.path.join(args.report, 'report.html')}.")


def made_of(
    args: argparse.Namespace, sets: tuple[Embedded, Embedded], origins: tuple[Origin, ...]
) -> dict[str, object]:
    """How results came about: `made` of the JSON file.

    Returns:
        date (ISO 8601, with the zone), version of the project, all flags, and for query and gallery
        their files, number of images, and what the embeddings' file says of how they were made:
        null where it does not.
    """
    made: dict[str, object] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "version": version(),
        "flags": {name: _plain(value) for name, value in vars(args).items()},
    }
    for part, images, origin in zip(("query", "gallery"), sets, origins, strict=True):
        path = getattr(args, f"{part}_embeddings")
        made[part] = {
            "dataset": os.path.abspath(getattr(args, f"{part}_dataset")),
            "images": len(images.embs),
            "embeddings": os.path.abspath(path),
            "dimension": images.embs.shape[1],
            "checkpoint": origin.checkpoint,
            "views": origin.augmentation_types,
            "aggregator": origin.aggregator,
            "image_root": origin.image_root,
            **({"weights": origin.weights} if origin.weights else {}),
            **({"network": origin.network} if origin.network else {}),
        }
    return made


def made_rows(args: argparse.Namespace, made: dict[str, object]) -> dict[str, object]:
    """The same as one table: `date`, `query checkpoint` and so on, then the flags in effect."""
    rows: dict[str, object] = {}
    for name, value in made.items():
        if not isinstance(value, dict):
            rows[name] = value
        elif name != "flags":
            for what, of_part in value.items():
                words = ", ".join(of_part) if isinstance(of_part, tuple) else of_part
                rows[f"{name} {what}"] = words
    return rows | {name: value for name, value in vars(args).items() if _in_effect(args, name)}


def _plain(value: object) -> object:
    """A flag's value as JSON has it."""
    return value if isinstance(value, bool | int | float | None) else str(value)


def summary(results: Results, names: Sequence[str] | None = None) -> str:
    """A line of figures: those of the names, or those that everybody looks at first."""
    if names:
        return " | ".join(f"{name}: {_value(results, name)}" for name in names)
    return (
        f"mAP: {results.mAP:.2%} | top-1: {results.top(1):.2%} top-2: {results.top(2):.2%} | "
        f"top-5: {results.top(5):.2%} | top-10: {results.top(10):.2%} | mINP: {results.mINP:.2%}"
    )


def _value(results: Results, name: str) -> str:
    """A figure in words; with its distance where it has one."""
    share = f"{results.figure(name):.2%}"
    fpr = figures.false_positives(name)
    if results.verification is None or (fpr is None and name != "EER"):
        return share
    pairs = results.verification
    point = pairs.equal_error() if fpr is None else pairs.at_fpr(fpr)
    return f"{share} at distance {point.distance:.4g}"


def open_set_table(results: Results, open_set: OpenSet) -> str:
    """What each threshold does to the queries whose pid the gallery lacks: lines of text."""
    unknown, known = len(open_set.unknown), len(open_set.known)
    lines = [
        f"Open set: {unknown} queries have a pid that the gallery lacks, {known} have a true match.",
        "threshold at              distance     FPR     TPR  unknown accepted  known found",
    ]
    for point in results.operating_points():
        lines.append(
            f"{point.name:24} {point.distance:9.4g} {point.fpr:7.2%} {point.tpr:7.2%} {point.accepted:17.2%} "
            f"{point.found:12.2%}"
        )
    return "\n".join(lines)


def groups_table(groups: Groups) -> str:
    """The figures of each group, or of those with the lowest mAP where there are many: lines of text."""
    shown = list(groups.queries.items())
    title = f"By group, of {len(shown)}: the mean of their mAP is {groups.mean_ap:.2%}."
    if len(shown) > _SHOWN_GROUPS:
        shown = sorted(shown, key=lambda item: item[1]["mAP"])[:_SHOWN_GROUPS]
        title += f" The {_SHOWN_GROUPS} with the lowest mAP:"
    heads = "".join(f"{name:>13}" for name in grouping.SHOWN)
    lines = [title, f"{'group':24} queries{heads}"]
    for name, values in shown:
        shares = "".join(f"{values[figure]:13.2%}" for figure in grouping.SHOWN.values())
        lines.append(f"{name:24} {values['queries']:7}{shares}")
    return "\n".join(lines)


def _evaluate_baseline(
    args: argparse.Namespace, query_set: Dataset, gallery_set: Dataset, options: Options
) -> dict[str, Results]:
    """The results of the baseline by its name, printed; {} without one."""
    if args.baseline is None:
        return {}
    from evaluation import baselines  # only here, for Pillow's sake

    results = baselines.evaluate_baseline(
        args.baseline, query_set, gallery_set, args.image_root, options
    )
    print(f"{summary(results, args.figures)} (baseline: {args.baseline})")
    return {args.baseline: results}


def write_table(path: str, table) -> None:
    """Write a DataFrame as CSV. The file appears under its name only when complete."""
    with files.complete_file(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")


def _embedded(
    args: argparse.Namespace, query_set: Dataset, gallery_set: Dataset
) -> tuple[Embedded, Embedded]:
    embs = embeddings_file.load_part(args.query_embeddings, query_set, "query")
    query = Embedded(query_set, embs)
    same_files = (
        query_set.splits is None,
        _same_file(args.query_dataset, args.gallery_dataset),
        _same_file(args.query_embeddings, args.gallery_embeddings),
    )
    if all(same_files):
        return query, query
    embs = embeddings_file.load_part(args.gallery_embeddings, gallery_set, "gallery")
    return query, Embedded(gallery_set, embs)


def _as_embedded(images: Embedded, origin: Origin) -> Embedded:
    """The images, for pictures of them turned as EXIF says where the network saw them so."""
    upright = origin.orientation == "exif"
    return images._replace(dataset=dataclasses.replace(images.dataset, upright=upright))


def _with_files(
    query: Embedded, gallery: Embedded, options: Options, origins: tuple[Origin, ...]
) -> tuple[Embedded, Embedded]:
    """Query and gallery with their files, links resolved, if these matter and are known."""
    by_file = pipeline.excludes_by_file(options.excluder)
    if not (by_file or options.query_expansion or options.rerank):
        return query, gallery
    found = []
    for images, origin in zip((query, gallery), origins, strict=True):
        root = origin.image_root
        if root is None or not os.path.isdir(root):
            return query, gallery
        found.append(images._replace(files=fids.real_paths(images.dataset.fids, root)))
    return found[0], found[1]


def _load_activations(experiment_root: str | None):
    if experiment_root is None:
        return None
    import_tensorflow()
    from reports.activations import Activations

    return Activations(experiment_root)


def _warn_about_metric(log: logging.Logger, args: argparse.Namespace, origin: Origin) -> None:
    """Warn where the metric is not that of the training, as far as that can be known."""
    root = args.experiment_root or (origin.checkpoint and os.path.dirname(origin.checkpoint))
    if root is None or not os.path.isfile(os.path.join(root, "args.json")):
        return
    trained = args_json.metric_of_training(root)
    if args.metric != trained:
        log.warning(
            f"--metric {args.metric} is not that of the training, {trained}, as {os.path.join(root, 'args.json')} says."
        )


def _warn_about_embeddings(
    log: logging.Logger,
    args: argparse.Namespace,
    sets: tuple[Embedded, Embedded],
    origins: tuple[Origin, ...],
) -> None:
    """Warn where the two files were made in different ways, or the figures may mean nothing."""
    paths = (args.query_embeddings, args.gallery_embeddings)
    for name, of_query, of_gallery in embeddings_file.differences(*origins):
        log.warning(
            f"The {name} of {paths[0]} is {of_query}, that of {paths[1]} {of_gallery}. Embed both alike, unless this "
            "is meant."
        )
    one_point = False
    for path, images in dict(zip(paths, sets, strict=True)).items():
        embs = images.embs
        if len(embs) > 1 and (embs[:100] == embs[0]).all() and (embs[-100:] == embs[0]).all():
            one_point = True
            log.warning(
                f"All embeddings of {path} seem to be one point: ranks mean nothing. See docs/troubleshooting.md."
            )
    if pipeline.excludes_by_file(args.excluder):
        plausibility.warn_about_queries_apart(*sets, args.excluder)
    if not one_point:
        plausibility.warn_about_copies(*sets, args.excluder)


def _log_tracklets(log: logging.Logger, gallery: Dataset, results: Results) -> None:
    log.info(
        f"Pooled the {len(gallery)} images of the gallery into {len(results.gallery)}, by their tracklets."
    )


def _log_pooling(log: logging.Logger, before: int, after: int) -> None:
    log.info(f"Pooled the {before} queries of the same pid and camera into {after}.")
    if before == after:
        log.warning(
            "--multi_query pooled nothing: no two queries have one pid and camera. It takes a CSV with all images "
            "of the queries' persons and cameras, such as the multi_query.csv of data.market1501."
        )


def _warn_about_unmatched(log: logging.Logger, results: Results) -> None:
    query = results.query
    in_gallery = None if results.open_set is None else set(results.gallery.pids)
    unmatched = [
        fid
        for pid, fid, ap in zip(query.pids, query.fids, results.aps, strict=True)
        if ap is None and (in_gallery is None or pid in in_gallery)
    ]
    if unmatched:
        log.warning(
            f"{len(unmatched)} of {len(results.aps)} queries have no true match and are left out: "
            f"{common.first_few(unmatched)}"
        )


def _write(flag: str, path: str, write: Callable, value) -> None:
    """Call write(path, value). Raises: UserError that names the flag, where the disk says no."""
    try:
        write(path, value)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Give another --{flag}.") from None


if __name__ == "__main__":
    common.run(main, parse_args)
