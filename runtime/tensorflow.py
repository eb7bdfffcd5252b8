"""TensorFlow's import, without what it prints, and with the memory allocator that suits loading
images.
"""

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

# Read when Keras is imported, which is after this module.
os.environ["KERAS_BACKEND"] = "tensorflow"


def import_tensorflow(log_level: int = 2) -> ModuleType:
    """Import TensorFlow, which takes seconds, without the notes to its developers that it prints
    meanwhile.

    With TF_CPP_MIN_LOG_LEVEL set it says what it has to say.

    Args:
      log_level: what it may say later: 2 errors, 3 nothing (what ends a call is raised as an
          exception anyway).
    """
    _keep_freed_memory()
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return importlib.import_module("tensorflow")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = str(log_level)
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # the notes come from C++, before any level that could be set holds
    try:
        with _interrupted_afterwards():
            tf = importlib.import_module("tensorflow")
        # Without a driver it complains of that, too, as soon as it looks for GPUs; with one it may
        # have a reason.
        if not any(os.path.exists(driver) for driver in ("/proc/driver/nvidia", "/dev/dxg")):
            tf.config.list_physical_devices()
        return tf
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Ctrl-C counts at the end. Within the import of TensorFlow it now and then got lost."""
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _keep_freed_memory() -> None:
    """Have malloc keep what is freed for the next batch.

    Threads that load images free and take memory all the time, and giving each piece back to the
    system halted them
    all: with it reading and decoding took twice as long. The peak is the same.
    """
    trim_threshold, top_pad, mmap_threshold = (
        -1,
        -2,
        -3,
    )  # of glibc's malloc.h; other systems have no mallopt
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(top_pad, 2**26)
        libc.mallopt(mmap_threshold, 2**25)  # the most that it takes
