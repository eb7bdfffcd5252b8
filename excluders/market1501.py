"""Market-1501: same pid and same camera, and junk (pid -1), are ignored.

The sequence S plays no part.
"""

from functools import partial

from excluders._camera import CameraExcluder

Excluder = partial(CameraExcluder, "market1501")
