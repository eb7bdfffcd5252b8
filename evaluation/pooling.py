"""From the embeddings of an image's variants (flips, crops) to one: [A, N, D] -> [N, D], float32,
NumPy.
"""

import numpy as np


def mean(embs: np.ndarray) -> np.ndarray:
    return embs.mean(axis=0)


def normalized_mean(embs: np.ndarray) -> np.ndarray:
    """The mean, scaled to length 1 (left at 0 where it is 0)."""
    emb = mean(embs)
    length = np.linalg.norm(emb, axis=-1, keepdims=True)
    return emb / np.where(length == 0, 1, length)


AGGREGATORS = {function.__name__: function for function in (mean, normalized_mean)}
