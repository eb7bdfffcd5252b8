"""Market-1501: same pid and same camera, and junk (pid -1), are ignored. The sequence S plays no part."""

from functools import partial

from excluders._camera import CameraExcluder

Excluder = partial(CameraExcluder, r"(.+)_c(\d+)s\d+_", "PID_cCsS_, as 0001_c1s1_001051_00.jpg does")
