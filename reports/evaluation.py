"""The report of an evaluation: a page with the figures, and with the queries that went worst and
best.

evaluate.py --report writes it: report.html, which needs no other file and no network, and the
charts as PNG.
"""

import html
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reports import page

LISTS = 10  # of the worst queries and of the best, each
LENGTH = 10  # gallery images in a list
SAMPLED_QUERIES = 200  # in the distribution of distances, at most
SAMPLED_WRONG = 1000  # wrong images of each of these, at most
_MAX_DISTANCES = 2**22  # in memory at a time: 32 MB

Images = tuple[Sequence[str], Sequence[str]]  # pids, fids, as dataset.load returns them
Distances = Callable[
    [np.ndarray], np.ndarray
]  # from rows of queries, int [n], to float [n, G]; inf: ignored
Activations = Callable[
    [Sequence[str]], Sequence[np.ndarray]
]  # from N image files to N maps, float [h, w] in 0..1


def write(
    directory: str | os.PathLike,
    results: Mapping,
    query: Images,
    gallery: Images,
    image_root: str | os.PathLike,
    distances: Distances,
    flags: Mapping,
    activations: Activations | None = None,
) -> None:
    """Write report.html, cmc.png, distances.png and identities.png into the directory, created if
    need be.

    Args:
        results: shares in 0..1: "CMC" [G] and "aps" [Q], None without a true match; other floats
            are shown by name.
        flags: what the evaluation was called with, by name.
        activations: where the network looks, for a second picture of each that is shown; None for
            none.

    Raises: UserError for an image that is shown and cannot be read.
    """
    directory = Path(directory)
    directory.mkdir(exist_ok=True)
    aps = np.array([np.nan if ap is None else ap for ap in results["aps"]])
    worst, best = extremes(aps, query[0], gallery[0])
    lists = {row: ranked(row, query, gallery, distances) for row in {*worst, *best}}
    pictures = _pictures(query, gallery, lists, image_root, activations)
    cmc = results["CMC"]
    figures = {name: value for name, value in results.items() if isinstance(value, float)}
    figures |= {
        f"top-{k}": cmc[min(k, len(cmc)) - 1] for k in (1, 2, 5, 10)
    }  # a gallery may be smaller than k

    def articles(rows):
        return "\n".join(
            _article(row, aps[row], query, gallery, *lists[row], pictures) for row in rows
        )

    unmatched = int(np.isnan(aps).sum())
    page.write(
        directory / "report.html",
        f"Evaluation, mAP {results['mAP']:.1%}",
        f"""
<h1>Evaluation</h1>
<p class="muted">{len(aps):,} queries, {len(gallery[0]):,} gallery images{
            f". Without a true match, and so left out: {unmatched:,}" if unmatched else ""
        }.</p>
<nav aria-label="Sections"><ul><li><a href="#charts">Charts</a></li><li><a href="#worst">Worst queries</a></li>
<li><a href="#best">Best queries</a></li><li><a href="#identities">Identities</a></li></ul></nav>
<dl class="figures">
{
            "".join(
                f"<div><dt>{html.escape(name)}</dt><dd>{value:.1%}</dd></div>"
                for name, value in figures.items()
            )
        }
</dl>
<h2 id="charts">Charts</h2>
<div class="charts">
{_cmc_chart(directory, cmc)}
{_distances_chart(directory, *sampled_distances(query, gallery, distances))}
</div>
<h2 id="worst">Worst queries</h2>
<p>The query, then the {
            LENGTH
        } gallery images closest to it, with rank and distance, and the first true match where it
comes later. ✓ and a solid frame: a true match. ✗ and a dashed frame: a mistake. Images that the excluder ignores are
passed over. Of each person only the worst query is shown.</p>
{_TOGGLE if activations else ""}
{articles(worst)}
<h2 id="best">Best queries</h2>
<p>Of each person only the best query; where APs are equal, persons with more images in the gallery come first.</p>
{articles(best)}
<h2 id="identities">Identities</h2>
{_identities(directory, query[0], aps)}
<h2>How it was made</h2>
<details><summary>Flags of evaluate.py</summary><div class="table"><table>
{_flags(flags)}
</table></div></details>
""",
    )


# ------------------------------------------------------------------------- what is shown


