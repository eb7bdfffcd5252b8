"""The report of an evaluation: a page with the figures and with the worst and the best queries.

evaluate.py --report writes it: report.html, which needs no other file and no network, and the
charts as PNG.
"""

import html
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.dataset import Dataset, ImageFiles, distinct_files
from evaluation.grouping import SHOWN, Groups, order
from evaluation.pipeline import Results
from evaluation.verification import OperatingPoint, Verification
from reports import page
from reports.ranked_list import Listed, Pictures, framed, item, title

LISTS = 10  # of the worst queries and of the best, each
LENGTH = 10  # gallery images in a list
SAMPLED_QUERIES = 200  # in the distribution of distances, at most
SAMPLED_WRONG = 1000  # wrong images of each of these, at most
SAMPLED_MISTAKES = 2000  # queries whose nearest image is wrong, at most
MATRIX = 16  # groups in rows and columns, at most
PAIRS = 10  # of identities that are taken for one another
_MAX_DISTANCES = 2**22  # in memory at a time: 32 MB

# From N image files to N maps, float [h, w] in 0..1.
Activations = Callable[[ImageFiles], Sequence[np.ndarray]]


class Ranked(NamedTuple):
    """The head of a query's ranked list, n gallery images, nearest first."""

    rows: np.ndarray  # int [n], of the gallery
    dists: np.ndarray  # float [n]
    ranks: np.ndarray  # int [n], from 1
    true_ranks: np.ndarray  # of all true matches of the query, ascending


class Confusion(NamedTuple):
    """An identity whose queries are taken for another: their nearest image is of that."""

    pid: str
    other: str
    queries: int  # so many of them
    query: int  # one of them, a row of the query set
    wrong: int  # its nearest image, a row of the gallery


def check_replaced(directory: str | os.PathLike) -> None:
    """Raises: UserError if the directory has a file that is not of an earlier report."""
    page.check_replaced(
        directory, "report.html", ("cmc.png", "distances.png", "identities.png", "roc.png")
    )


def write(
    directory: str | os.PathLike,
    results: Results,
    image_root: str | os.PathLike,
    flags: Mapping[str, object],
    activations: Activations | None = None,
    checkpoints: Sequence[str | None] = (),
    baselines: Mapping[str, Results] = MappingProxyType({}),
) -> None:
    """Write report.html and its charts, cmc.png and so on, into a directory.

    Args:
        directory: created if it does not exist.
        flags: what the evaluation was called with, by name.
        activations: where the network looks, for a second picture of each image that is shown.
        checkpoints: the path of the weights that embedded the queries, and the gallery, None where
            it is not known.
        baselines: of the same queries and gallery, by name, to be shown beside the results.

    Raises:
        UserError: an image that is shown cannot be read, or as check_replaced does.
    """
    directory = Path(directory)
    check_replaced(directory)
    directory.mkdir(exist_ok=True)
    aps = np.array([np.nan if ap is None else ap for ap in results.aps])
    worst, best = extremes(aps, results.query.pids, results.gallery.pids)
    lists = {row: ranked(results, row) for row in {*worst, *best}}
    mistakes = mistaken_queries(results)
    pairs = confusions(results, mistakes)
    pictures = _pictures(_shown(results, lists, pairs), image_root, activations)
    articles = {row: _article(results, row, lists[row], pictures) for row in lists}
    true, wrong = sampled_distances(results)
    names = _names(checkpoints)
    body = page.fill(
        "evaluation.html",
        of_network=f" of {html.escape(names)}" if names else "",
        count=_count(results),
        figures=_figures(results, baselines),
        cmc_chart=_cmc_chart(directory, results.cmc, baselines),
        distances_chart=_distances_chart(directory, true, wrong),
        verification=_verification(directory, results),
        thresholds_link=_THRESHOLDS_LINK if results.verification else "",
        groups=_groups(results.groups),
        groups_link=_GROUPS_LINK if results.groups else "",
        length=str(LENGTH),
        toggle=_TOGGLE if activations else "",
        worst="\n".join(articles[row] for row in worst),
        best="\n".join(articles[row] for row in best),
        confusions=_confusions(results, pairs, len(mistakes), pictures),
        identities=_identities(directory, results.query.pids, aps),
        flags=_flags(flags, checkpoints),
    )
    title = f"Evaluation{f' of {names}' if names else ''}, mAP {results.mAP:.1%}"
    page.write(directory / "report.html", title, f"\n{body}")


