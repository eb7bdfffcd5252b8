"""Ignore the gallery images that show the query's person in the query's camera, and junk."""

from collections.abc import Sequence

import numpy as np

from common import UserError
from data import cameras
from excluders._same import Same

JUNK = "-1"  # the pid of an image that shows nobody


class CameraExcluder:
    """The rule for data sets whose file names begin with person and camera.

    Both are read from the base name of the fid, not from the CSV, as in the original.

    Args:
        pattern: a name of cameras.PATTERNS.
        gallery_fids: the fids of the gallery.
    Raises:
        UserError for the first fid that does not match it; calling raises it for queries.
    """

    def __init__(self, pattern: str, gallery_fids: Sequence[str]):
        self._pattern = pattern
        keys = self.keys(gallery_fids)
        self._same = Same(keys)
        self.junk = np.array([pid == JUNK for pid, _ in keys], bool)

    def __call__(self, query_fids: Sequence[str]) -> np.ndarray:
        ignored = self._same(self.keys(query_fids))
        ignored |= self.junk
        return ignored

    def keys(self, fids: Sequence[str]) -> list[tuple[str, str]]:
        """Pid and camera of each fid."""
        keys = []
        for fid in fids:
            key = cameras.pid_and_camera(self._pattern, fid)
            if key is None:
                raise UserError(
                    f"a file name should begin with {cameras.PATTERNS[self._pattern].words}. Received: {fid!r}. "
                    "Choose the --excluder that fits the data set; diagonal is for images without cameras."
                )
            keys.append(key)
        return keys
