"""DukeMTMC-reID: same pid and same camera, and junk (pid -1), are ignored."""

from functools import partial

from excluders._camera import CameraExcluder

Excluder = partial(CameraExcluder, r"(.+)_c(\d+)_", "PID_cC_, as 0001_c2_f0046182.jpg does")
