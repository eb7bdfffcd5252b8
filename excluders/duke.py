"""DukeMTMC-reID: same pid and same camera, and junk (pid -1), are ignored."""

from functools import partial

from excluders._camera import CameraExcluder

Excluder = partial(CameraExcluder, "duke")
