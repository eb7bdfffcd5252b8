r"""Score embeddings: mAP, CMC and mINP of a query set against a gallery set.

    python evaluate.py --excluder market1501 --metric euclidean --filename results.json \
        --query_dataset query.csv --query_embeddings query_embeddings.h5 \
        --gallery_dataset test.csv --gallery_embeddings test_embeddings.h5

A query without a true match, because the gallery has none or the excluder ignores all of them, has no AP: it is left
out of all figures, named on stderr, and null among the `aps` of the results file. (The original counted it in CMC.)
"""

import argparse
import os

# Read when NumPy is imported. The threads of ranking.py keep the cores busy; more of them, inside of each matrix
# product, would only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import h5py
import numpy as np

import common
import ranking
from common import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--excluder",
        required=True,
        type=common.plugin_name("excluders"),
        metavar="NAME",
        help="Which gallery images are ignored for a query: " + ", ".join(common.plugin_names("excluders")) + ".",
    )
    for part in ("query", "gallery"):
        parser.add_argument(
            f"--{part}_dataset",
            required=True,
            type=common.readable_file,
            metavar="CSV",
            help=f"The {part} set: one line pid,fid for every image.",
        )
        parser.add_argument(
            f"--{part}_embeddings",
            required=True,
            type=common.readable_file,
            metavar="HDF5",
            help=f"Embeddings of the {part} set, as embed.py writes them.",
        )
    common.add_flag(
        parser,
        "metric",
        required=True,
        choices=tuple(ranking.METRICS),
        help="Distance between embeddings: the one of the training.",
    )
    parser.add_argument(
        "--filename",
        type=common.writeable_file,
        metavar="JSON",
        help="Write mAP, mINP, CMC (one per rank) and aps (one per query, null without a true match) to this file.",
    )
    common.add_flag(
        parser,
        "batch_size",
        help="Queries compared at a time, at most. Fewer take less memory. Does not change any result.",
    )
    parser.add_argument(
        "--use_market_ap",
        action="store_true",
        help="AP as in the code that came with Market-1501 (trapezoids), instead of scikit-learn's (steps).",
    )
    args = parser.parse_args(argv)
    if args.filename is not None and os.path.exists(args.filename):
        for flag in ("query_dataset", "query_embeddings", "gallery_dataset", "gallery_embeddings"):
            if os.path.samefile(args.filename, getattr(args, flag)):
                parser.error(
                    f"argument --filename: should not be the file of --{flag}, which it would replace. "
                    f"Received: {args.filename}"
                )
    return args


def main(args: argparse.Namespace) -> None:
    log = common.setup_logging("evaluate")

    query_pids, query_fids = common.load_dataset(args.query_dataset)
    gallery_pids, gallery_fids = common.load_dataset(args.gallery_dataset)
    excluder_class = common.load_plugin("excluders", args.excluder).Excluder
    excluder_class(query_fids)  # to hear at once of a query that it cannot parse
    excluder = excluder_class(gallery_fids)

    query_embs = load_embeddings(args.query_embeddings, args.query_dataset, len(query_fids))
    gallery_embs = load_embeddings(args.gallery_embeddings, args.gallery_dataset, len(gallery_fids))
    if query_embs.shape[1] != gallery_embs.shape[1]:
        raise UserError(
            f"both embeddings should have the same dimension. Received: {query_embs.shape[1]} in "
            f"{args.query_embeddings}, {gallery_embs.shape[1]} in {args.gallery_embeddings}. "
            "Embed both sets with the same experiment."
        )

    ranks = ranking.match_ranks(
        query_embs,
        gallery_embs,
        query_pids,
        gallery_pids,
        lambda block: excluder(query_fids[block]),
        args.metric,
        args.batch_size,
    )

    skipped = [fid for fid, query_ranks in zip(query_fids, ranks, strict=True) if not len(query_ranks)]
    if len(skipped) == len(query_fids):
        raise UserError(_why_no_match(args, query_pids, gallery_pids))
    if skipped:
        names = common.first_few(skipped)
        log.warning(f"{len(skipped)} of {len(query_fids)} queries have no true match and are left out: {names}")

    aps = [ranking.average_precision(r, args.use_market_ap) if len(r) else None for r in ranks]
    mean_ap = float(np.mean([ap for ap in aps if ap is not None]))
    minp = ranking.mean_inverse_negative_penalty(ranks)
    cmc = ranking.cmc(ranks, len(gallery_fids))

    top = {k: cmc[min(k, len(cmc)) - 1] for k in (1, 2, 5, 10)}  # a gallery may be smaller than k
    print(
        f"mAP: {mean_ap:.2%} | top-1: {top[1]:.2%} top-2: {top[2]:.2%} | top-5: {top[5]:.2%} | top-10: {top[10]:.2%} | "
        f"mINP: {minp:.2%}"
    )
    if args.filename is not None:
        try:
            common.write_json(args.filename, {"mAP": mean_ap, "mINP": minp, "CMC": cmc.tolist(), "aps": aps})
        except OSError as error:
            raise UserError(f"cannot write {args.filename}: {error.strerror}. Give another --filename.") from None


def load_embeddings(path: str, dataset: str, count: int) -> np.ndarray:
    """The `emb` of an HDF5 file.

    Float32 that lies in one piece, as embed.py writes it, is mapped into memory and takes none of its own. What is
    chunked, compressed or of another type is read, as float32, and takes count·D·4 bytes.

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
                raise UserError(f"{path} should hold a data set `emb`. Received: {list(file)}. Make it with embed.py.")
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
    except (OSError, RuntimeError, ValueError) as error:  # h5py raises any of them for a damaged file
        raise UserError(f"{path} cannot be read as HDF5 ({error}). Make it anew with embed.py.") from None
    finite = [np.isfinite(embs[rows]).all(axis=1) for rows in ranking.slices(embs, 2**20)]
    broken = np.flatnonzero(~np.concatenate(finite))
    if len(broken):
        raise UserError(
            f"{len(broken)} of the {count} embeddings in {path} are NaN or infinite in float32, the first in row "
            f"{broken[0]} (counted from 0). Embed with a checkpoint from before the training went wrong."
        )
    return embs


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
