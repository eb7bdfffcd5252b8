"""The whole way from embeddings to figures; `from evaluation import evaluate` is its public name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import common
from common import UserError
from data import cameras, fids
from data.dataset import Dataset, with_boxes
from evaluation import distances, figures, grouping, pooling, ranking
from evaluation.verification import (
    OpenSet,
    OperatingPoint,
    PairCounts,
    Verification,
    nearest_found,
    operating_points,
    verification,
)

if TYPE_CHECKING:
    import pandas as pd

RECALLS = tuple(tenth / 10 for tenth in range(1, 11))
FPRS = (1e-4, 1e-3, 1e-2, 1e-1)
KS = (1, 2, 4, 8, 10, 20, 30, 100, 1000)  # of Recall@K, as papers report it
PER_QUERY_COLUMNS = ("pid", "fid", "AP", "INP", "matches", "first_rank", "last_rank")

Excluder = Callable[[Sequence], np.ndarray]  # names of queries -> bool [Q, G], True = ignored


class Embedded(NamedTuple):
    """Images, N of them, and their embeddings."""

    dataset: Dataset
    embs: np.ndarray  # float32 [N, D], finite; may be a memory map
    # [N], which files they are (data.fids.real_paths); None where only their fids are known
    files: Sequence[str] | None = None

    def select(self, rows: Sequence[int], embs: np.ndarray) -> "Embedded":
        """Some of the images, with other embeddings."""
        files = None if self.files is None else [self.files[row] for row in rows]
        return Embedded(self.dataset.select(rows), embs, files)


@dataclass(frozen=True)
class Options:
    """What an evaluation does. evaluate.py has a flag of the same name for most of them.

    Attributes:
        metric: one of distances.METRICS.
        excluder: which gallery images are ignored for a query, a name in excluders/.
        pool_tracklets: "mean" or "max" pools the images of one tracklet, number by number, in query
            set and gallery.
        multi_query: "mean" or "max" pools the queries of one pid and camera, number by number.
        query_expansion: each embedding becomes the mean of so many nearest, itself counted.
        query_expansion_alpha: the mean is weighted by cosine ** alpha.
        rerank: k-reciprocal re-ranking.
        rerank_k1: neighbors that should be mutual.
        rerank_k2: nearest images, itself counted, over which a neighborhood is averaged.
        rerank_lambda: weight of the distance itself; the rest is that of the neighborhoods.
        use_market_ap: AP as in the code that came with Market-1501, instead of scikit-learn's.
        recalls: above 0, up to 1: where the interpolated precision is wanted.
        fprs: in 0..1: where the share of accepted true pairs and the distance are wanted. With any
            of them there is a `verification`.
        open_set: also tell which queries whose pid the gallery lacks would be accepted.
        groups: also tell the figures of each group of queries; grouping.rule has what it may be.
        batch_size: queries compared at a time, at most. Does not change any result.

    Raises:
        UserError: a value is not allowed.
    """

    metric: str
    excluder: str
    pool_tracklets: str | None = None
    multi_query: str | None = None
    query_expansion: int | None = None
    query_expansion_alpha: float = 3.0
    rerank: bool = False
    rerank_k1: int = 20
    rerank_k2: int = 6
    rerank_lambda: float = 0.3
    use_market_ap: bool = False
    recalls: Sequence[float] = RECALLS
    fprs: Sequence[float] = ()
    open_set: bool = False
    groups: str | None = None
    batch_size: int = 256

    def __post_init__(self):
        self._require("metric", self.metric in distances.METRICS, _one_of(distances.METRICS))
        pools = (None, *pooling.QUERY_POOLS)
        for name in ("pool_tracklets", "multi_query"):
            self._require(name, getattr(self, name) in pools, _one_of(pools))
        k = self.query_expansion
        self._require("query_expansion", k is None or k >= 2, "an integer of at least 2 or None")
        alpha = self.query_expansion_alpha
        self._require("query_expansion_alpha", 0 <= alpha < np.inf, "a finite number of at least 0")
        self._require("rerank_k1", self.rerank_k1 >= 1, "an integer of at least 1")
        self._require("rerank_k2", self.rerank_k2 >= 1, "an integer of at least 1")
        if self.rerank_k2 > self.rerank_k1 + 1:
            raise UserError(
                f"rerank_k2: should be at most rerank_k1 + 1. Received: {self.rerank_k2} with rerank_k1 "
                f"{self.rerank_k1}"
            )
        self._require("rerank_lambda", 0 <= self.rerank_lambda <= 1, "a number in 0..1")
        self._require("recalls", all(0 < x <= 1 for x in self.recalls), "above 0, up to 1")
        self._require("fprs", all(0 <= x <= 1 for x in self.fprs), "in 0..1")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UserError(f"{name}: should be {allowed}. Received: {getattr(self, name)}")


def _one_of(names) -> str:
    return f"one of {', '.join(map(str, names))}"


@dataclass(frozen=True, eq=False)
class Results:
    """The figures of an evaluation. All shares and means are in 0..1.

    Queries without a true match are left out of all means.

    Attributes:
        query: the Q queries that were compared. Pooled ones have the fid of their first.
        gallery: the G gallery images.
        ranks: of each query's true matches, int64, ascending, from 1; empty without one.
        aps, inps: AP and inverse negative penalty of each query, None without a true match.
        mAP, mINP: their means.
        map_at_r, r_precision: means of MAP@R and R-precision over the queries.
        cmc: float64 [G], the share of queries with a true match among the first 1..G images.
        precision_at_recall: interpolated, by recall.
        tpr_at_fpr: the share of true pairs that is accepted, by FPR.
        verification: the ROC with its distances; None if it was not asked for, or if there are no
            wrong pairs.
        open_set, groups: what was asked for with the option of the same name, else None.
        pooled: whether queries were pooled.
        cameras: whether the excluder reads cameras. Where it does not, top-k is called Recall@K.
        distances: from n rows of queries to their distances to the gallery, float64 [n, G], inf
            where an image is ignored for a query.
    """

    query: Dataset
    gallery: Dataset
    ranks: list[np.ndarray]
    aps: list[float | None]
    inps: list[float | None]
    mAP: float  # noqa: N815, its name everywhere
    mINP: float  # noqa: N815
    map_at_r: float
    r_precision: float
    cmc: np.ndarray
    precision_at_recall: dict[float, float]
    tpr_at_fpr: dict[float, float | None]
    verification: Verification | None
    open_set: OpenSet | None
    groups: grouping.Groups | None
    pooled: bool
    cameras: bool
    distances: Callable[[Sequence[int] | np.ndarray], np.ndarray]

    def top(self, k: int) -> float:
        """The share of queries with a true match among the first k images, or all if G is less."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])

    def figure(self, name: str) -> float:
        """A figure by its name, one of figures.NAMES with numbers for K and FPR: "mAP", "top-5".

        Returns:
            a share in 0..1; NaN for EER and TPR@FPR without `verification`.
        Raises:
            KeyError: there is no figure of this name.
        """
        plain = {
            "mAP": self.mAP,
            "mINP": self.mINP,
            "MAP@R": self.map_at_r,
            "R-precision": self.r_precision,
        }
        if name in plain:
            return plain[name]
        match = figures.TOP.fullmatch(name)
        if match is not None:
            return self.top(int(match[1]))
        fpr = figures.false_positives(name)
        if name != "EER" and fpr is None:
            raise KeyError(name)
        if self.verification is None:
            return np.nan
        return (
            self.verification.equal_error().fpr
            if fpr is None
            else self.verification.at_fpr(fpr).tpr
        )

    def as_json(self) -> dict[str, object]:
        """What evaluate.py writes to its JSON file."""
        values = {
            "mAP": self.mAP,
            "mINP": self.mINP,
            "MAP_at_R": self.map_at_r,
            "R_precision": self.r_precision,
            "CMC": self.cmc.tolist(),
            "aps": self.aps,
            "inps": self.inps,
            "precision_at_recall": self.precision_at_recall,
        }
        if not self.cameras:
            values["Recall_at_K"] = {k: self.top(k) for k in KS if k <= len(self.cmc)}
        if self.tpr_at_fpr:
            values["TPR_at_FPR"] = self.tpr_at_fpr
        if self.verification is not None:
            values |= self.verification.as_json(self.tpr_at_fpr)
            if self.open_set is not None:
                values["open_set"] = self.open_set.as_json(self.verification, self.tpr_at_fpr)
        if self.groups is not None:
            values |= self.groups.as_json()
        if self.pooled:
            values["queries"] = list(self.query.fids)
        return values

    def operating_points(self) -> list[OperatingPoint]:
        """The thresholds that a table shows; none without `verification`."""
        if self.verification is None:
            return []
        return operating_points(self.verification, self.tpr_at_fpr, self.open_set)

    def per_query(self) -> "pd.DataFrame":
        """A row for each query, in their order, with PER_QUERY_COLUMNS; missing without a match."""
        import pandas as pd

        first_ranks = [ranks[0] if len(ranks) else None for ranks in self.ranks]
        last_ranks = [ranks[-1] if len(ranks) else None for ranks in self.ranks]
        values = (
            list(self.query.pids),
            list(self.query.fids),
            pd.array(self.aps, "float64"),
            pd.array(self.inps, "float64"),
            [len(ranks) for ranks in self.ranks],
            pd.array(first_ranks, "Int64"),
            pd.array(last_ranks, "Int64"),
        )
        return pd.DataFrame(dict(zip(PER_QUERY_COLUMNS, values, strict=True)))


