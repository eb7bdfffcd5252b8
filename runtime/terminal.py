"""What a person sees: log lines, and one live line on a terminal, below all others.

Into a file or a pipe nothing of the live line is written.
"""

import logging
import os
import sys

from tqdm import tqdm


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
        return values | {
            "images": f"{images:.0f}" if images >= 10 else f"{images:.1f}",
            "ncols": values["ncols"]
            and max(values["ncols"] - 2, 1),  # room for ^C: a line that wraps stays behind
        }


def bar(
    total: int, unit: str, initial: int = 0, images_per_step: int = 1, show: bool = True
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
        disable=None if show else True,  # None: unless stderr is a terminal
    )


def say(line: str) -> None:
    """Write a line to stderr, above the live one where there is one."""
    tqdm.write(line, file=sys.stderr)


class _Formatter(logging.Formatter):
    """`time [LEVEL] name: message`, with the level in colour where a person watches."""

    _COLORS = {
        "WARNING": "\033[33m",
        "ERROR": "\033[31m",
        "CRITICAL": "\033[31m",
        "INFO": "\033[32m",
    }

    def __init__(self, color: bool):
        super().__init__("%(asctime)s [%(levelname)s] %(name)s: %(message)s")
        self._color = color

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
    """Raises what goes wrong, a full disk say, where logging's own would print a traceback and go
    on.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704, logging calls this while it handles the error


# As `extra` of a record: where a terminal's live line tells the same, it goes only to the file.
ON_LIVE_LINE = {"on_live_line": True}


def setup_logging(name: str, file: str | os.PathLike | None = None) -> logging.Logger:
    """The logger of a command: stderr, and `file` (appended to) when one is given. Each call starts
    anew.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    screen, terminal = _Screen(), sys.stderr.isatty()
    screen.setFormatter(_Formatter(color=terminal and "NO_COLOR" not in os.environ))
    if terminal:
        screen.addFilter(lambda record: not hasattr(record, "on_live_line"))
    logger.addHandler(screen)
    if file is not None:
        log_file = _LogFile(file, encoding="utf-8")
        log_file.setFormatter(_Formatter(color=False))
        logger.addHandler(log_file)
    return logger
