r"""Score embeddings: mAP, CMC and more of a query set against a gallery set.

    python evaluate.py --excluder market1501 --metric euclidean --filename results.json \
        --query_dataset query.csv --query_embeddings query_embeddings.h5 \
        --gallery_dataset test.csv --gallery_embeddings test_embeddings.h5

A query without a true match, because the gallery has none or the excluder ignores all of them, has
no AP: it is left out of all figures, named on stderr, and null among the `aps` of the results file.
(The original counted it in CMC.)

What changes embeddings or distances composes, in this order: --multi_query pools queries,
--query_expansion replaces embeddings, --rerank distances. Each needs more of the gallery than its
ranking does, and as many queries as there are.

    python evaluate.py ... --report report --image_root images --activations exp

also writes a page, report/report.html, that shows the best and the worst queries and what was found
for them.
"""

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Hashable, Sequence

# Read when NumPy is imported. The threads of ranking.py keep the cores busy; more of them, inside
# of each matrix product, would only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import h5py
import numpy as np

import common
from common import UserError
from data.dataset import check_images
from data.dataset import load as load_dataset
from evaluation import ranking
from runtime import files, terminal

RECALLS = tuple(tenth / 10 for tenth in range(1, 11))
FPRS = (1e-4, 1e-3, 1e-2, 1e-1)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
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
            required=True,
            type=common.readable_file,
            metavar="HDF5",
            help=f"Embeddings of the {part} set, as embed.py writes them.",
        )
    common.add_flag(
        group, "metric", required=True, help="Distance between embeddings: the one of the training."
    )
    group = parser.add_argument_group("figures")
    group.add_argument(
        "--filename",
        type=common.writeable_file,
        metavar="JSON",
        help="Write mAP, mINP, CMC (one per rank), precision_at_recall (interpolated), and aps and inps (one per "
        "query, null without a true match) to this file.",
    )
    group.add_argument(
        "--roc",
        action="store_true",
        help="Write TPR_at_FPR to the file, too: the share of all true pairs that is accepted where this share of the "
        "wrong ones is. Takes two to three times as long.",
    )
    common.add_flag(
        group,
        "batch_size",
        help="Queries compared at a time, at most. Fewer take less memory. Does not change any result.",
    )
    group.add_argument(
        "--use_market_ap",
        action="store_true",
        help="AP as in the code that came with Market-1501 (trapezoids), instead of scikit-learn's (steps).",
    )
    group = parser.add_argument_group("post-processing, in this order")
    group.add_argument(
        "--multi_query",
        choices=("mean", "max"),
        help="Pool the queries of one pid and camera, number by number, into one query. Its name is that of the first.",
    )
    group.add_argument(
        "--query_expansion",
        type=common.number(int, lambda k: k >= 2, "an integer of at least 2"),
        nargs="?",
        const=5,
        metavar="K",
        help="Average query expansion: each embedding, of queries and gallery, becomes the mean of its K nearest in "
        "both, itself counted, weighted by cosine ** --query_expansion_alpha. K is 5 when not given.",
    )
    group.add_argument(
        "--query_expansion_alpha",
        type=common.number(float, lambda x: 0 <= x < float("inf"), "a finite number of at least 0"),
        default=3.0,
        metavar="X",
        help="0 weights the K nearest alike.",
    )
    group.add_argument(
        "--rerank",
        action="store_true",
        help="k-reciprocal re-ranking (Zhong et al. 2017), with the neighbours in query and gallery together.",
    )
    group.add_argument(
        "--rerank_k1",
        type=common.positive_int,
        default=20,
        metavar="K",
        help="Neighbours that should be mutual.",
    )
    group.add_argument(
        "--rerank_k2",
        type=common.positive_int,
        default=6,
        metavar="K",
        help="Nearest, itself counted, over which an image's neighbourhood is averaged.",
    )
    group.add_argument(
        "--rerank_lambda",
        type=common.number(float, lambda x: 0 <= x <= 1, "a number in 0..1"),
        default=0.3,
        metavar="X",
        help="Weight of the distance itself; the rest is that of the neighbourhoods.",
    )
    group = parser.add_argument_group("report")
    group.add_argument(
        "--report",
        type=common.writeable_directory,
        metavar="DIR",
        help="Write report.html there, a page with charts, and with the images of the worst and the best queries and "
        "what was found for them; and the charts as PNG. Created if need be.",
    )
    common.add_flag(
        group,
        "image_root",
        help="Directory that the file ids of both CSVs are relative to, for --report.",
    )
    common.add_flag(group, "allow_any_path")
    group.add_argument(
        "--activations",
        type=common.readable_directory,
        metavar="DIR",
        help="An experiment: the report also shows where its network looks, which takes TensorFlow.",
    )
    args = parser.parse_args(argv)
    if args.report is not None and args.image_root is None:
        parser.error(
            "argument --image_root: needed with --report. Give the directory of the images"
        )
    needs = {f"rerank_{name}": "rerank" for name in ("k1", "k2", "lambda")}
    needs |= {"query_expansion_alpha": "query_expansion"}
    needs |= dict.fromkeys(("image_root", "allow_any_path", "activations"), "report")
    for name, needed in needs.items():
        if not getattr(args, needed) and getattr(args, name) != parser.get_default(name):
            parser.error(
                f"argument --{name}: has no effect without --{needed}. Add that, or leave this out"
            )
    if args.rerank_k2 > args.rerank_k1 + 1:
        parser.error(
            f"argument --rerank_k2: should be at most --rerank_k1 + 1. Received: {args.rerank_k2} with --rerank_k1 "
            f"{args.rerank_k1}"
        )
    if args.roc and args.filename is None:
        parser.error(
            "argument --roc: has no effect without --filename. Add that, or leave this out"
        )
    if args.filename is not None and os.path.exists(args.filename):
        for flag in ("query_dataset", "query_embeddings", "gallery_dataset", "gallery_embeddings"):
            if os.path.samefile(args.filename, getattr(args, flag)):
                parser.error(
                    f"argument --filename: should not be the file of --{flag}, which it would replace. "
                    f"Received: {args.filename}"
                )
        if not is_result(args.filename):
            parser.error(
                "argument --filename: should not be a file of another kind, which it would replace. Received: "
                f"{args.filename}. Give another name, or take the file away"
            )
    return args


