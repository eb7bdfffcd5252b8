"""The import of TensorFlow: without its noise, and with malloc set for loading images."""

import contextlib
import ctypes
import gc
import importlib
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

# Read when Keras is imported, which is after this module.
os.environ["KERAS_BACKEND"] = "tensorflow"


CUDA_REQUIREMENT = "tensorflow[and-cuda]>=2.21,<2.22"
_GPU_DRIVERS = ("/proc/driver/nvidia", "/dev/dxg")
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")


def import_tensorflow(log_level: int = 2) -> ModuleType:
    """Import TensorFlow, which takes seconds, without the notes to its developers.

    With TF_CPP_MIN_LOG_LEVEL in the environment, it prints what that level allows.

    Args:
        log_level: what it may print later. 2: errors. 3: nothing; errors that end a call are
            exceptions anyway.
    """
    _keep_freed_memory()
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        with _quickly():
            return importlib.import_module("tensorflow")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = str(log_level)
    # The notes come from C++, before any level is heeded: only a redirection silences them.
    with _silent_stderr():
        with _interrupted_afterwards(), _quickly():
            tf = importlib.import_module("tensorflow")
        # Without a driver it complains when it first looks for GPUs; with one, it may have a reason
        # to.
        if not has_gpu_driver():
            tf.config.list_physical_devices()
    return tf


def has_gpu_driver() -> bool:
    """Whether the driver of an NVIDIA GPU is loaded: Linux's, or that of Windows beneath WSL."""
    return any(os.path.exists(driver) for driver in _GPU_DRIVERS)


def why_no_gpu() -> str | None:
    """Why TensorFlow lists no GPU although there is one, with the remedy; None where there is none.

    Call it where it lists none.
    """
    if not has_gpu_driver() and shutil.which("nvidia-smi") is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-")):
        return f"CUDA_VISIBLE_DEVICES={shlex.quote(visible)} hides it. Unset it to use the GPU."
    if not any(os.path.exists(device) for device in _GPU_DEVICES):
        return (
            f"this system or container has no {_GPU_DEVICES[0]}. Start a container with "
            "`--gpus all`, a SLURM job with --gpus."
        )
    return (
        "TensorFlow does not find CUDA's libraries, or not those that it needs. Install them: pip "
        f"install '{CUDA_REQUIREMENT}'. TF_CPP_MIN_LOG_LEVEL=0 in the environment tells more."
    )


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
def _quickly() -> Iterator[None]:
    """A context of imports that take two thirds of the time: none looks for garbage among what stays,
    nor imports Matplotlib, by which Keras could draw what nobody asks for here.
    """
    hidden = "matplotlib" not in sys.modules
    collects = gc.isenabled()
    gc.disable()
    if hidden:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]  # so that it is not found
    try:
        yield
    finally:
        if hidden:
            del sys.modules["matplotlib"]
        if collects:
            gc.enable()


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