def evaluate(query: Embedded, gallery: Embedded, options: Options) -> Results:
    """Rank the gallery for every query and score the ranks.

    What changes embeddings or distances composes in the order of Options. Junk, which the excluder
    ignores for every query, takes no part in query_expansion and rerank.

    Args:
        query, gallery: Q and G images with embeddings of the same dimension.

    Raises:
        UserError: embeddings that do not fit the images or one another, a fid that the excluder
            cannot parse, or no query with a true match.
    """
    check_datasets(query.dataset, gallery.dataset, options)
    check_embs(query, gallery)
    _check_finite("query set", query.embs)
    _check_finite("gallery", gallery.embs)
    query, gallery = (_pool_tracklets(each, options.pool_tracklets) for each in (query, gallery))
    excluder = load_excluder(options.excluder, names_for(options.excluder, gallery))
    if options.multi_query:
        query = _pool(query, names_for(options.excluder, query), excluder, options.multi_query)
    names = names_for(options.excluder, query)
    whole = gallery.dataset
    kept = np.arange(len(whole))
    if options.query_expansion or options.rerank:
        kept = _without_junk(excluder, len(whole))
    if len(kept) < len(whole):
        gallery = gallery.select(kept, gallery.embs[kept])
        excluder = load_excluder(options.excluder, names_for(options.excluder, gallery))
    query, gallery, bounds = _compare(query, gallery, options)

    def ignore(block: slice) -> np.ndarray:
        return excluder(names[block])

    def dists_of(rows: Sequence[int] | np.ndarray) -> np.ndarray:
        if options.rerank:
            dists = np.concatenate([bounds(slice(row, row + 1))[0] for row in rows])
        else:
            dists = distances.cdist(query.embs[rows], gallery.embs, options.metric)
        dists[excluder([names[row] for row in rows])] = np.inf
        if len(kept) == len(whole):
            return dists
        of_whole = np.full((len(dists), len(whole)), np.inf)
        of_whole[:, kept] = dists
        return of_whole

    comparison = ranking.Comparison(bounds, query.dataset.pids, gallery.dataset.pids, ignore)
    measured = _measure(comparison, query.dataset, gallery.dataset, options)
    ranks = measured.ranks
    if not any(map(len, ranks)):
        raise UserError(
            "no query has a true match: where the gallery has images of its pid, --excluder "
            f"{options.excluder} ignores them. Check that the gallery shows these persons in other cameras, or in "
            "other images for diagonal, that the camera ids in the file names are right, and that the excluder fits "
            "the data set."
        )
    market = options.use_market_ap
    aps = [figures.average_precision(r, market) if len(r) else None for r in ranks]
    inps = [figures.inverse_negative_penalty(r) if len(r) else None for r in ranks]
    precisions = figures.precision_at_recall(ranks, options.recalls)
    return Results(
        query=query.dataset,
        gallery=whole,
        ranks=ranks,
        aps=aps,
        inps=inps,
        mAP=_mean(aps),
        mINP=_mean(inps),
        map_at_r=_mean([figures.map_at_r(r) for r in ranks if len(r)]),
        r_precision=_mean([figures.r_precision(r) for r in ranks if len(r)]),
        cmc=figures.cmc(ranks, len(whole)),
        precision_at_recall=dict(zip(options.recalls, precisions, strict=True)),
        tpr_at_fpr=_tpr_at_fpr(measured.verification, options.fprs),
        verification=measured.verification,
        open_set=measured.open_set,
        groups=measured.groups,
        pooled=options.multi_query is not None or options.pool_tracklets is not None,
        cameras=hasattr(excluder, "keys"),
        distances=dists_of,
    )


