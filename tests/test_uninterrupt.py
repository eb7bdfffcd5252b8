import os
import signal
import subprocess
import sys

import pytest

from uninterrupt import Uninterrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_sets_the_flag(number, capfd):
    before = signal.getsignal(number)
    with Uninterrupt() as u:
        assert not u.interrupted
        os.kill(os.getpid(), number)
        assert u.interrupted
    assert signal.getsignal(number) is before
    assert signal.Signals(number).name in capfd.readouterr().err


def test_handlers_come_back_after_an_error_too():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), Uninterrupt():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is before


def test_quiet(capfd):
    with Uninterrupt(signals=[signal.SIGUSR1], verbose=False) as u:
        os.kill(os.getpid(), signal.SIGUSR1)
    assert u.interrupted and capfd.readouterr().err == ""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_kills_at_once(second):
    code = (
        "import os, signal, time\n"
        "from uninterrupt import Uninterrupt\n"
        "with Uninterrupt() as u:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('first', u.interrupted, flush=True)\n"
        f"    os.kill(os.getpid(), {int(second)})\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "first True\n"
    assert done.returncode == -second
