"""One live line on a terminal, with all other lines above it. Into a file or a pipe nothing of it is written."""

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
            "ncols": values["ncols"] and max(values["ncols"] - 2, 1),  # room for ^C: a line that wraps stays behind
        }


def bar(total: int, unit: str, initial: int = 0, images_per_step: int = 1, show: bool = True) -> tqdm:
    """The live line: steps done of `total`, images per second, time left. A context, to be told of steps by update(n).

    What set_postfix_str(text, refresh=False) is given stands at its end. Speed and time left are smoothed, over about
    the last twenty times that the line was drawn, ten times a second at most.

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
