"""The page of a search: each query beside the gallery images that were found for it.

search.py --report writes it: search.html, which needs no other file and no network.
"""

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from data.dataset import Dataset
from evaluation.gallery import Threshold
from evaluation.search import Found
from reports import page
from reports.ranked_list import Listed, Pictures, item

QUERIES = 100  # on the page, at most
LENGTH = 20  # gallery images beside each, at most
_PAGE = "search.html"


class Images(NamedTuple):
    """Images and where their files are."""

    dataset: Dataset
    image_root: str

    def pictures(self, row: int) -> Pictures:
        """What is shown of one of them. Raises: UserError where its file is not an image."""
        chosen = self.dataset.select(slice(row, row + 1))
        return Pictures(page.thumbnail(chosen.files(self.image_root), 0))

    def listed(self, row: int, kind: str, words: str, caption: str) -> Listed:
        """One of them in a list."""
        dataset = self.dataset
        camera = None if dataset.cameras is None else dataset.cameras[row]
        return Listed(kind, words, dataset.pids[row], dataset.name(row), camera, caption)


def check_replaced(directory: str | os.PathLike) -> None:
    """Raises: UserError if the directory has a file that is not of an earlier report."""
    page.check_replaced(directory, _PAGE, ())


def write(
    directory: str | os.PathLike,
    queries: Images,
    gallery: Images,
    found: Found,
    threshold: Threshold | None,
    flags: Mapping[str, object],
) -> str:
    """Write search.html into a directory.

    Args:
        directory: created if it does not exist.
        found: for all queries; the first QUERIES are shown.
        threshold: below which a distance means the same.
        flags: how the search was made, by name.

    Returns:
        The path of the page.

    Raises:
        UserError: an image that is shown cannot be read, or as check_replaced does.
    """
    check_replaced(directory)
    Path(directory).mkdir(exist_ok=True)
    Q, G = len(queries.dataset), len(gallery.dataset)
    count = f"{page.counted(Q, 'query', 'queries')}, {page.counted(G, 'gallery image', 'gallery images')}"
    if Q > QUERIES:
        count += f". The first {QUERIES} queries are shown"
    legend = ""
    if threshold is not None:
        legend = (
            f"✓ and a solid frame: the same, as the distance is below {threshold.distance:#.4g} "
            f"({html.escape(threshold.why)})."
        )
    articles = [_article(queries, gallery, found, row, threshold) for row in range(min(Q, QUERIES))]
    name = Path(gallery.dataset.path).name
    body = page.fill(
        "search.html",
        of_gallery=f" in {html.escape(name)}",
        count=count,
        legend=legend,
        queries="\n".join(articles),
        flags=page.rows_of_table(flags),
    )
    path = Path(directory, _PAGE)
    page.write(path, f"Search in {name}", f"\n{body}")
    return str(path)


def _article(
    queries: Images, gallery: Images, found: Found, row: int, threshold: Threshold | None
) -> str:
    query = queries.listed(row, "query", "Query", "<span>query</span>")
    items = item(query, queries.pictures(row))
    same = 0
    pairs = zip(found.rows[row].tolist(), found.dists[row].tolist(), strict=True)
    for rank, (place, dist) in enumerate(list(pairs)[:LENGTH], 1):
        if place < 0:
            break
        is_same = threshold is not None and dist < threshold.distance
        same += is_same
        sign = '<b class="sign">✓</b> ' if is_same else ""
        pid = gallery.dataset.pids[place]
        caption = f"<span>{sign}{rank:,}</span><span>{dist:#.4g}</span>"
        caption += f"<span>{html.escape(pid)}</span>" if pid else ""
        words = f"Rank {rank}{', the same' if is_same else ''}"
        image = gallery.listed(place, "true" if is_same else "plain", words, caption)
        items += item(image, gallery.pictures(place))
    summary = ""
    if threshold is not None:
        summary = f'<p class="muted">{page.counted(same, "image counts", "images count")} as the same.</p>'
    return f"""<article><h3>{html.escape(query.fid)}</h3>{summary}
<ol class="ranked">
{items}</ol></article>"""