def is_result(path: str) -> bool:
    """Whether a file is empty or what an evaluation wrote."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        return not text or "mAP" in json.loads(text)
    except (OSError, TypeError, ValueError):
        return False


def main(args: argparse.Namespace) -> None:
    log = terminal.setup_logging("evaluate")

    query_pids, query_fids = load_dataset(args.query_dataset)
    gallery_pids, gallery_fids = load_dataset(args.gallery_dataset)
    excluder_class = common.load_plugin("excluders", args.excluder).Excluder
    excluder_class(query_fids)  # to hear at once of a query that it cannot parse
    excluder = excluder_class(gallery_fids)
    if args.multi_query and not hasattr(excluder, "keys"):
        raise UserError(
            f"--multi_query pools the queries of one camera, but --excluder {args.excluder} reads no cameras. Give the "
            "--excluder of a data set whose file names tell them, or leave --multi_query out."
        )

    query_embs = load_embeddings(args.query_embeddings, args.query_dataset, len(query_fids))
    gallery_embs = load_embeddings(args.gallery_embeddings, args.gallery_dataset, len(gallery_fids))
    if query_embs.shape[1] != gallery_embs.shape[1]:
        raise UserError(
            f"both embeddings should have the same dimension. Received: {query_embs.shape[1]} in "
            f"{args.query_embeddings}, {gallery_embs.shape[1]} in {args.gallery_embeddings}. "
            "Embed both sets with the same experiment."
        )
    for what, query, gallery in differences(args.query_embeddings, args.gallery_embeddings):
        log.warning(
            f"The {what} of {args.query_embeddings} is {query}, that of {args.gallery_embeddings} {gallery}. Embed "
            "both alike, unless this is meant."
        )
    for path, embs in (
        (args.query_embeddings, query_embs),
        (args.gallery_embeddings, gallery_embs),
    ):
        if len(embs) > 1 and (embs[:100] == embs[0]).all() and (embs[-100:] == embs[0]).all():
            log.warning(
                f"All embeddings of {path} seem to be one point: ranks mean nothing. See docs/troubleshooting.md."
            )
    activations = None
    if args.report:
        for dataset, fids in (
            (args.query_dataset, query_fids),
            (args.gallery_dataset, gallery_fids),
        ):
            check_images(dataset, args.image_root, fids, args.allow_any_path)
        if args.activations:
            from reports.activations import Activations

            activations = Activations(args.activations)

    if args.multi_query:
        count = len(query_fids)
        keys = list(zip(query_pids, excluder.keys(query_fids), strict=True))
        firsts, query_embs = pool(query_embs, keys, args.multi_query)
        query_pids, query_fids = (
            [column[first] for first in firsts] for column in (query_pids, query_fids)
        )
        log.info(f"Pooled the {count} queries of the same pid and camera into {len(query_fids)}.")
        if len(query_fids) == count:
            log.warning(
                "--multi_query pooled nothing: no two queries have one pid and camera. It takes a CSV with all images "
                "of the queries' persons and cameras, such as the multi_query.csv of data.market1501."
            )
    same = None
    if args.query_expansion or args.rerank:
        same = queries_in_gallery(query_fids, query_embs, gallery_fids, gallery_embs)
    if args.query_expansion:
        from evaluation import neighbors

        embs, gallery_rows = neighbors.distinct(query_embs, gallery_embs, same)
        embs = neighbors.expand(embs, args.query_expansion, args.query_expansion_alpha)
        query_embs, gallery_embs = embs[: len(query_embs)], embs[gallery_rows]
    if args.rerank:
        from evaluation import reranking  # only here, since SciPy takes a moment

        bounds = reranking.bounds(
            query_embs,
            gallery_embs,
            args.metric,
            args.rerank_k1,
            args.rerank_k2,
            args.rerank_lambda,
            same,
        )
    else:
        bounds = ranking.bounds(query_embs, gallery_embs, args.metric)

    compared = (bounds, query_pids, gallery_pids, lambda block: excluder(query_fids[block]))
    ranks = ranking.match_ranks(*compared, batch_size=args.batch_size)

    skipped = [
        fid for fid, query_ranks in zip(query_fids, ranks, strict=True) if not len(query_ranks)
    ]
    if len(skipped) == len(query_fids):
        raise UserError(_why_no_match(args, query_pids, gallery_pids))
    if skipped:
        names = common.first_few(skipped)
        log.warning(
            f"{len(skipped)} of {len(query_fids)} queries have no true match and are left out: {names}"
        )

    aps = [ranking.average_precision(r, args.use_market_ap) if len(r) else None for r in ranks]
    mean_ap = float(np.mean([ap for ap in aps if ap is not None]))
    inps = [ranking.inverse_negative_penalty(r) if len(r) else None for r in ranks]
    minp = float(np.mean([inp for inp in inps if inp is not None]))
    cmc = ranking.cmc(ranks, len(gallery_fids))

    top = {k: cmc[min(k, len(cmc)) - 1] for k in (1, 2, 5, 10)}  # a gallery may be smaller than k
    print(
        f"mAP: {mean_ap:.2%} | top-1: {top[1]:.2%} top-2: {top[2]:.2%} | top-5: {top[5]:.2%} | top-10: {top[10]:.2%} | "
        f"mINP: {minp:.2%}"
    )
    results = {"mAP": mean_ap, "mINP": minp, "CMC": cmc.tolist(), "aps": aps, "inps": inps}
    if args.filename is not None:
        results["precision_at_recall"] = dict(
            zip(RECALLS, ranking.precision_at_recall(ranks, RECALLS), strict=True)
        )
        if args.roc:
            tprs = ranking.tpr_at_fpr(*compared, FPRS, args.batch_size)
            results["TPR_at_FPR"] = dict(zip(FPRS, tprs, strict=True))
        if args.multi_query:
            results["queries"] = query_fids
        try:
            files.write_json(args.filename, results)
        except OSError as error:
            raise UserError(
                f"cannot write {args.filename}: {error.strerror}. Give another --filename."
            ) from None
    if args.report:
        from reports import evaluation as report  # only here, for Matplotlib's sake

        def distances(rows):
            if args.rerank:
                dists = np.concatenate([bounds(slice(row, row + 1))[0] for row in rows])
            else:
                dists = ranking.distances(query_embs[rows], gallery_embs, args.metric)
            dists[excluder([query_fids[row] for row in rows])] = np.inf
            return dists

        query, gallery = (query_pids, query_fids), (gallery_pids, gallery_fids)
        report.write(
            args.report,
            results,
            query,
            gallery,
            args.image_root,
            distances,
            vars(args),
            activations,
        )
        log.info(f"Wrote {os.path.join(args.report, 'report.html')}.")


def differences(query_path: str, gallery_path: str) -> list[tuple[str, object, object]]:
    """What differs in how two HDF5 files were made, as far as they tell: what, and of which value
    in each.
    """
    made = []
    for path in (query_path, gallery_path):
        with h5py.File(path) as file:
            views = file.get("augmentation_types")
            views = np.ravel(views[()]).tolist() if isinstance(views, h5py.Dataset) else None
            made.append({"checkpoint": file.attrs.get("checkpoint"), "augmentation_types": views})
    query, gallery = made
    return [
        (what, of, gallery[what])
        for what, of in query.items()
        if None not in (of, gallery[what]) and of != gallery[what]
    ]


def queries_in_gallery(
    query_fids: list[str], query_embs: np.ndarray, gallery_fids: list[str], gallery_embs: np.ndarray
) -> np.ndarray:
    """The number of the query that each gallery image is, -1 where it is none: int [G].

    The same are those of one fid, [Q] and [G], and one embedding, [Q, D] and [G, D]: files of two
    folders can have one name.
    """
    number = {fid: query for query, fid in enumerate(query_fids)}
    same = np.array([number.get(fid, -1) for fid in gallery_fids])
    for image in np.flatnonzero(same >= 0):
        if not np.array_equal(query_embs[same[image]], gallery_embs[image]):
            same[image] = -1
    return same


def load_embeddings(path: str, dataset: str, count: int) -> np.ndarray:
    """The `emb` of an HDF5 file.

    Float32 that lies in one piece, as embed.py writes it, is mapped into memory and takes none of
    its own. What is chunked, compressed or of another type is read, as float32, and takes count·D·4
    bytes.

    Args:
        dataset: the CSV that its rows belong to, for the messages.
        count: the rows of that.

    Returns: float32 [count, D], D >= 1, all finite; not to be written to.
    Raises: UserError for any other file.
    """
    try:
        with h5py.File(path) as file:
            emb = file.get("emb")
            if not isinstance(emb, h5py.Dataset):
                raise UserError(
                    f"{path} should hold a data set `emb`. Received: {list(file)}. Make it with embed.py."
                )
            if emb.ndim != 2 or emb.dtype.kind != "f" or emb.shape[1] == 0:
                raise UserError(
                    f"`emb` in {path} should be floats [images, dimension]. Received: {emb.dtype} "
                    f"{list(emb.shape or ())}. Make it with embed.py."
                )
            if len(emb) != count:
                raise UserError(
                    f"{path} should have one embedding for every image of {dataset}. Received: {len(emb)} embeddings, "
                    f"{count} images. Give the data set that was embedded, or embed this one."
                )
            offset = emb.id.get_offset()  # None unless it lies in one piece
            if emb.dtype == np.float32 and emb.dtype.isnative and offset is not None:
                embs = np.asarray(np.memmap(path, np.float32, "r", offset, emb.shape))
            else:
                embs = np.empty(emb.shape, np.float32)
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
                    for rows in ranking.slices(embs, 2**20):
                        embs[rows] = emb[rows]
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # h5py raises any of them for a damaged file
        raise UserError(
            f"{path} cannot be read as HDF5 ({error}). Make it anew with embed.py."
        ) from None
    finite = [np.isfinite(embs[rows]).all(axis=1) for rows in ranking.slices(embs, 2**20)]
    broken = np.flatnonzero(~np.concatenate(finite))
    if len(broken):
        raise UserError(
            f"{len(broken)} of the {count} embeddings in {path} are NaN or infinite in float32, the first in row "
            f"{broken[0]} (counted from 0). Embed with a checkpoint from before the training went wrong."
        )
    return embs


def pool(embs: np.ndarray, keys: Sequence[Hashable], how: str) -> tuple[list[int], np.ndarray]:
    """One embedding for all that have the same key.

    Args:
        embs: float32 [Q, D].
        keys: Q of them.
        how: "mean" or "max", of each number.

    Returns: the index of the first of each key, ascending, and their float32 [keys, D].
    """
    rows = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    reduce = {"mean": np.mean, "max": np.max}[how]
    pooled = [reduce(embs[same].astype(np.float64), axis=0) for same in rows.values()]
    return [same[0] for same in rows.values()], np.array(pooled, np.float32)


def _why_no_match(args: argparse.Namespace, query_pids: list[str], gallery_pids: list[str]) -> str:
    """The message for a query set in which no query has a true match."""
    if set(query_pids).isdisjoint(gallery_pids):
        return (
            f"no pid of {args.query_dataset} is in {args.gallery_dataset}, so there is nothing to find. "
            f"Received: pids such as {query_pids[0]!r} and {gallery_pids[0]!r}. "
            "Give sets of the same persons; pids are text, so leading zeros must agree."
        )
    return (
        f"no query has a true match: where the gallery has images of its pid, --excluder {args.excluder} ignores them. "
        "Check that the gallery shows these persons in other cameras, or in other images for diagonal, that the camera "
        "ids in the file names are right, and that the excluder fits the data set."
    )


if __name__ == "__main__":
    common.run(main, parse_args)
