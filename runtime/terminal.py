"""What a person sees: log lines, and one live line on a terminal, below all others.

Into a file or a pipe nothing of the live line is written.
"""

import contextlib
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm

import common


class _Bar(tqdm):
    monitor_interval = 0  # no thread beside it: update may redraw the line each time

    def __init__(self, images_per_step: int, **options):
        self._images_per_step = images_per_step
        super().__init__(**options)

    @property
    def format_dict(self) -> dict:
        values = super().format_dict
        steps = values["rate"] or (self.n - self.initial) / max(values["elapsed"], 1e-9)
        images = steps * self._images_per_step
        # Room for ^C: a line that wraps stays behind.
        width = values["ncols"] and max(values["ncols"] - 2, 1)
        text = f"{images:.0f}" if images >= 10 else f"{images:.1f}"
        return values | {"images": text, "ncols": width}

    def clear(self, nolock: bool = False) -> None:
        """Take the line away, and what a terminal wrote at its end: the ^C of Ctrl-C."""
        super().clear(nolock=nolock)
        if not self.disable and self.ncols:
            self.fp.write(f"\r{' ' * self.ncols}\r")


def bar(
    total: int,
    unit: str,
    initial: int = 0,
    images_per_step: int = 1,
    show: bool = True,
    delay: float = 0,
    leave: bool = True,
) -> tqdm:
    """The live line: steps done of `total`, images per second, time left. A context, to be told of
    steps by update(n).

    What set_postfix_str(text, refresh=False) is given stands at its end. Speed and time left are
    smoothed, over about the last twenty times that the line was drawn, ten times a second at most.

    Args:
      unit: what a step is, "iter" or "img".
      initial: steps that an earlier run did.
      images_per_step: for the images per second.
      show: False for none on a terminal either.
      delay: seconds until the line appears; what is done before then shows none.
      leave: whether the line stays at its end.
    """
    return _Bar(
        images_per_step,
        desc=unit,
        total=total,
        initial=initial,
        bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {images} img/s, {remaining} left{postfix}",
        smoothing=0.05,
        miniters=1,
        dynamic_ncols=True,
        delay=delay,
        leave=leave,
        position=0,  # also where another one is paused
        disable=None if show else True,  # None: unless stderr is a terminal
    )


@contextlib.contextmanager
def paused(bar: tqdm) -> Iterator[None]:
    """Take a live line away; its speed and time left do not count what happens meanwhile."""
    if bar.disable:
        yield
        return
    bar.clear()
    bar.disable = True
    began = bar._time()
    try:
        yield
    finally:
        seconds = bar._time() - began
        bar.start_t += seconds
        bar.last_print_t += seconds
        bar.disable = False


def say(line: str) -> None:
    """Write a line to stderr, above the live one where there is one."""
    tqdm.write(line, file=sys.stderr)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: columns aligned to the left, two spaces apart.

    What a terminal would obey is shown as common.visible does.
    """
    rows = [[common.visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


# ------------------------------------------------------------------------- the log

# The one log of the project. Without setup_logging, in a notebook say, Python prints its warnings.
log = logging.getLogger("triplet_reid")

# As `extra` of a record: a terminal's live line shows the same, so it goes only to the file.
ON_LIVE_LINE = {"on_live_line": True}
# As `extra` of a record: it goes only to the file, wherever stderr leads.
ONLY_IN_FILE = {"only_in_file": True}


class _Formatter(logging.Formatter):
    """`time [LEVEL] command: message`, with the level in color where a person watches."""

    _COLORS = {
        "WARNING": "\033[33m",
        "ERROR": "\033[31m",
        "CRITICAL": "\033[31m",
        "INFO": "\033[32m",
    }

    def __init__(self, command: str, color: bool):
        super().__init__(f"%(asctime)s [%(levelname)s] {command}: %(message)s")
        self.command = command
        self._color = color

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = common.visible(record.message)  # it may have names of files
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if not self._color or record.levelname not in self._COLORS:
            return line
        level = f"[{record.levelname}]"
        return line.replace(level, f"{self._COLORS[record.levelname]}{level}\033[0m", 1)


class _Screen(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record))
        except Exception:
            self.handleError(record)  # a reader who left, say: no reason to end a training


class _LogFile(logging.FileHandler):
    """Raises an error, such as a full disk, where logging would print a traceback and go on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, logging's
        raise  # noqa: PLE0704, logging calls this while it handles the error


class _NotYetInAFile(logging.handlers.MemoryHandler):
    """Holds all records, until log_to names a file that they are written to."""

    def __init__(self, formatter: logging.Formatter):
        super().__init__(capacity=0, flushOnClose=False)
        self.setFormatter(formatter)

    def shouldFlush(self, record: logging.LogRecord) -> bool:  # noqa: ARG002, logging's
        return False


def setup_logging(command: str) -> logging.Logger:
    """Let `log` write to stderr, in the name of a command. Each call starts anew.

    Returns:
        `log`.
    """
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.INFO)
    log.propagate = False
    is_terminal = sys.stderr.isatty()
    screen = _Screen()
    screen.setFormatter(_Formatter(command, is_terminal and "NO_COLOR" not in os.environ))
    screen.addFilter(lambda record: not hasattr(record, "only_in_file"))
    if is_terminal:
        screen.addFilter(lambda record: not hasattr(record, "on_live_line"))
    log.addHandler(screen)
    log.addHandler(_NotYetInAFile(_Formatter(command, color=False)))
    return log


def log_to(file: str | os.PathLike) -> None:
    """Append what has been logged since setup_logging, and all that will be, to a file.

    Raises:
        OSError, also from calls of `log`, when the file cannot be written.
    """
    (held,) = [handler for handler in log.handlers if isinstance(handler, _NotYetInAFile)]
    log_file = _LogFile(file, encoding="utf-8")
    log_file.setFormatter(held.formatter)
    for record in held.buffer:
        log_file.handle(record)
    log.removeHandler(held)
    held.close()
    log.addHandler(log_file)
