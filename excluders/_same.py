"""Ignore the gallery images that have the same key as the query."""

from collections.abc import Hashable, Sequence

import numpy as np


class Same:
    """`Same(gallery_keys)(query_keys) -> bool [Q, G]`, True where the keys are equal."""

    def __init__(self, gallery_keys: Sequence[Hashable]):
        # Integers in place of keys, since an evaluation compares all pairs of them.
        self._codes = {}
        self._gallery = np.array(
            [self._codes.setdefault(key, len(self._codes)) for key in gallery_keys], np.int32
        )

    def __call__(self, query_keys: Sequence[Hashable]) -> np.ndarray:
        query = np.array([self._codes.get(key, -1) for key in query_keys], np.int32)
        return query[:, None] == self._gallery
