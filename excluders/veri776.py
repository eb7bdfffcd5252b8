"""VeRi-776: same vehicle (pid) and same camera are ignored."""

from functools import partial

from excluders._camera import CameraExcluder

Excluder = partial(CameraExcluder, "veri776")
