import os
import signal
import subprocess
import sys
import time

import pytest

from uninterrupt import Uninterrupt


def wait_for(condition):
    """The flag is set by another thread, within no time."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_first_signal_only_sets_the_flag(number, capfd):
    # Where the tests run in the background or under nohup, some signals are ignored.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with Uninterrupt() as u:
            assert not u.interrupted
            os.kill(os.getpid(), number)
            wait_for(lambda: u.interrupted)
            assert u.number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert signal.Signals(number).name in capfd.readouterr().err


def test_a_hang_up_is_sent_twice_and_ends_nothing_at_once(capfd):
    with Uninterrupt() as u:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: u.interrupted)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        assert u.number == signal.SIGTERM
    assert capfd.readouterr().err.count("received") == 1


def test_under_nohup_a_hang_up_is_not_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Uninterrupt() as u:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_for(lambda: u.interrupted)
            assert u.number == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back_after_an_error_too():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), Uninterrupt():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is before


def test_quiet(capfd):
    with Uninterrupt(signals=[signal.SIGUSR1], verbose=False) as u:
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: u.interrupted)
    assert capfd.readouterr().err == ""


BUSY = {
    "in Python": "while True: pass",
    # Minutes in C, as TensorFlow takes while it compiles.
    "outside of Python": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
}


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(second, busy):
    code = (
        "from uninterrupt import Uninterrupt\n"
        "with Uninterrupt() as u:\n"
        "    print('in', flush=True)\n"
        f"    {BUSY[busy]}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGINT)
        assert "SIGINT received" in process.stderr.readline()
        process.send_signal(second)
        assert process.wait(timeout=30) == 128 + second


def test_a_signal_between_iterations_ends_the_loop_after_one():
    code = (
        "from uninterrupt import Uninterrupt\nimport time\n"
        "with Uninterrupt() as u:\n"
        "    for i in range(10**6):\n"
        "        print(i, flush=True)\n"
        "        time.sleep(0.01)\n"
        "        if u.interrupted: break\n"
        "print('saved')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().endswith("saved\n")
        assert process.wait(timeout=30) == 0
