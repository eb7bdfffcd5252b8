"""Ctrl-C that lets a loop finish what it is doing.

with Uninterrupt() as u:
    while not u.interrupted:
        work()
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable

import common
from runtime import terminal


class Uninterrupt:
    """A context in which the first signal sets `interrupted`; the second ends the process at once.

    A second SIGHUP or SIGUSR1 does not: a terminal that is closed sends its signal twice, and a
    scheduler its warning perhaps, too.

    Signals are heard even while Python waits for TensorFlow, which can take a minute to compile its
    first step. At the end the handlers are again those from before. Only the main thread can
    receive signals, so enter the context there.

    Args:
        signals: those to listen to; by default what a person (Ctrl-C, a terminal that is closed)
            and a cluster (preemption) send. SIGHUP that is ignored (nohup) stays so.
        verbose: say on stderr that the signal was heard; otherwise nothing seems to happen.

    Attributes:
        number: of the first signal; 0 before.
    """

    def __init__(
        self,
        signals: Iterable[int] = (signal.SIGINT, *common.ENDING_SIGNALS),
        verbose: bool = True,
    ):
        self.number = 0
        self._signals = tuple(number for number in signals if not common.is_ignored(number))
        self._verbose = verbose

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self.number != 0

    def __enter__(self) -> "Uninterrupt":
        self.number = 0
        # A Python handler would run only once TensorFlow returns. Python writes the number of a
        # signal to this socket at once, and a thread reads it; so the handler has nothing to do.
        self._numbers, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup.fileno())
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
        self._wakeup.close()  # ends the listener
        self._listener.join()
        self._numbers.close()

    def _listen(self) -> None:
        while received := self._numbers.recv(1):
            number = received[0]
            if number not in self._signals:
                continue
            if self.interrupted and number not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self.interrupted:
                # Not sys.exit, which would end this thread alone. The status is that of a process
                # that a signal ended.
                os._exit(128 + number)
            self.number = number
            if self._verbose:
                name = signal.Signals(number).name
                with contextlib.suppress(OSError):  # the terminal is gone
                    terminal.say(
                        f"{name} received: finishing the current iteration. Press again to quit "
                        "immediately."
                    )
