import os
import signal
import subprocess
import sys

import pytest
from paths import PROJECT

from runtime import tensorflow


def test_ctrl_c_within_an_import_counts_after_it():
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
        "import os\n"
        "from runtime.tensorflow import import_tensorflow\n"
        "tf = import_tensorflow()\n"
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
