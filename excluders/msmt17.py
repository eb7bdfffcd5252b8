"""MSMT17: same pid and same camera are ignored."""

from functools import partial

from excluders._camera import CameraExcluder

Excluder = partial(CameraExcluder, "msmt17")
