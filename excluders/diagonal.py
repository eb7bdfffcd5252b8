"""Only the query image itself is ignored, for queries that are a part of the gallery.

Fids may be anything; no cameras are read. `./x.jpg` is `x.jpg`.
"""

from collections.abc import Sequence

import numpy as np

from data import fids
from excluders._same import Same

BY_FILE = True


class Excluder:
    def __init__(self, gallery_fids: Sequence[str]):
        self._same = Same(fids.normalized(gallery_fids))

    def __call__(self, query_fids: Sequence[str]) -> np.ndarray:
        return self._same(fids.normalized(query_fids))