class _Measured(NamedTuple):
    """What a pass over all pairs tells; attributes of Results."""

    ranks: list[np.ndarray]
    verification: Verification | None
    open_set: OpenSet | None
    groups: grouping.Groups | None


def _measure(
    comparison: ranking.Comparison, query: Dataset, gallery: Dataset, options: Options
) -> _Measured:
    """One pass over all pairs."""
    counts = PairCounts(comparison) if options.fprs or options.open_set else None
    labels, names = None, []
    if options.groups:
        labels, names = grouping.labels_of(gallery, options.groups)

    def process_block(block: ranking.Block) -> tuple[list, Sequence[float], list]:
        if counts is not None:
            counts.add(block)
        nearest = nearest_found(block) if options.open_set else ()
        within = [] if labels is None else grouping.ranks_within(block, labels)
        return ranking.ranks_of_block(block), nearest, within

    blocks = ranking.map_queries(process_block, comparison, options.batch_size)
    ranks = [of_query for block in blocks for of_query in block[0]]
    squared = options.metric == "euclidean" and not options.rerank
    found = groups = None
    if options.open_set:
        nearest = np.concatenate([block[1] for block in blocks])
        found = _open_set(
            comparison, ranks, np.sqrt(np.maximum(nearest, 0)) if squared else nearest
        )
    if options.groups:
        within = [of_query for block in blocks for of_query in block[2]]
        of_queries = grouping.of_queries(query, options.groups)
        market = options.use_market_ap
        groups = grouping.figures_by_group(of_queries, names, ranks, within, market)
    pairs = None if counts is None else verification(counts, squared)
    return _Measured(ranks, pairs, found, groups)


