"""Ctrl-C that lets a loop finish what it is doing.

with Uninterrupt() as u:
    while not u.interrupted:
        work()
"""

import os
import signal
import threading
from collections.abc import Iterable

from runtime import terminal


class Uninterrupt:
    """Within the context the first signal sets `interrupted`; a second one ends the process at
    once.

    Signals are heard even while Python waits for TensorFlow, which can take a minute to compile its
    first step. Afterwards the handlers are as they were before. Only the main thread can receive
    signals, so enter it there.

    Args:
      signals: what to take; by default what a person (Ctrl-C) and a cluster (preemption) send.
      verbose: say on stderr that the signal was heard, else it looks as if nothing happened.
    """

    def __init__(
        self, signals: Iterable[int] = (signal.SIGINT, signal.SIGTERM), verbose: bool = True
    ):
        self.interrupted = False
        self._signals = tuple(signals)
        self._verbose = verbose

    def __enter__(self) -> "Uninterrupt":
        self.interrupted = False
        # A Python handler would run only once TensorFlow returns. The number of a signal is written
        # to this pipe at once, and read by a thread; so the handler itself has nothing to do.
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write_end)
        self._handlers_before = {
            number: signal.signal(number, lambda *_: None) for number in self._signals
        }
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._write_end)  # ends the listener
        self._listener.join()
        os.close(self._read_end)

    def _listen(self) -> None:
        while received := os.read(self._read_end, 1):
            number = received[0]
            if number not in self._signals:
                continue
            if self.interrupted:
                # Not sys.exit, which would end this thread alone. The status is that of a process
                # that a signal ended.
                os._exit(128 + number)
            self.interrupted = True
            if self._verbose:
                name = signal.Signals(number).name
                terminal.say(
                    f"{name} received: finishing the current iteration. Once more ends at once."
                )
