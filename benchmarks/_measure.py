"""What the benchmarks share: the time of several ways to do one job, measured in turns."""

import statistics
import time
from collections.abc import Callable


def medians(
    ways: dict[str, Callable[[], object]],
    rounds: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each way, by its name.

    The ways take turns, so that what else the machine does falls on all of them alike. A first
    round, in which functions are traced and files come into memory, does not count. A way should
    end with its result there: fetch the tensor, do not leave it to be computed. What it returns is
    let go of after its time.
    """
    seconds = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, run in ways.items():
            began = clock()
            result = run()
            seconds[name].append(clock() - began)
            del result
    return {name: statistics.median(measured[1:]) for name, measured in seconds.items()}