def extremes(
    aps: np.ndarray, query_pids: Sequence[str], gallery_pids: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Rows of the LISTS worst queries, from the worst on, and of the best, from the best on; one of
    each pid.

    aps: float [Q], NaN for queries that do not count.
    """
    images = Counter(gallery_pids)
    rows = [int(row) for row in np.flatnonzero(~np.isnan(aps))]
    worst, best = {}, {}
    for row in sorted(rows, key=lambda row: aps[row]):
        worst.setdefault(query_pids[row], row)
    for row in sorted(rows, key=lambda row: (-aps[row], -images[query_pids[row]])):
        best.setdefault(query_pids[row], row)
    return list(worst.values())[:LISTS], list(best.values())[:LISTS]


def ranked(
    row: int, query: Images, gallery: Images, distances: Distances
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The head of a query's ranked list.

    Returns: rows of the gallery [n], nearest first: the first LENGTH and, where none of these is a
        true match, the first that is one; their distances [n]; their ranks [n], from 1; and the
        ranks of all true matches, ascending. At equal distances mistakes come first, as they do in
        ranking.py.
    """
    (dists,) = distances(np.array([row]))
    matches = np.array(gallery[0]) == query[0][row]
    order = np.lexsort((matches, dists))
    order = order[np.isfinite(dists[order])]
    true_ranks = 1 + np.flatnonzero(matches[order])
    ranks = np.arange(1, min(len(order), LENGTH) + 1)
    ranks = np.union1d(ranks, true_ranks[:1])
    rows = order[ranks - 1]
    return rows, dists[rows], ranks, true_ranks


def sampled_distances(
    query: Images, gallery: Images, distances: Distances
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of queries, evenly spread, to their true matches and to wrong images, two float
    vectors.
    """
    Q, G = len(query[0]), len(gallery[0])
    rng = np.random.default_rng(0)
    gallery_pids = np.array(gallery[0])
    rows = np.unique(np.linspace(0, Q - 1, min(Q, SAMPLED_QUERIES)).astype(int))
    true, wrong = [], []
    for block in _blocks(rows, max(1, _MAX_DISTANCES // G)):
        for row, dists in zip(block, distances(block), strict=True):
            matches, counts = gallery_pids == query[0][row], np.isfinite(dists)
            true.append(dists[matches & counts])
            others = dists[~matches & counts]
            wrong.append(
                others
                if len(others) <= SAMPLED_WRONG
                else rng.choice(others, SAMPLED_WRONG, replace=False)
            )
    return np.concatenate(true), np.concatenate(wrong)


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def camera(fid: str) -> str | None:
    """The camera where a file name tells it as those of Market-1501 and DukeMTMC-reID do: 1 for
    0001_c1s1_001051_00.
    """
    match = re.search(r"_c(\d+)", os.path.basename(fid))
    return match and match[1]


# ------------------------------------------------------------------------- pictures

_TOGGLE = '<p><label><input type="checkbox" id="maps"> Show where the network looks (brighter: more)</label></p>'


def _pictures(
    query: Images,
    gallery: Images,
    lists: Mapping,
    image_root: str | os.PathLike,
    activations: Activations | None,
) -> dict[str, tuple[Image.Image, Image.Image | None]]:
    """By fid, of all images in the lists: a small picture, and the same with its activation map."""
    fids = [query[1][row] for row in lists] + [
        gallery[1][row] for head, *_ in lists.values() for row in head
    ]
    fids = list(dict.fromkeys(fids))
    paths = [os.path.join(image_root, fid) for fid in fids]
    small = [page.thumbnail(path) for path in paths]
    if activations is None:
        return {fid: (image, None) for fid, image in zip(fids, small, strict=True)}
    overlaid = [overlay(image, map_) for image, map_ in zip(small, activations(paths), strict=True)]
    return dict(zip(fids, zip(small, overlaid, strict=True), strict=True))


def overlay(image: Image.Image, activation: np.ndarray) -> Image.Image:
    """The image under its activation map, [h, w] in 0..1, which is resized to it: dark at 0, bright
    at 1.
    """
    import matplotlib

    strength = Image.fromarray(np.float32(activation)).resize(image.size, Image.Resampling.BICUBIC)
    colors = matplotlib.colormaps["inferno"](np.clip(strength, 0, 1), bytes=True)[..., :3]
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colors), 0.6)


def _article(
    row: int,
    ap: float,
    query: Images,
    gallery: Images,
    found: np.ndarray,
    dists: np.ndarray,
    ranks: np.ndarray,
    true_ranks: np.ndarray,
    pictures: Mapping,
) -> str:
    """A query and its ranked list."""
    pid, fid = query[0][row], query[1][row]
    items = [_item("query", "Query", pid, fid, "<span>query</span>", pictures)]
    for index, dist, rank in zip(found, dists, ranks, strict=True):
        sign, kind, words = (
            ("✓", "true", "true match") if rank in true_ranks else ("✗", "wrong", "mistake")
        )
        caption = f'<span><b class="sign">{sign}</b> {rank:,}</span><span>{dist:#.4g}</span>'
        items.append(
            _item(
                kind,
                f"Rank {rank}, {words}",
                gallery[0][index],
                gallery[1][index],
                caption,
                pictures,
            )
        )
    summary = f"{len(true_ranks)} true match{'es' if len(true_ranks) > 1 else ''}, the first at rank {true_ranks[0]:,}"
    summary += f", the last at rank {true_ranks[-1]:,}" if len(true_ranks) > 1 else ""
    return f"""<article><h3>{html.escape(pid)}: AP {ap:.1%}</h3><p class="muted">{html.escape(fid)}. {summary}.</p>
<ol class="ranked">
{"".join(items)}
</ol></article>"""


def _item(kind: str, words: str, pid: str, fid: str, caption: str, pictures: Mapping) -> str:
    small, overlaid = pictures[fid]
    images = page.picture(small, f"{words}: {pid}, {fid}")
    if overlaid is not None:
        images += page.picture(
            overlaid, f"{words}: {pid}, {fid}, with what the network looks at", 'class="map"'
        )
    place = camera(fid)
    caption += f"<span>camera {place}</span>" if place else ""
    title = html.escape(f"{pid}, {fid}")
    return (
        f'<li class="{kind}" title="{title}"><span class="picture">{images}</span>{caption}</li>\n'
    )


# ------------------------------------------------------------------------- charts and tables


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _cmc_chart(directory: Path, cmc: Sequence[float]) -> str:
    figure, plot = page.axes("Rank", "Queries with a true match by then")
    ranks = np.arange(1, min(len(cmc), 50) + 1)
    plot.plot(ranks, cmc[: len(ranks)], color=page.COLORS["true"], marker=".", markersize=4)
    plot.set_ylim(0, 1.02)
    plot.set_xlim(left=0)
    plot.yaxis.set_major_formatter(_percent)
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
    plot.yaxis.set_major_formatter(_percent)
    middle = (
        f"the median of true matches is {np.median(true):.4g}"
        if len(true)
        else "there are no true matches"
    )
    middle += f", that of wrong images {np.median(wrong):.4g}" if len(wrong) else ""
    svg = page.chart(figure, directory, "distances", f"Distribution of distances: {middle}.")
    return _figure(
        svg, f"Distances of queries to their true matches and to wrong images: {middle}."
    )


def _identities(directory: Path, query_pids: Sequence[str], aps: np.ndarray) -> str:
    by_pid = defaultdict(list)
    for pid, ap in zip(query_pids, aps, strict=True):
        if not np.isnan(ap):
            by_pid[pid].append(ap)
    means = {pid: float(np.mean(values)) for pid, values in by_pid.items()}

    figure, plot = page.axes("Mean AP of its queries", "Identities")
    plot.hist(list(means.values()), bins=20, range=(0, 1), color=page.COLORS["true"], rwidth=0.9)
    plot.xaxis.set_major_formatter(_percent)
    middle = (
        f"half of the {len(means):,} identities are above {np.median(list(means.values())):.1%}"
    )
    svg = page.chart(
        figure, directory, "identities", f"Histogram of identities by mean AP: {middle}."
    )
    rows = "".join(
        f'<tr><td>{html.escape(pid)}</td><td>{len(by_pid[pid])}</td><td class="share" style="--share:{mean:.1%}">'
        f"{mean:.1%}</td><td>{min(by_pid[pid]):.1%}</td></tr>\n"
        for pid, mean in sorted(means.items(), key=lambda item: item[1])
    )
    return f"""<div class="charts">{_figure(svg, f"Mean AP of the identities: {middle}.")}
<div class="table" tabindex="0" role="region" aria-label="AP per identity"><table>
<thead><tr><th><button>Identity</button></th><th><button>Queries</button></th>
<th aria-sort="ascending"><button>Mean AP</button></th><th><button>Lowest AP</button></th></tr></thead>
<tbody>
{rows}</tbody></table></div></div>"""


def _flags(flags: Mapping) -> str:
    """Rows of a table: those that were given or have a default."""
    given = {
        name: value for name, value in flags.items() if value is not None and value is not False
    }
    return "\n".join(
        f'<tr><th>{html.escape(name)}</th><td class="text">{html.escape(str(value))}</td></tr>'
        for name, value in given.items()
    )


def _percent(value: float, _) -> str:
    return f"{value:.0%}"