def _open_set(
    comparison: ranking.Comparison, ranks: list[np.ndarray], nearest: np.ndarray
) -> OpenSet:
    """nearest: the distances of nearest_found, of all queries."""
    in_gallery = set(comparison.gallery_pids)
    unknown = np.array([pid not in in_gallery for pid in comparison.query_pids])
    matched = np.array([len(of_query) > 0 for of_query in ranks])
    return OpenSet(unknown=np.sort(nearest[unknown]), known=np.sort(nearest[matched]))


def _tpr_at_fpr(pairs: Verification | None, fprs: Sequence[float]) -> dict[float, float | None]:
    return {fpr: None if pairs is None else pairs.at_fpr(fpr).tpr for fpr in fprs}


_NAMES = ("the query set", "the gallery")


def without_embs(dataset: Dataset, files: Sequence[str] | None = None) -> Embedded:
    """Images that have no embeddings yet, for what looks at their names alone."""
    return Embedded(dataset, np.zeros((0, 0), np.float32), files)


def check_datasets(
    query: Dataset, gallery: Dataset, options: Options, names: tuple[str, str] = _NAMES
) -> None:
    """Check what can be checked quickly and before there are embeddings.

    Args:
        names: of query and gallery, for the messages.

    Raises:
        UserError: the excluder cannot parse a query or reads no cameras for multi_query, query and
            gallery have no pid in common, for open_set the gallery has the pids of all queries, or
            a query has no group.
    """
    excluder = load_excluder(options.excluder, names_for(options.excluder, without_embs(query)))
    if options.multi_query and not hasattr(excluder, "keys"):
        raise UserError(
            f"--multi_query pools the queries of one camera, but --excluder {options.excluder} reads no cameras. Give "
            "the --excluder of a data set whose file names tell them, or leave --multi_query out."
        )
    if options.pool_tracklets and query.tracklets is None and gallery.tracklets is None:
        raise UserError(
            f"--pool_tracklets needs a column tracklet, which neither {names[0]} nor {names[1]} has. Give a CSV with a "
            "header and this column, or leave --pool_tracklets out."
        )
    if set(query.pids).isdisjoint(gallery.pids):
        raise UserError(
            f"no pid of {names[0]} is in {names[1]}, so there is nothing to find. "
            f"Received: pids such as {query.pids[0]!r} and {gallery.pids[0]!r}. "
            "Give sets of the same persons; pids are text, so leading zeros must agree."
        )
    if options.groups:
        grouping.of_queries(query, options.groups)
    if options.open_set and set(query.pids) <= set(gallery.pids):
        raise UserError(
            f"--open_set needs queries whose pid is not in {names[1]}, but all {len(set(query.pids))} pids of "
            f"{names[0]} are in it. Add queries of other persons, or leave --open_set out."
        )


def check_embs(query: Embedded, gallery: Embedded, names: tuple[str, str] = _NAMES) -> None:
    """Check the shapes of the embeddings.

    Args:
        names: of query and gallery, for the messages.

    Raises:
        UserError: there is not one for each image, or the dimensions differ.
    """
    for name, (dataset, embs, _) in zip(names, (query, gallery), strict=True):
        if embs.ndim != 2 or len(embs) != len(dataset.fids):
            raise UserError(
                f"{name} should have embeddings [{len(dataset.fids)}, dimension], one for every image. Received: "
                f"{list(embs.shape)}."
            )
    if query.embs.shape[1] != gallery.embs.shape[1]:
        raise UserError(
            f"both embeddings should have the same dimension. Received: {query.embs.shape[1]} in {names[0]}, "
            f"{gallery.embs.shape[1]} in {names[1]}. Embed both sets with the same experiment."
        )


