"""What makes figures too good: one image under two names, and copies of an image."""

import hashlib
from collections import defaultdict

import numpy as np

import common
from common import first_few
from evaluation import pipeline
from evaluation.pipeline import Embedded
from runtime.terminal import log

_MAX_PAIRS = 2**24  # in memory at a time: 16 MB


def queries_apart(query: Embedded, gallery: Embedded) -> list[int]:
    """Rows of the queries whose file is not in the gallery: a diagonal ignores nothing for them."""
    in_gallery = set(pipeline.file_names_of(gallery))
    files = pipeline.file_names_of(query)
    return [row for row, file in enumerate(files) if file not in in_gallery]


def found_at_distance_zero(
    query: Embedded, gallery: Embedded, excluder: str
) -> list[tuple[int, int]]:
    """Queries that have a gallery image of the same embedding that is not ignored for them.

    They are the best matches there can be, and mostly copies of one image, or one file under two
    names.

    Args:
        excluder: a name in excluders/.

    Returns:
        The row of each such query, rising, and that of the first such gallery image.
    """
    make_excluder = common.load_plugin("excluders", excluder).Excluder
    query_names = pipeline.names_for(excluder, query)
    gallery_names = pipeline.names_for(excluder, gallery)
    # First by one number of each, since there are many: few are compared as a whole then.
    firsts = query.embs[:, 0], gallery.embs[:, 0]
    in_query = _rows_by_emb(query.embs, np.flatnonzero(np.isin(*firsts)))
    in_gallery = _rows_by_emb(gallery.embs, np.flatnonzero(np.isin(firsts[1], firsts[0])))
    found = []
    for emb, rows in in_query.items():
        same = in_gallery.get(emb)
        if same is None:
            continue
        exclude = make_excluder([gallery_names[row] for row in same])
        size = max(1, _MAX_PAIRS // len(same))
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            counted = ~exclude([query_names[row] for row in block])
            for row, images in zip(block, counted, strict=True):
                if images.any():
                    found.append((row, same[int(images.argmax())]))
    return sorted(found)


def warn_about_queries_apart(query: Embedded, gallery: Embedded, excluder: str) -> None:
    """Warn of queries for which an excluder that compares files ignores nothing.

    Where that is so for all of them, the sets were divided: it is told, but it is no mistake.
    """
    apart = [query.dataset.fids[row] for row in queries_apart(query, gallery)]
    if len(apart) == len(query.embs):
        log.info(
            f"--excluder {excluder} ignores no image for {len(apart)} of {len(query.embs)} queries: no file of theirs "
            f"is in the gallery ({first_few(apart)})."
        )
    elif apart:
        log.warning(
            f"--excluder {excluder} ignores no image for {len(apart)} of {len(query.embs)} queries, whose files are "
            f"not in the gallery: {first_few(apart)}. Where the gallery has them under other names, they find "
            "themselves, and the figures are too good."
        )


def warn_about_copies(query: Embedded, gallery: Embedded, excluder: str) -> None:
    """Warn of queries that find an image of the same embedding."""
    found = found_at_distance_zero(query, gallery, excluder)
    if found:
        query_fids, gallery_fids = query.dataset.fids, gallery.dataset.fids
        pairs = [f"{query_fids[row]} ({gallery_fids[image]})" for row, image in found]
        log.warning(
            f"{len(found)} of {len(query.embs)} queries have their best match at distance 0: {first_few(pairs)}. If "
            "these are copies of an image, or one under two names, the figures are too good."
        )


def _rows_by_emb(embs: np.ndarray, rows: np.ndarray) -> dict[bytes, list[int]]:
    """Those of the rows that have one embedding, by a hash of it, which takes less memory."""
    found = defaultdict(list)
    for row in rows:
        emb = embs[row] + np.float32(0)  # -0.0 becomes 0.0
        found[hashlib.blake2b(emb.tobytes(), digest_size=16).digest()].append(int(row))
    return found
