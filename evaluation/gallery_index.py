"""An index of a gallery, by faiss: finds nearest images without a look at all of them.

An index is a directory:

    index.faiss     what faiss wrote
    about.json      kind, metric, number and dimension of the embeddings, their CRC-32 and that of
                    index.faiss, how far a search looks, and the recall that was measured

The index only names candidates. Distances come from the gallery's own embeddings, as in a search
without an index, and order them. So an index that misses nothing gives the same answer.
"""

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import UserError, reason
from evaluation import distances
from evaluation.search import Exact, Found
from runtime import files, json_files
from runtime.terminal import log

# What each kind does, for --help.
KINDS = {
    "flat": "compares with all images, in memory",
    "ivf": "looks through the cells nearest to the query",
    "ivf8": "the same with embeddings in memory as bytes, a quarter of the size",
    "hnsw": "walks along a graph of neighbors",
}
METRICS = ("euclidean", "sqeuclidean", "cosine")
RECALL_AT = 10  # neighbors whose recall is told
_SAMPLE = 200  # gallery images that are searched for to measure the recall, at most
_ROWS = 2**16  # embeddings that are added at a time
_CANDIDATES = 4  # times as many are asked for as are wanted, since float32 and bytes blur the order
_FEWEST = 64  # are asked for at least
_LONGEST_LIST = 2**12  # of candidates, on the walk along a graph
_ABOUT = "about.json"
_INDEX = "index.faiss"


class About(NamedTuple):
    """What about.json says.

    Attributes:
        kind: one of KINDS.
        metric: one of METRICS.
        images, dim: G and D.
        crc32: of the embeddings, as float32.
        index_crc32: of index.faiss.
        effort: cells that are looked through (nprobe), or length of the list (efSearch).
        recall: the share of the true RECALL_AT nearest that is found, in 0..1.
        offset: [D], what was subtracted from each embedding.
    """

    kind: str
    metric: str
    images: int
    dim: int
    crc32: int
    index_crc32: int
    effort: int
    recall: float
    offset: list[float]


def check_installed() -> None:
    """Raises: UserError where faiss is not installed."""
    # Read when faiss is imported: its threads sleep while they wait, and leave the cores to others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise UserError(
            "an index needs faiss. Call pip install faiss-cpu, or search without --index."
        ) from None


class Index:
    """Finds the nearest images of a gallery by an index.

    Args:
        about, index: as `build` makes them.
        embs: float32 [G, D], those of the gallery.
    """

    def __init__(self, about: About, index: Any, embs: np.ndarray):
        self.about = about
        self._index = index
        self._exact = Exact(embs, about.metric)
        self._offset = np.array(about.offset, np.float32)
        self.look(about.effort)

    @property
    def most_effort(self) -> int:
        """The furthest that a search can look."""
        if self.about.kind == "flat":
            return 1
        return _LONGEST_LIST if self.about.kind == "hnsw" else self._index.nlist

    def look(self, effort: int) -> None:
        """Set how many cells are looked through, or how long the list of candidates is."""
        if self.about.kind == "hnsw":
            self._index.hnsw.efSearch = effort
        elif self.about.kind != "flat":
            self._index.nprobe = effort

    def search(self, query_embs: np.ndarray, k: int) -> Found:
        """The k nearest of each query, as far as the index finds them; see search.Exact."""
        Q = len(query_embs)
        rows = np.full((Q, k), -1, np.int64)
        dists = np.full((Q, k), np.inf)
        asked = min(self.about.images, max(_FEWEST, _CANDIDATES * k))
        for start in range(0, Q, _ROWS):
            part = query_embs[start : start + _ROWS]
            prepared = _prepared(part, self.about.metric, self._offset)
            _, found = self._index.search(prepared, asked)
            for row, (emb, near) in enumerate(zip(part, found, strict=True), start):
                candidates = np.sort(near[near >= 0])
                nearest, of_nearest = self._exact.ranked(emb.astype(np.float64), candidates, k)
                rows[row, : len(nearest)] = nearest
                dists[row, : len(nearest)] = of_nearest
        return Found(rows, dists)


# ------------------------------------------------------------------------- building


def build(
    directory: str | os.PathLike,
    embs: np.ndarray,
    metric: str,
    kind: str,
    recall: float = 0.99,
    query_embs: np.ndarray | None = None,
) -> Index:
    """Build an index and write it into a directory, which appears only when it is complete.

    A search looks as far as the recall needs: the effort is doubled until it is reached.

    Args:
        directory: new or empty.
        embs: float32 [G, D], finite; may be a memory map.
        metric: one of METRICS.
        kind: one of KINDS.
        recall: the share of the true RECALL_AT nearest that should be found, in 0..1.
        query_embs: [Q, D], what the recall is measured with; evenly spread images of the gallery, each
            among the others, if None.

    Raises:
        UserError: faiss is not installed, or has no index for the metric.
    """
    check_installed()
    check_metric(metric)
    import faiss

    began = time.monotonic()
    offset = np.zeros(embs.shape[1], np.float32)
    if metric != "cosine":
        offset = embs.mean(axis=0, dtype=np.float64).astype(np.float32)
    G, D = embs.shape
    cells = _cells(G)
    description = {
        "flat": "Flat",
        "ivf": f"IVF{cells},Flat",
        "ivf8": f"IVF{cells},SQ8",
        "hnsw": "HNSW32,Flat",
    }[kind]
    index = faiss.index_factory(D, description, faiss.METRIC_L2)
    if not index.is_trained:
        chosen = np.unique(np.linspace(0, G - 1, min(G, max(64 * cells, 2**14))).astype(int))
        index.train(_prepared(embs[chosen], metric, offset))
    crc = 0
    for part in _parts(embs):
        crc = zlib.crc32(np.ascontiguousarray(part, "<f4"), crc)
        index.add(_prepared(part, metric, offset))
    log.info(f"Built the index ({description}) of {G} images in {time.monotonic() - began:.1f} s.")
    about = About(kind, metric, G, D, crc, 0, 1, 1.0, offset.tolist())
    built = Index(about, index, embs)
    effort, reached = _tune(built, embs, query_embs, recall)
    with files.complete_directory(directory) as partial:
        faiss.write_index(index, str(partial / _INDEX))
        about = about._replace(
            effort=effort, recall=reached, index_crc32=_crc_of_file(partial / _INDEX)
        )
        files.write_json(partial / _ABOUT, about._asdict())
    return Index(about, index, embs)