def _check_finite(name: str, embs: np.ndarray) -> None:
    """Raises: UserError if any number is NaN or infinite, which would count as a perfect match."""
    if not np.isfinite(embs.sum(dtype=np.float64)):  # the sum of finite float32 is finite
        raise UserError(
            f"the embeddings of the {name} should be finite, but some are NaN or infinite. Embed with a checkpoint "
            "from before the training went wrong."
        )


def load_excluder(name: str, names: Sequence) -> Excluder:
    """The excluder of a name, for a gallery. names: of its images, as from names_for."""
    return common.load_plugin("excluders", name).Excluder(names)


def excludes_by_file(name: str) -> bool:
    """Whether an excluder compares files, instead of reading their names."""
    return getattr(common.load_plugin("excluders", name), "BY_FILE", False)


def names_for(excluder: str, images: Embedded) -> Sequence:
    """What an excluder is given of the images: fids, files, or the columns pid and camera."""
    if getattr(common.load_plugin("excluders", excluder), "BY_COLUMN", False):
        return cameras.pids_and_cameras(images.dataset)
    if not excludes_by_file(excluder):
        return images.dataset.fids
    names = images.dataset.fids if images.files is None else images.files
    return with_boxes(names, images.dataset.boxes)


def file_names_of(images: Embedded) -> Sequence[str]:
    """Names that are equal where file and box are, as far as that is known."""
    names = fids.normalized(images.dataset.fids) if images.files is None else images.files
    return with_boxes(names, images.dataset.boxes)


def _pool_tracklets(images: Embedded, how: str | None) -> Embedded:
    """One image for all of the same tracklet, pid and camera. Its name is that of the first.

    An image that is in no tracklet stays alone, as do all where there is no column, or no `how`.
    """
    tracklets = images.dataset.tracklets
    if how is None or tracklets is None:
        return images
    places = images.dataset.cameras
    keys = [
        (pid, tracklet, None if places is None else places[row]) if tracklet else row
        for row, (pid, tracklet) in enumerate(zip(images.dataset.pids, tracklets, strict=True))
    ]
    firsts, embs = pooling.pool_queries(images.embs, keys, how)
    return images.select(firsts, embs)


def _pool(query: Embedded, names: Sequence, excluder, how: str) -> Embedded:
    """One query for all of the same pid and camera. Its name is that of the first."""
    keys = list(zip(query.dataset.pids, excluder.keys(names), strict=True))
    firsts, embs = pooling.pool_queries(query.embs, keys, how)
    return query.select(firsts, embs)


def _without_junk(excluder: Excluder, count: int) -> np.ndarray:
    """The rows of the gallery, of `count` images, that are not ignored for every query; all where
    none would be left.
    """
    junk = getattr(excluder, "junk", np.zeros(count, bool))
    return np.arange(count) if junk.all() else np.flatnonzero(~junk)


def _compare(
    query: Embedded, gallery: Embedded, options: Options
) -> tuple[Embedded, Embedded, distances.Bounds]:
    """Query and gallery after expansion, and the distances between them, re-ranked if asked for."""
    same = None
    if options.query_expansion or options.rerank:
        from evaluation import neighbors

        same = neighbors.queries_in_gallery(
            file_names_of(query), query.embs, file_names_of(gallery), gallery.embs
        )
    if options.query_expansion:
        embs, gallery_rows = neighbors.distinct(query.embs, gallery.embs, same)
        embs = neighbors.expand(
            embs, options.query_expansion, options.query_expansion_alpha, options.batch_size
        )
        query = query._replace(embs=embs[: len(query.embs)])
        gallery = gallery._replace(embs=embs[gallery_rows])
    if not options.rerank:
        return query, gallery, distances.bounds(query.embs, gallery.embs, options.metric)

    from evaluation import reranking  # only here, since SciPy takes a moment

    bounds = reranking.bounds(
        query.embs,
        gallery.embs,
        options.metric,
        reranking.Parameters(options.rerank_k1, options.rerank_k2, options.rerank_lambda),
        same=same,
        batch_size=options.batch_size,
    )
    return query, gallery, bounds


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))
