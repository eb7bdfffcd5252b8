"""The import of TensorFlow: without its noise, and with malloc set for loading images."""

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
    """Import TensorFlow, which takes seconds, without the notes to its developers.

    With TF_CPP_MIN_LOG_LEVEL in the environment, it prints what that level allows.

    Args:
        log_level: what it may print later. 2: errors. 3: nothing; errors that end a call are
            exceptions anyway.
    """
    _keep_freed_memory()
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return importlib.import_module("tensorflow")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = str(log_level)
    # The notes come from C++, before any level is heeded: only a redirection silences them.
    with _silent_stderr():
        with _interrupted_afterwards():
            tf = importlib.import_module("tensorflow")
        # Without a driver it complains when it first looks for GPUs; with one, it may have a reason
        # to.
        if not any(os.path.exists(driver) for driver in ("/proc/driver/nvidia", "/dev/dxg")):
            tf.config.list_physical_devices()
    return tf


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Ctrl-C counts at the end. During TensorFlow's import it was sometimes swallowed."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupts = []
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupts:
        raise KeyboardInterrupt


def _keep_freed_memory() -> None:
    """Have malloc keep freed memory for the next batch.

    Threads that load images allocate and free all the time. Each piece that went back to the system
    halted all of them: reading and decoding took twice as long. The peak is the same.
    """
    if sys.platform != "linux":
        return  # mallopt is glibc's
    # The numbers of the options in glibc's malloc.h.
    trim_threshold = -1
    top_pad = -2
    mmap_threshold = -3
    with contextlib.suppress(AttributeError):  # another C library, such as musl
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(top_pad, 2**26)
        libc.mallopt(mmap_threshold, 2**25)  # the most that it takes
