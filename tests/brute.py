"""What evaluate.py offers, by its definitions: plain loops over all pairs, in float64."""

import math
from decimal import Decimal
from operator import mul

import numpy as np


def distances(a, b, metric):
    """[n, m]; for "euclidean" squared, as distances.METRICS has them."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "cosine":
        return 1 - a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    diffs = a[:, None] - b[None]
    return np.abs(diffs).sum(axis=-1) if metric == "cityblock" else np.square(diffs).sum(axis=-1)


def exact_distance(a, b, metric):
    """Of two embeddings, number by number and without rounding errors that matter."""
    if metric == "cosine":
        a = [Decimal(float(x)) for x in a]
        b = [Decimal(float(x)) for x in b]
        squares = sum(map(mul, a, a)) * sum(map(mul, b, b))
        return float(round(1 - sum(map(mul, a, b)) / (squares.sqrt() or 1), 20))
    diffs = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    if metric == "cityblock":
        return sum(abs(diff) for diff in diffs)
    squared = sum(diff * diff for diff in diffs)
    return math.sqrt(squared) if metric == "euclidean" else squared


def expand(embs, k, alpha):
    embs = embs.astype(np.float64)
    cosines = 1 - distances(embs, embs, "cosine")
    expanded = []
    for row in cosines:
        best = sorted(range(len(embs)), key=lambda i: -row[i])[:k]
        expanded.append(sum(max(row[i], 0) ** alpha * embs[i] for i in best) / len(best))
    return np.array(expanded)


def rerank(query, gallery, metric, k1, k2, weight):
    """The paper's definitions with sets and full matrices: [Q, G]."""
    embs = np.concatenate([query, gallery])
    dists = np.maximum(distances(embs, embs, metric), 0)
    if metric == "cityblock":
        dists **= 2
    dists /= dists.max(axis=1, keepdims=True)
    everyone = range(len(embs))
    order = [sorted(everyone, key=lambda j: (j != i, dists[i, j])) for i in everyone]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encoding = np.zeros(dists.shape)
    for i in everyone:
        core = reciprocal(i, k1)
        neighborhood = set(core)
        for candidate in core:
            theirs = reciprocal(candidate, round(k1 / 2))
            if 3 * len(theirs & core) > 2 * len(theirs):
                neighborhood |= theirs
        for j in neighborhood:
            encoding[i, j] = np.exp(-dists[i, j])
        encoding[i] /= encoding[i].sum()
    encoding = np.array([encoding[order[i][:k2]].mean(axis=0) for i in everyone])

    final = np.empty((len(query), len(gallery)))
    for i, a in enumerate(encoding[: len(query)]):
        for j, b in enumerate(encoding[len(query) :]):
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            final[i, j] = (1 - weight) * jaccard + weight * dists[i, len(query) + j]
    return final


def pool(rows, embs, how):
    """The queries [(pid, camera)] and embeddings that are left when those of one pid and camera are
    one.
    """
    groups = {}
    for row, emb in zip(rows, embs.astype(np.float64), strict=True):
        groups.setdefault(row, []).append(emb)
    return list(groups), np.array(
        [getattr(np.array(group), how)(axis=0) for group in groups.values()]
    )


def score(dists, query_rows, gallery_rows):
    """AP, n / r_n, MAP@R, R-precision, and the rank of the first match of every query; None without a
    match. Rows are (pid, camera).
    """
    figures = []
    for row, (pid, camera) in zip(dists, query_rows, strict=True):
        kept = [j for j, (p, c) in enumerate(gallery_rows) if p != "-1" and (p, c) != (pid, camera)]
        kept.sort(key=lambda j: (row[j], gallery_rows[j][0] == pid))
        ranks = [rank for rank, j in enumerate(kept, 1) if gallery_rows[j][0] == pid]
        n = len(ranks)
        ap = n and sum(i / rank for i, rank in enumerate(ranks, 1)) / n
        map_at_r = found = 0
        for seen, j in enumerate(kept[:n], 1):
            if gallery_rows[j][0] == pid:
                found += 1
                map_at_r += found / seen / n
        figures.append((ap, n / ranks[-1], map_at_r, found / n, ranks[0]) if n else None)
    return figures