# ------------------------------------------------------------------------- what is shown


def extremes(
    aps: np.ndarray, query_pids: Sequence[str], gallery_pids: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Rows of the LISTS worst queries and of the LISTS best, the most extreme first.

    Of each pid only one is taken. Where APs are equal, pids with more images in the gallery count
    as better.

    Args:
        aps: float [Q], NaN for queries that do not count.
    """
    images = Counter(gallery_pids)
    rows = [int(row) for row in np.flatnonzero(~np.isnan(aps))]
    worst: dict[str, int] = {}
    best: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: aps[row]):
        worst.setdefault(query_pids[row], row)
    for row in sorted(rows, key=lambda row: (-aps[row], -images[query_pids[row]])):
        best.setdefault(query_pids[row], row)
    return list(worst.values())[:LISTS], list(best.values())[:LISTS]


def ranked(results: Results, row: int) -> Ranked:
    """The head of the ranked list of the query at `row`.

    It holds the first LENGTH images and, where none of these is a true match, the first that is
    one. At equal distances mistakes come first, as they do in ranking.py.
    """
    (dists,) = results.distances([row])
    matches = _matches(results, row)
    order = np.lexsort((matches, dists))
    order = order[np.isfinite(dists[order])]
    true_ranks = 1 + np.flatnonzero(matches[order])
    ranks = np.arange(1, min(len(order), LENGTH) + 1)
    ranks = np.union1d(ranks, true_ranks[:1])
    rows = order[ranks - 1]
    return Ranked(rows, dists[rows], ranks, true_ranks)


def sampled_distances(results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Distances of queries, evenly spread, to their true matches and to wrong images.

    Returns:
        Two float vectors.
    """
    Q = len(results.query.pids)
    rng = np.random.default_rng(0)
    rows = np.unique(np.linspace(0, Q - 1, min(Q, SAMPLED_QUERIES)).astype(int))
    true, wrong = [], []
    for row, dists in _distances(results, rows):
        matches = _matches(results, row)
        counted = np.isfinite(dists)
        others = dists[~matches & counted]
        if len(others) > SAMPLED_WRONG:
            others = rng.choice(others, SAMPLED_WRONG, replace=False)
        true.append(dists[matches & counted])
        wrong.append(others)
    return np.concatenate(true), np.concatenate(wrong)


def mistaken_queries(results: Results) -> np.ndarray:
    """Rows of the queries whose nearest image is not a true match, but which have one: int [n]."""
    first_ranks = [ranks[0] if len(ranks) else 0 for ranks in results.ranks]
    return np.flatnonzero(np.array(first_ranks) > 1)


def confusions(results: Results, mistakes: np.ndarray) -> list[Confusion]:
    """Which identities are taken for which, the most frequent first.

    What counts is the nearest image of each mistaken query. Of more than SAMPLED_MISTAKES queries so
    many are looked at, evenly spread.

    Args:
        mistakes: as from mistaken_queries.
    """
    places = np.linspace(0, len(mistakes) - 1, min(len(mistakes), SAMPLED_MISTAKES)).astype(int)
    found: dict[tuple[str, str], Confusion] = {}
    for row, dists in _distances(results, mistakes[places]):
        # Where a true match is as near, the mistake counts.
        nearest = int(np.where(_matches(results, row), np.inf, dists).argmin())
        pid = results.query.pids[row]
        other = results.gallery.pids[nearest]
        before = found.get((pid, other), Confusion(pid, other, 0, row, nearest))
        found[pid, other] = before._replace(queries=before.queries + 1)
    return sorted(found.values(), key=lambda pair: -pair.queries)


def _distances(results: Results, rows: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """Each of the rows with its distances, float [G], of which few are in memory at a time."""
    size = max(1, _MAX_DISTANCES // len(results.gallery.pids))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield from zip(block.tolist(), results.distances(block), strict=True)


def _matches(results: Results, row: int) -> np.ndarray:
    """bool [G], True where a gallery image has the pid of the query, ignored or not."""
    return np.asarray(results.gallery.pids) == results.query.pids[row]


def camera(fid: str) -> str | None:
    """The camera, from a file name such as those of Market-1501: 1 for 0001_c1s1_001051_00."""
    match = re.search(r"_c(\d+)", os.path.basename(fid))
    return match and match[1]


# ------------------------------------------------------------------------- pictures

_TOGGLE = '<p><label><input type="checkbox" id="maps"> Show where the network looks (brighter: more)</label></p>'


def _shown(
    results: Results, lists: Mapping[int, Ranked], pairs: Sequence[Confusion]
) -> dict[str, Dataset]:
    """All images in the lists and of the pairs, by their names: a data set of one row each."""
    query, gallery = results.query, results.gallery
    rows = [(query, row) for row in lists]
    for head in lists.values():
        rows += [(gallery, row) for row in head.rows]
    for pair in pairs[:PAIRS]:
        rows += [(query, pair.query), (gallery, pair.wrong)]
    return {images.name(row): images.select(slice(row, row + 1)) for images, row in rows}


def _pictures(
    shown: Mapping[str, Dataset],
    image_root: str | os.PathLike,
    activations: Activations | None,
) -> dict[str, Pictures]:
    """The pictures of images, by name."""
    if not shown:
        return {}
    files, places = distinct_files([image.files(image_root) for image in shown.values()])
    small = [page.thumbnail(files, row) for row in range(len(files))]
    overlaid: list[Image.Image | None] = [None] * len(small)
    if activations is not None:
        maps = activations(files)
        overlaid = [overlay(image, map_) for image, map_ in zip(small, maps, strict=True)]
    return {
        name: Pictures(small[place], overlaid[place])
        for name, place in zip(shown, places, strict=True)
    }


def overlay(image: Image.Image, activation: np.ndarray) -> Image.Image:
    """The image under its activation map, [h, w] in 0..1, which is resized to it.

    It is dark where the map is 0 and bright where it is 1.
    """
    import matplotlib

    resized = Image.fromarray(np.float32(activation)).resize(image.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(resized), 0, 1)
    colors = matplotlib.colormaps["inferno"](strength, bytes=True)[..., :3]
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colors), 0.6)


def _article(results: Results, row: int, head: Ranked, pictures: Mapping[str, Pictures]) -> str:
    """A query and its ranked list."""
    query = _listed_image("query", "Query", results.query, row, "<span>query</span>")
    images = [query, *_listed(results, head)]
    items = "".join(item(image, pictures[image.fid]) for image in images)
    count = len(head.true_ranks)
    summary = (
        f"{count} true match{'es' if count > 1 else ''}, the first at rank {head.true_ranks[0]:,}"
    )
    if count > 1:
        summary += f", the last at rank {head.true_ranks[-1]:,}"
    heading = f"{html.escape(query.pid)}: AP {results.aps[row]:.1%}"
    return f"""<article><h3>{heading}</h3><p class="muted">{html.escape(query.fid)}. {summary}.</p>
<ol class="ranked">
{items}
</ol></article>"""


def _listed(results: Results, head: Ranked) -> Iterable[Listed]:
    for index, dist, rank in zip(head.rows, head.dists, head.ranks, strict=True):
        is_true = rank in head.true_ranks
        sign = "✓" if is_true else "✗"
        yield _listed_image(
            "true" if is_true else "wrong",
            f"Rank {rank}, {'true match' if is_true else 'mistake'}",
            results.gallery,
            index,
            caption=f'<span><b class="sign">{sign}</b> {rank:,}</span><span>{dist:#.4g}</span>',
        )


def _listed_image(kind: str, words: str, images: Dataset, row: int, caption: str = "") -> Listed:
    place = camera(images.fids[row]) if images.cameras is None else images.cameras[row]
    return Listed(kind, words, images.pids[row], images.name(row), place, caption)


def _confusions(
    results: Results,
    pairs: Sequence[Confusion],
    mistakes: int,
    pictures: Mapping[str, Pictures],
) -> str:
    """The PAIRS most frequent pairs, each with the pictures of a query and of what was found."""
    if not pairs:
        return "<p>None: the nearest image of every query is a true match.</p>"
    queries = Counter(results.query.pids)
    items = ""
    for pair in pairs[:PAIRS]:
        frames = ""
        for kind, words, images, row in (
            ("query", "Query", results.query, pair.query),
            ("wrong", "Taken for", results.gallery, pair.wrong),
        ):
            image = _listed_image(kind, words, images, row)
            shown = framed(image, pictures[image.fid])
            pid = html.escape(image.pid)
            frames += (
                f'<span class="{kind}" title="{title(image)}">{shown}<span>{pid}</span></span>'
            )
        share = f"{pair.queries:,} of {page.counted(queries[pair.pid], 'query', 'queries')}"
        items += f'<li><span class="pair">{frames}</span><span>{share}</span></li>\n'
    looked_at = sum(pair.queries for pair in pairs)
    count = page.counted(looked_at, "query is", "queries are")
    if looked_at < mistakes:
        count += f" (looked at, of {mistakes:,})"
    of_pairs = page.counted(len(pairs), "pair", "pairs")
    return f"""<p>{count} taken for another identity, in {of_pairs}. The most frequent ones, with a query
on the left and the image that was nearest to it on the right:</p>
<ol class="ranked pairs">
{items}</ol>"""


# ------------------------------------------------------------------------- figures, charts, tables


def _count(results: Results) -> str:
    count = f"{len(results.aps):,} queries, {len(results.gallery.pids):,} gallery images"
    unmatched = results.aps.count(None)
    if unmatched:
        count += f". Without a true match, and so left out: {unmatched:,}"
    return count


def _names(checkpoints: Sequence[str | None]) -> str:
    """Experiment and checkpoint, from the paths of one or two: "exp, checkpoint-600"."""
    known = [Path(path) for path in dict.fromkeys(checkpoints) if path]
    return " and ".join(f"{path.parent.name}, {path.name}" for path in known)


def _figures(results: Results, baselines: Mapping[str, Results]) -> str:
    compared = {name: _values(other) for name, other in baselines.items()}
    items = ""
    for name, value in _values(results).items():
        others = "".join(
            f'<dd class="baseline">{html.escape(baseline)} {values[name]:.1%}</dd>'
            for baseline, values in compared.items()
        )
        items += f"<div><dt>{name}</dt><dd>{value:.1%}</dd>{others}</div>"
    return items


def _values(results: Results) -> dict[str, float]:
    names = ["mAP", "mINP", "MAP@R", "R-precision"]
    if results.cameras:
        names += [f"top-{k}" for k in (1, 2, 5, 10)]
    else:
        names += [f"Recall@{k}" for k in (1, 2, 4, 8)]
    return {name: results.figure(name) for name in names}


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _cmc_chart(directory: Path, cmc: np.ndarray, baselines: Mapping[str, Results]) -> str:
    figure, plot = page.axes("Rank", "Queries with a true match by then")
    ranks = np.arange(1, min(len(cmc), 50) + 1)
    plot.plot(
        ranks,
        cmc[: len(ranks)],
        color=page.COLORS["true"],
        marker=".",
        markersize=4,
        label="network",
    )
    for name, other in baselines.items():
        shares = other.cmc[: len(ranks)]
        plot.plot(ranks, shares, color=page.COLORS["muted"], linestyle="--", label=name)
    if baselines:
        page.legend(plot)
    plot.set_ylim(0, 1.02)
    plot.set_xlim(left=0)
    plot.yaxis.set_major_formatter(page.percent)
    points = ", ".join(
        f"{cmc[rank - 1]:.1%} at rank {rank}" for rank in (1, 5, 10, 20, 50) if rank <= len(ranks)
    )
    svg = page.chart(figure, directory, "cmc", f"CMC curve: {points}.")
    return _figure(svg, "CMC: the share of queries that have a true match among the first images.")


def _distances_chart(directory: Path, true: np.ndarray, wrong: np.ndarray) -> str:
    figure, plot = page.axes("Distance to the query", "Share of the pairs")
    edges = np.histogram_bin_edges(np.concatenate([true, wrong]), 60)
    for name, color, style, dists in (
        ("wrong", "wrong", "--", wrong),
        ("true matches", "true", "-", true),
    ):
        shares = np.histogram(dists, edges)[0] / max(1, len(dists))
        label = f"{name} ({len(dists):,})"
        plot.stairs(shares, edges, fill=True, color=page.COLORS[color], alpha=0.2)
        plot.stairs(shares, edges, color=page.COLORS[color], linestyle=style, label=label)
    page.legend(plot)
    plot.yaxis.set_major_formatter(page.percent)
    middle = "there are no true matches"
    if len(true):
        middle = f"the median of true matches is {np.median(true):.4g}"
    if len(wrong):
        middle += f", that of wrong images {np.median(wrong):.4g}"
    svg = page.chart(figure, directory, "distances", f"Distribution of distances: {middle}.")
    return _figure(
        svg, f"Distances of queries to their true matches and to wrong images: {middle}."
    )


_THRESHOLDS_LINK = '<li><a href="#thresholds">Thresholds</a></li>\n'


def _verification(directory: Path, results: Results) -> str:
    """The section on thresholds; nothing where there is no ROC."""
    if results.verification is None:
        return ""
    points = results.operating_points()
    open_set = results.open_set
    heads = ["Threshold at", "Distance", "Wrong pairs", "True pairs"]
    about = "The table says which shares of the pairs are accepted."
    if open_set is not None:
        heads += ["Unknown", "Found"]
        about += (
            f" {page.counted(len(open_set.unknown), 'query has', 'queries have')} a pid that the gallery lacks. Such "
            "an unknown query is accepted if any image is closer than the threshold. A query with a true match is "
            "found if its nearest image is one, and closer."
        )
    rows = ""
    for point in points:
        shares = [point.fpr, point.tpr, point.accepted, point.found]
        cells = "".join(f"<td>{share:.2%}</td>" for share in shares if share is not None)
        rows += f"<tr><th>{html.escape(point.name)}</th><td>{point.distance:.4g}</td>{cells}</tr>\n"
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"""<h2 id="thresholds">Which distance means the same?</h2>
<p>A pair of a query and an image is accepted as showing the same where its distance is below a threshold. {about}</p>
<div class="charts">{_roc_chart(directory, results.verification, points)}
<div class="table whole" tabindex="0" role="region" aria-label="Thresholds"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}</tbody></table></div></div>"""


def _roc_chart(
    directory: Path, verification: Verification, points: Sequence[OperatingPoint]
) -> str:
    figure, plot = page.axes("Wrong pairs accepted", "True pairs accepted")
    fpr, tpr = verification.fpr, verification.tpr
    lowest = max(1e-6, 1 / verification.wrong_count)
    shown = np.unique(np.searchsorted(fpr, np.geomspace(lowest, 1, 400), side="right") - 1)
    plot.plot(fpr[shown], tpr[shown], color=page.COLORS["true"])
    for point in points:
        if point.fpr < lowest:
            continue
        plot.plot(point.fpr, point.tpr, ".", color=page.COLORS["true"], markersize=9)
        if point.name.startswith("FPR"):  # others may be too close to these for a label
            is_low = point.tpr < 0.1  # a label below would lie on the axis
            plot.annotate(
                f"{point.distance:.3g}",
                (point.fpr, point.tpr),
                xytext=(-4, 6) if is_low else (5, -10),
                textcoords="offset points",
                fontsize=8,
                color=page.COLORS["muted"],
            )
    plot.set_xscale("log")
    plot.set_xlim(lowest, 1)
    plot.set_ylim(0, 1.02)
    plot.xaxis.set_major_formatter(lambda value, _: f"{value:.6f}".rstrip("0").rstrip("."))
    plot.yaxis.set_major_formatter(page.percent)
    error = verification.equal_error()
    equal = f"the equal error rate is {error.fpr:.2%}, at distance {error.distance:.4g}"
    svg = page.chart(figure, directory, "roc", f"ROC curve: {equal}.")
    return _figure(svg, f"ROC over all pairs, with distances: {equal}.")


_GROUPS_LINK = '<li><a href="#groups">Groups</a></li>\n'


def _groups(groups: Groups | None) -> str:
    """The section on groups; nothing where they were not asked for."""
    if groups is None:
        return ""
    rows = ""
    for name, values in sorted(groups.queries.items(), key=lambda item: item[1]["mAP"]):
        share, *others = [f"{values[figure]:.1%}" for figure in SHOWN.values()]
        cells = "".join(f"<td>{other}</td>" for other in others)
        rows += (
            f"<tr><td>{html.escape(name)}</td><td>{values['queries']:,}</td>"
            f'<td class="share" style="--share:{share}">{share}</td>{cells}</tr>\n'
        )
    head = "".join(f"<th><button>{name}</button></th>" for name in list(SHOWN)[1:])
    count = page.counted(len(groups.queries), "group", "groups")
    return f"""<h2 id="groups">Groups</h2>
<p>Queries are of {count}, whose mAP has a mean of {groups.mean_ap:.1%}.</p>
<div class="table" tabindex="0" role="region" aria-label="Figures by group"><table>
<thead><tr><th><button>Group</button></th><th><button>Queries</button></th>
<th aria-sort="ascending"><button>mAP</button></th>{head}</tr></thead>
<tbody>
{rows}</tbody></table></div>
{_group_pairs(groups)}"""


def _group_pairs(groups: Groups) -> str:
    """A matrix of mAP; nothing where there is but one group of gallery images, or too many."""
    of_queries = sorted({one for one, _ in groups.pairs}, key=order)
    of_images = sorted({other for _, other in groups.pairs}, key=order)
    if not 2 <= len(of_images) <= MATRIX or len(of_queries) > MATRIX:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in of_images)
    rows = ""
    for one in of_queries:
        cells = ""
        for other in of_images:
            values = groups.pairs.get((one, other))
            if values is None:
                cells += "<td></td>"
                continue
            title = page.counted(int(values["queries"]), "query", "queries")
            cells += f'<td title="{title}">{values["mAP"]:.1%}</td>'
        rows += f"<tr><th>{html.escape(one)}</th>{cells}</tr>\n"
    return f"""<p>mAP of the queries of a group (rows) among the gallery images of one group alone (columns):</p>
<div class="table" tabindex="0" role="region" aria-label="mAP by pair of groups"><table>
<thead><tr><th></th>{head}</tr></thead>
<tbody>
{rows}</tbody></table></div>"""


