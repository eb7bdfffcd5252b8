"""The columns pid and camera of the CSV: same pid and same camera, and junk, are ignored.

Junk is an image whose pid or camera is -1, in one of several sets also 1:-1, 2:-1 and so on. File
names play no part.
"""

import re
from collections.abc import Sequence

import numpy as np

from excluders._camera import JUNK
from excluders._same import Same

BY_COLUMN = True


class Excluder:
    def __init__(self, gallery_keys: Sequence[tuple[str, str]]):
        self._same = Same(gallery_keys)
        self.junk = np.array([_is_junk(*key) for key in gallery_keys], bool)

    def __call__(self, query_keys: Sequence[tuple[str, str]]) -> np.ndarray:
        return self._same(query_keys) | self.junk

    def keys(self, keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Pid and camera of each image."""
        return list(keys)


def _is_junk(pid: str, camera: str) -> bool:
    return camera == JUNK or re.fullmatch(rf"(\d+:)?{JUNK}", pid) is not None