def check_metric(metric: str) -> None:
    """Raises: UserError for a metric that no index is for."""
    if metric not in METRICS:
        raise UserError(
            f"there is no index for --metric {metric}, but for {', '.join(METRICS)}. Search without --index."
        )


def _cells(count: int) -> int:
    """How many cells an inverted file has: 4√G, but with 39 images each, as faiss wants to train."""
    return max(1, min(int(4 * count**0.5), count // 39))


def _parts(embs: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(embs), _ROWS):
        yield embs[start : start + _ROWS]


def _prepared(embs: np.ndarray, metric: str, offset: np.ndarray) -> np.ndarray:
    """As faiss is given them: float32 [n, D], whose Euclidean distances have the metric's order.

    They are of length 1 for the cosine, else around 0, since a common offset costs digits.
    """
    if metric == "cosine":
        return distances.unit_length(embs).astype(np.float32)
    return np.ascontiguousarray(embs - offset, np.float32)


def _tune(
    index: Index, embs: np.ndarray, query_embs: np.ndarray | None, wanted: float
) -> tuple[int, float]:
    """How far a search has to look for a recall, and the recall: the last one where none is enough."""
    k = min(RECALL_AT, len(embs))
    own = None
    if query_embs is None:
        own = np.unique(np.linspace(0, len(embs) - 1, _SAMPLE).astype(int))
        query_embs = embs[own]
        k = min(RECALL_AT + 1, len(embs))
    else:
        query_embs = query_embs[:_SAMPLE]
    true = Exact(embs, index.about.metric).search(query_embs, k).rows
    effort = 1
    while True:
        index.look(effort)
        reached = _recall(index.search(query_embs, k).rows, true, own)
        if reached >= wanted or effort >= index.most_effort:
            return effort, reached
        effort = min(2 * effort, index.most_effort)


def _recall(found: np.ndarray, true: np.ndarray, own: np.ndarray | None) -> float:
    """The share of the true rows [Q, k] that are among those found. own: rows that do not count."""
    hits = total = 0
    for row in range(len(true)):
        wanted = set(true[row].tolist()) - ({int(own[row])} if own is not None else set())
        hits += len(wanted.intersection(found[row].tolist()))
        total += len(wanted)
    return hits / total if total else 1.0


# ------------------------------------------------------------------------- reading


def about(directory: str | os.PathLike) -> About:
    """What an index says of itself. Raises: UserError where it is none."""
    path = Path(directory, _ABOUT)
    try:
        values = json_files.read(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{directory} is no index ({reason(error)}). Make it with search.py --build."
        ) from None
    try:
        told = About(**values)
        fits = told.kind in KINDS and told.metric in METRICS and len(told.offset) == told.dim
        numbers = (told.images, told.dim, told.crc32, told.index_crc32, told.effort)
        fits = fits and all(isinstance(number, int) and number >= 0 for number in numbers)
    except TypeError:
        fits = False
    if not fits:
        raise UserError(f"{path} is damaged, or of another version. Build the index anew.")
    return told


def load(directory: str | os.PathLike, embs: np.ndarray, metric: str | None = None) -> Index:
    """Read an index.

    Args:
        embs: float32 [G, D], those of the gallery.
        metric: the one wanted; that of the index if None.

    Raises:
        UserError: it is damaged, of other embeddings or for another metric, or faiss is not
            installed.
    """
    check_installed()
    told = about(directory)
    if metric not in (None, told.metric):
        raise UserError(
            f"the index {directory} is for --metric {told.metric}. Received: {metric}. Build another."
        )
    crc = 0
    if embs.shape == (told.images, told.dim):
        for part in _parts(embs):
            crc = zlib.crc32(np.ascontiguousarray(part, "<f4"), crc)
    if crc != told.crc32 or embs.shape != (told.images, told.dim):
        raise UserError(
            f"the index {directory} is of other embeddings than the gallery's, {told.images} of {told.dim} numbers. "
            f"Received: {len(embs)} of {embs.shape[1]}. Build the index anew, or give its gallery."
        )
    import faiss

    path = Path(directory, _INDEX)
    try:
        intact = _crc_of_file(path) == told.index_crc32
        index = faiss.read_index(str(path)) if intact else None
    except (OSError, RuntimeError):
        index = None
    if index is None or (index.ntotal, index.d) != (told.images, told.dim):
        raise UserError(f"{path} is damaged. Build the index anew.")
    return Index(told, index, embs)


def _crc_of_file(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**22):
            crc = zlib.crc32(chunk, crc)
    return crc