def _identities(directory: Path, query_pids: Sequence[str], aps: np.ndarray) -> str:
    by_pid = defaultdict(list)
    for pid, ap in zip(query_pids, aps, strict=True):
        if not np.isnan(ap):
            by_pid[pid].append(ap)
    means = {pid: float(np.mean(values)) for pid, values in by_pid.items()}

    figure, plot = page.axes("Mean AP of its queries", "Identities")
    plot.hist(list(means.values()), bins=20, range=(0, 1), color=page.COLORS["true"], rwidth=0.9)
    plot.xaxis.set_major_formatter(page.percent)
    median = np.median(list(means.values()))
    middle = f"half of the {len(means):,} identities are above {median:.1%}"
    alt = f"Histogram of identities by mean AP: {middle}."
    svg = page.chart(figure, directory, "identities", alt)
    rows = ""
    for pid, mean in sorted(means.items(), key=lambda item: item[1]):
        rows += (
            f"<tr><td>{html.escape(pid)}</td><td>{len(by_pid[pid])}</td>"
            f'<td class="share" style="--share:{mean:.1%}">{mean:.1%}</td>'
            f"<td>{min(by_pid[pid]):.1%}</td></tr>\n"
        )
    return f"""<div class="charts">{_figure(svg, f"Mean AP of the identities: {middle}.")}
<div class="table" tabindex="0" role="region" aria-label="AP per identity"><table>
<thead><tr><th><button>Identity</button></th><th><button>Queries</button></th>
<th aria-sort="ascending"><button>Mean AP</button></th><th><button>Lowest AP</button></th></tr></thead>
<tbody>
{rows}</tbody></table></div></div>"""


def _flags(flags: Mapping[str, object], checkpoints: Sequence[str | None]) -> str:
    """Rows of a table: the flags that were given or have a default, and the checkpoints."""
    known = ", ".join(path for path in dict.fromkeys(checkpoints) if path)
    values = {**flags, "checkpoint": known or None}
    return page.rows_of_table(values)
