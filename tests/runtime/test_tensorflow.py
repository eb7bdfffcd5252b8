import os
import re
import signal
import subprocess
import sys

import pytest
from paths import PROJECT

from runtime import tensorflow


@pytest.fixture
def ctrl_c_is_heard():
    """Where the tests run in the background, it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_within_an_import_counts_after_it(ctrl_c_is_heard):
    with pytest.raises(KeyboardInterrupt), tensorflow._interrupted_afterwards():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise AssertionError("too early") from None
        through = True
    assert through and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with tensorflow._interrupted_afterwards():
        pass


def test_the_import_prints_nothing_and_errors_are_printed_again():
    code = (
        "import gc, os, sys\n"
        "from runtime.tensorflow import import_tensorflow\n"
        "tf = import_tensorflow()\n"
        "assert gc.isenabled() and not any('matplotlib' in name for name in sys.modules)\n"
        "import matplotlib.figure\n"
        "os.write(2, tf.keras.backend.backend().encode())\n"
    )
    environment = {key: os.environ[key] for key in os.environ if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=environment
    )
    assert (done.stdout, done.stderr) == ("", "tensorflow")


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_malloc_is_left_alone_where_it_has_no_such_options(monkeypatch, platform):
    def no_library(name):
        raise AssertionError("not to be loaded")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(tensorflow.ctypes, "CDLL", no_library)
    tensorflow._keep_freed_memory()


@pytest.mark.parametrize(
    "driver, device, visible, expected",
    [
        (False, False, None, None),
        (False, True, "", None),
        (True, True, "", "CUDA_VISIBLE_DEVICES=.* hides it"),
        (True, True, "-1", "CUDA_VISIBLE_DEVICES=-1 hides it"),
        (True, True, "0", "pip install 'tensorflow.and-cuda.*"),
        (True, True, None, "pip install 'tensorflow.and-cuda.*"),
        (True, False, None, "no .*nvidiactl.*--gpus all"),
    ],
)
def test_a_gpu_that_is_there_and_not_used(driver, device, visible, expected, tmp_path, monkeypatch):
    for name, is_there in (("driver", driver), ("nvidiactl", device)):
        if is_there:
            (tmp_path / name).touch()
    monkeypatch.setattr(tensorflow, "_GPU_DRIVERS", (str(tmp_path / "driver"),))
    monkeypatch.setattr(tensorflow, "_GPU_DEVICES", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    reason = tensorflow.why_no_gpu()
    assert reason is None if expected is None else re.search(expected, reason)


def test_a_driver_without_its_kernel_module_counts_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorflow, "_GPU_DRIVERS", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tensorflow.why_no_gpu() is not None
