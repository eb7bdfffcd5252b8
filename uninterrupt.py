"""Ctrl-C that lets a loop finish what it is doing.

with Uninterrupt() as u:
    while not u.interrupted:
        work()
"""

import signal
import sys
from collections.abc import Iterable
from types import FrameType


class Uninterrupt:
    """Within the context the first signal sets `interrupted`; a second one has its usual effect: it kills at once.

    Afterwards the handlers are as they were before. Only the main thread can receive signals, so enter it there.

    Args:
      signals: what to take; by default what a person (Ctrl-C) and a cluster (preemption) send.
      verbose: say on stderr that the signal was heard, else it looks as if nothing happened.
    """

    def __init__(self, signals: Iterable[int] = (signal.SIGINT, signal.SIGTERM), verbose: bool = True):
        self.interrupted = False
        self._signals = tuple(signals)
        self._verbose = verbose
        self._before = {}

    def __enter__(self) -> "Uninterrupt":
        self.interrupted = False
        self._before = {number: signal.signal(number, self._first) for number in self._signals}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        # The default action and not Python's handler, which would have to wait for TensorFlow to return.
        for other in self._signals:
            signal.signal(other, signal.SIG_DFL)
        if self._verbose:
            name = signal.Signals(number).name
            print(f"{name} received: finishing the current iteration. Once more ends at once.", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
