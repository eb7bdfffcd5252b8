"""The nearest images of every image, queries and gallery together, and average query expansion."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from evaluation import distances

_CROWDED = 16  # candidates per neighbor: an image with more is looked at alone, to save memory
_PARTS = 8  # of the images; more would save little


def nearest(
    embs: np.ndarray, k: int, metric: str, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of all images, for each of them.

    A float32 pass selects candidates; exact float64 distances order them. Ties go to the lower
    index.

    The pass takes a part of the images at a time, from the last to the first, and compares it with
    itself and with those after it, so that few pairs are compared twice. The nearest that an image
    has when its own part is done limit which images of the parts to come are its candidates.

    Args:
        embs: float32 [N, D], of numbers whose squares float32 can hold.
        k: >= 1. All N are taken where N is less.
        metric: one of distances.METRICS.
        batch_size: images compared with all others at a time, at most. Does not change any result.

    Returns:
        int32 [N, k], nearest first, which is the image itself; and float64 [N], the distance to the
        image that is furthest in float32 (squared for "euclidean").
    """
    N = len(embs)
    k = min(k, N)
    exact = distances.METRICS[metric](embs)
    lower_bounds, widened = _lower_bounds(embs, metric)
    candidates = _Candidates(N, k, widened)
    size = max(-(-N // _PARTS), 64 * k)  # the nearest among few images would be no close limit
    for stop in range(N, 0, -size):
        start = max(0, stop - size)

        def compare_block(rows: slice, start: int = start, stop: int = stop) -> None:
            block = slice(start + rows.start, start + rows.stop)
            candidates.add(lower_bounds(block, start), block, stop)

        distances.map_blocks(compare_block, stop - start, N - start, batch_size)

    candidates.sort()
    order = np.empty((N, k), np.int32)
    furthest = np.empty(N)
    alone = np.ones(N, bool)

    def order_block(block: slice) -> None:
        images = np.arange(block.start, block.stop)
        furthest[block] = distances.of_pairs(exact, embs, images, candidates.furthest[block])
        images = images[candidates.counts[block] > 0]
        order[images], limits = _nearest_candidates(exact, embs, images, candidates, k)
        # Images whose lower bounds are above the limit may be as near as the kth.
        alone[images] = limits > candidates.limits[images]

    distances.map_blocks(order_block, N, 4 * _CROWDED * k, batch_size)
    left = np.flatnonzero(alone)
    first_copy = _first_copies(embs, left)
    left = left[np.argsort(first_copy[left], kind="stable")]  # copies follow one another

    def order_left(block: slice) -> None:
        of_copies = _DistancesOfCopies(exact, embs, first_copy)
        for image, bounds in zip(left[block], lower_bounds(left[block], 0), strict=True):
            order[image] = _nearest_of(of_copies, image, bounds, k)

    distances.map_blocks(order_left, len(left), N, batch_size)
    return order, furthest


class _Candidates:
    """Images that may be among the k nearest, and the furthest, of each of N images.

    Attributes:
        counts: int64 [N], how many there are; 0 where there are too many to keep them.
        limits: float32 [N]. All images whose lower bound is at most this are there.
        furthest: int32 [N].
    """

    def __init__(self, N: int, k: int, widened: "_Widened"):
        self.counts = np.zeros(N, np.int64)
        self.limits = np.empty(N, np.float32)
        self.furthest = np.empty(N, np.int32)
        self._k = k
        self._widened = widened
        self._furthest_bounds = np.empty(N, np.float32)
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._lock = threading.Lock()

    def add(self, bounds: np.ndarray, block: slice, stop: int) -> None:
        """Look at a block of a part of the images. Threads do this at the same time.

        Args:
            bounds: [n, m], between the block and the last m images, which begin with the part.
            stop: where the part ends, and those begin whose limits are known.
        """
        start = len(self.counts) - bounds.shape[1]
        later = bounds[:, stop - start :]
        columns = bounds.argmax(axis=1)
        self.furthest[block] = start + columns
        self._furthest_bounds[block] = bounds[np.arange(len(bounds)), columns]
        self._keep_furthest(later, block, stop)
        np.fill_diagonal(bounds[:, block.start - start :], -np.inf)
        self.limits[block] = self._widened(block, _limits(bounds, self._k))
        rows, columns = _where_below(bounds, self.limits[block, None])
        self._keep(block.start + rows, start + columns, bounds[rows, columns])
        rows, columns = _where_below(later, self.limits[stop:])
        self._keep(stop + columns, block.start + rows, later[rows, columns])

    def _keep_furthest(self, bounds: np.ndarray, block: slice, stop: int) -> None:
        """The furthest of the images from `stop` on may be in the block: bounds [n, N - stop]."""
        greatest = bounds.max(axis=0)
        with self._lock:
            columns = np.flatnonzero(greatest >= self._furthest_bounds[stop:])
            images = stop + columns
            greatest = greatest[columns]
            rows = block.start + bounds[:, columns].argmax(axis=0)
            # Of equal ones the first, whichever thread comes first.
            better = (greatest > self._furthest_bounds[images]) | (rows < self.furthest[images])
            self._furthest_bounds[images[better]] = greatest[better]
            self.furthest[images[better]] = rows[better]

    def _keep(self, images: np.ndarray, others: np.ndarray, bounds: np.ndarray) -> None:
        with self._lock:
            self.counts += np.bincount(images, minlength=len(self.counts))
            self.limits[self.counts > _CROWDED * self._k] = -np.inf
            kept = self.limits[images] > -np.inf
            self._found.append(
                (images[kept].astype(np.int32), others[kept].astype(np.int32), bounds[kept])
            )

    def sort(self) -> None:
        """Once all is added, and before of_images."""
        images, others, bounds = map(np.concatenate, zip(*self._found, strict=True))
        self._found.clear()
        # One number holds image and place: NumPy sorts numbers many times as fast as it argsorts.
        places = images.astype(np.int64)
        places <<= 32
        places |= np.arange(len(images))
        places.sort()
        places &= 0xFFFFFFFF
        self._others = others[places]
        self._bounds = bounds[places]
        self._starts = np.searchsorted(images[places], np.arange(len(self.counts) + 1))
        self.counts = np.where(self.limits > -np.inf, np.diff(self._starts), 0)

    def of_images(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidates and their lower bounds, inf where there are fewer: int32 and float32 [n, m]."""
        counts = self.counts[images]
        slots = np.arange(counts.max(initial=self._k))
        used = slots < counts[:, None]
        places = (self._starts[images][:, None] + slots)[used]
        others = np.zeros(used.shape, np.int32)
        bounds = np.full(used.shape, np.inf, np.float32)
        others[used] = self._others[places]
        bounds[used] = self._bounds[places]
        return others, bounds


def _where_below(bounds: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the bounds [n, m] that are at most the limits, [n, 1] or [m]."""
    places = np.flatnonzero(bounds <= limits)
    return np.divmod(places, max(1, bounds.shape[1]))


def _nearest_candidates(
    exact: distances.Metric, embs: np.ndarray, images: np.ndarray, candidates: _Candidates, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of n images that are candidates: int32 [n, k], nearest first.

    Returns:
        These, and [n] distances: no image whose lower bound is above it is among the k nearest.
    """
    others, bounds = candidates.of_images(images)
    first = np.argpartition(bounds, k - 1, axis=1)[:, :k]
    columns = np.take_along_axis(others, first, axis=1).ravel()
    dists = distances.of_pairs(exact, embs, images.repeat(k), columns)
    limits = dists.reshape(first.shape).max(axis=1)
    np.put_along_axis(bounds, first, np.inf, axis=1)
    rows, slots = np.nonzero(bounds <= limits[:, None])
    more = others[rows, slots]
    columns = np.concatenate([columns, more])
    dists = np.concatenate([dists, distances.of_pairs(exact, embs, images[rows], more)])
    rows = np.concatenate([np.arange(len(images)).repeat(k), rows])
    dists[columns == images[rows]] = -np.inf  # an image comes before its copies
    by_row = np.lexsort((columns, dists, rows))
    starts = np.searchsorted(rows[by_row], np.arange(len(images)))
    return columns[by_row[starts[:, None] + np.arange(k)]], limits


def _first_copies(embs: np.ndarray, images: np.ndarray) -> np.ndarray:
    """For each of `images` the first of them that has the same embedding, for others themselves.

    Args:
        embs: [N, D].
        images: int [n], ascending.

    Returns:
        int [N].
    """
    rows = np.ascontiguousarray(embs[images])
    rows_as_bytes = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
    _, firsts, groups = np.unique(rows_as_bytes, return_index=True, return_inverse=True)
    first_copy = np.arange(len(embs))
    first_copy[images] = images[firsts[groups]]
    return first_copy


class _DistancesOfCopies:
    """Exact distances of one image after another.

    Between copies of two embeddings they are computed once, as long as those of the first follow
    one another.
    """

    def __init__(self, exact: distances.Metric, embs: np.ndarray, first_copy: np.ndarray):
        self._exact = exact
        self._embs = embs
        self._first_copy = first_copy
        self._first = -1  # of the copies whose distances are known
        self._known = np.empty(len(embs))  # distances to first copies, or NaN

    def __call__(self, image: int, others: np.ndarray) -> np.ndarray:
        """Of one image to others, int [n]: float64 [n]."""
        if self._first_copy[image] != self._first:
            self._first = self._first_copy[image]
            self._known.fill(np.nan)
        firsts = self._first_copy[others]
        unknown = np.flatnonzero(np.bincount(firsts[np.isnan(self._known[firsts])]))
        emb = self._embs[image].astype(np.float64)
        size = max(1, 2**15 // len(emb))  # whose differences fit into a processor's cache
        for start in range(0, len(unknown), size):
            part = unknown[start : start + size]
            self._known[part] = self._exact.distances(emb, part)
        return self._known[firsts]


def _nearest_of(
    of_copies: _DistancesOfCopies, image: int, bounds: np.ndarray, k: int
) -> np.ndarray:
    """The k nearest of one image, by lower bounds [N] of all, in memory for one."""
    bounds[image] = -np.inf
    limit = _limits(bounds[None], k)[0]
    kth = np.sort(of_copies(image, np.flatnonzero(bounds <= limit)))[k - 1]
    candidates = np.flatnonzero(bounds <= max(kth, limit))
    dists = of_copies(image, candidates)
    dists[candidates == image] = -np.inf
    return candidates[np.argsort(dists, kind="stable")[:k]]


# lower_bounds(block, first): of the distances between n images, a slice or their numbers, and those
# from `first` on, [n, N - first]. The array is that of the thread: the next call writes it anew.
_LowerBounds = Callable[[slice | np.ndarray, int], np.ndarray]

# widened(block, limits): such that a distance, whose lower bound is at most the limit, is below.
_Widened = Callable[[slice, np.ndarray], np.ndarray]


def _lower_bounds(embs: np.ndarray, metric: str) -> tuple[_LowerBounds, _Widened]:
    """Bounds from below of the distances between `embs` [N, D], and how close they are."""
    if metric == "cityblock":

        def of_block(block: slice | np.ndarray, first: int) -> np.ndarray:
            to_others = distances.METRICS[metric](embs[first:])
            bounds = to_others.lower_bounds(embs[block].astype(np.float64))
            bounds *= 1 - 1e-7  # float32 may round them up by less
            return bounds.astype(np.float32)

        return of_block, lambda block, limits: limits * 1.000001

    # Squared Euclidean distances in float32, by the binomial formula. For "cosine" half of them,
    # between embeddings of length 1. distances.py does the same in float64 and explains it. Two
    # more columns make the sum with the squares of both images a part of the product.
    N, D = embs.shape
    scaled = distances.unit_length if metric == "cosine" else np.asarray
    parts = list(distances.row_slices(embs, 2**18))
    mean = sum(scaled(embs[part]).sum(axis=0, dtype=np.float64) for part in parts) / N
    points = np.empty((N, D + 2), np.float32)
    for part in parts:
        points[part, :D] = scaled(embs[part]) - mean
    points[:, :D] *= np.float32(0.5**0.5 if metric == "cosine" else 1)
    tolerance = 2 * (D + 16) * np.finfo(np.float32).eps
    squares = np.einsum("ij,ij->i", points[:, :D], points[:, :D]) * np.float32(1 - tolerance)
    points[:, D] = squares
    points[:, D + 1] = 1
    buffers = threading.local()

    def process_block(block: slice | np.ndarray, first: int) -> np.ndarray:
        left = -2 * points[block]
        left[:, D] = 1
        left[:, D + 1] = squares[block]
        shape = (len(left), N - first)
        size = shape[0] * shape[1]
        if getattr(buffers, "bounds", None) is None or buffers.bounds.size < size:
            buffers.bounds = np.empty(size, np.float32)
        return np.matmul(left, points[first:].T, out=buffers.bounds[:size].reshape(shape))

    def widened(block: slice, limits: np.ndarray) -> np.ndarray:
        # Twice the tolerance of both squares. That of the other is at most twice the sum of this
        # square and the distance.
        return limits + tolerance * (6 * squares[block] + 4 * limits)

    return process_block, widened


def _limits(bounds: np.ndarray, k: int) -> np.ndarray:
    """Close upper bounds on the k-th smallest of each row of `bounds` [n, N]: [n].

    They are the k-th smallest of the minima of many groups, which takes a tenth of the time of a
    partition of the rows. A group is every so-many-th image, since those of one person often stand
    together.
    """
    n, N = bounds.shape
    groups = 4 * k
    width = N // groups
    if width < 2:
        return np.full(n, np.inf)
    # Minima over long rows first: NumPy takes them many at a time.
    long = max(factor for factor in range(1, 33) if width // factor > 0)
    rows = N // (groups * long)
    used = bounds[:, : rows * groups * long].reshape(n, rows, groups * long)
    minima = used.min(axis=1).reshape(n, long, groups).min(axis=1)
    return np.partition(minima, k - 1, axis=1)[:, k - 1]


def queries_in_gallery(
    query_files: Sequence[str],
    query_embs: np.ndarray,
    gallery_files: Sequence[str],
    gallery_embs: np.ndarray,
) -> np.ndarray:
    """For each gallery image the number of the query that it is, -1 where it is none: int [G].

    They are the same if both file and embedding are: files of two folders can have one name.

    Args:
        query_files, gallery_files: [Q], [G], equal where the file is (pipeline.file_names_of).
        query_embs, gallery_embs: [Q, D], [G, D].
    """
    number = {file: query for query, file in enumerate(query_files)}
    same = np.array([number.get(file, -1) for file in gallery_files])
    for image in np.flatnonzero(same >= 0):
        if not np.array_equal(query_embs[same[image]], gallery_embs[image]):
            same[image] = -1
    return same


def distinct(
    query_embs: np.ndarray, gallery_embs: np.ndarray, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | slice]:
    """Each image of queries and gallery once: one that is in both would be its own neighbor.

    Args:
        query_embs, gallery_embs: [Q, D], [G, D].
        same: as queries_in_gallery returns it; None when no query is in the gallery.

    Returns:
        The embeddings [N, D], the queries first, and the rows of the gallery images among them.
    """
    Q = len(query_embs)
    if same is None or (same < 0).all():
        return np.concatenate([query_embs, gallery_embs]), slice(Q, None)
    other = same < 0
    gallery_rows = np.where(other, Q - 1 + other.cumsum(), same)
    return np.concatenate([query_embs, gallery_embs[other]]), gallery_rows


def expand(embs: np.ndarray, k: int, alpha: float, batch_size: int = 256) -> np.ndarray:
    """Average query expansion: each embedding becomes the weighted mean of its k nearest.

    The weight is s^alpha of the cosine s, and 0 where s is below 0 (Radenović et al., Fine-tuning
    CNN Image Retrieval with No Human Annotation). The sum is divided by k, as in fast-reid.

    Args:
        embs: [N, D], finite; of queries and gallery, which are expanded from one another.
        k: >= 1, the image itself counted.
        alpha: >= 0.
        batch_size: as for nearest.

    Returns:
        float32 [N, D].
    """
    order, _ = nearest(embs, k, "cosine", batch_size)
    expanded = np.empty(embs.shape, np.float32)

    def process_block(block: slice) -> None:
        near = embs[order[block]].astype(np.float64)  # [rows, k, D]
        lengths = np.linalg.norm(near, axis=2)
        lengths[lengths == 0] = 1
        cosines = np.einsum("rd,rkd->rk", near[:, 0], near) / (lengths[:, :1] * lengths)
        weights = np.maximum(cosines, 0) ** alpha
        expanded[block] = np.einsum("rk,rkd->rd", weights, near) / order.shape[1]

    numbers_per_row = order.shape[1] * embs.shape[1]
    distances.map_blocks(process_block, len(embs), numbers_per_row, min(batch_size, 64))
    return expanded
