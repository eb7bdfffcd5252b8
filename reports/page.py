"""Web pages that hold everything they show: style, charts, pictures. One file to keep or to mail.

A page is page.html with a title and a body, which is HTML: the caller has escaped it. Charts are
drawn with Matplotlib, once for a PNG and for the page. In the page they have the colors of its
style, which follow light and dark mode.
"""

import base64
import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from PIL import Image, ImageOps

import common
from common import UserError
from data.dataset import ImageFiles
from data.pictures import open_image
from runtime import files

THUMBNAIL = 128  # pixels, the longer side
AREA = 81**2  # pixels of a picture on a page, of any shape: twelve squares stand side by side

# What PNG files say of themselves. Pages are known by how they begin.
_SOFTWARE = "triplet-reid, Matplotlib"

# Names of the colors in page.html, and what they are in PNG files.
COLORS = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "line": "#d1d9e0",
    "true": "#1a7f37",
    "wrong": "#cf222e",
}


def write(path: str | os.PathLike, title: str, body: str) -> None:
    """Write the page. The file appears under its name only when complete."""
    text = fill("page.html", title=html.escape(title), body=body)
    text = common.visible(text, keep="\n\t")  # names of files may have any characters
    with files.complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_replaced(directory: str | os.PathLike, page: str, charts: Sequence[str]) -> None:
    """Raises: UserError if writing them would replace a file of somebody else.

    Args:
        directory: which need not exist.
        page, charts: names of files in it.
    """
    start = _template("page.html").partition("$title")[0]
    if _beginning(Path(directory, page)).startswith(start.encode()):
        return  # all is of an earlier report
    for name in (page, *charts):
        path = Path(directory, name)
        is_ours = name != page and _SOFTWARE.encode() in _beginning(path)
        if path.exists() and not is_ours:
            raise UserError(
                f"{path} is not of an earlier report, which would be replaced. Take it away, or give another directory."
            )


def _beginning(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with open(path, "rb") as file:
        return file.read(1000)


def fill(name: str, **values: str) -> str:
    """The HTML of a template in this folder, with values, HTML themselves, for its $names."""
    return Template(_template(name)).substitute(values)


def counted(count: int, one: str, many: str) -> str:
    """A number with its noun: "1 query", "2,000 queries"."""
    return f"{count:,} {one if count == 1 else many}"


def rows_of_table(values: Mapping[str, object]) -> str:
    """Rows of names and values, without those that are None or False."""
    return "\n".join(
        f'<tr><th>{html.escape(name)}</th><td class="text">{html.escape(str(value))}</td></tr>'
        for name, value in values.items()
        if value is not None and value is not False
    )


def _template(name: str) -> str:
    return (common.HERE / "reports" / name).read_text(encoding="utf-8")


def thumbnail(images: ImageFiles, row: int) -> Image.Image:
    """One of the images in RGB, its longer side THUMBNAIL pixels or less.

    Raises:
        UserError: the file is not an image.
    """
    small = open_image(images.paths[row], box=images.box(row), upright=images.upright)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return ImageOps.mirror(small) if images.is_mirrored(row) else small


def picture(image: Image.Image, alt: str, attributes: str = "") -> str:
    """An <img> with the image in it, as JPEG, shown at its own shape and about as large as others."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    source = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    scale = min(THUMBNAIL / max(image.size), (AREA / (image.width * image.height)) ** 0.5)
    width, height = (max(1, int(side * scale)) for side in image.size)
    return f'<img src="{source}" alt="{html.escape(alt)}" width="{width}" height="{height}" {attributes}>'


def axes(x_label: str, y_label: str):
    """A Matplotlib figure and its axes, in COLORS, as wide as half of a page."""
    # Not pyplot, which would choose a backend and keep every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    plot = figure.subplots()
    plot.set_xlabel(x_label, color=COLORS["ink"])
    plot.set_ylabel(y_label, color=COLORS["ink"])
    plot.tick_params(color=COLORS["line"], labelcolor=COLORS["muted"])
    plot.spines[["top", "right"]].set_visible(False)
    plot.spines[["left", "bottom"]].set_color(COLORS["line"])
    plot.grid(axis="y", color=COLORS["line"], linewidth=0.6)
    plot.set_axisbelow(True)
    return figure, plot


def legend(plot) -> None:
    plot.legend(frameon=False, labelcolor=COLORS["ink"])


def percent(value: float, _: object = None) -> str:
    """A tick of an axis, exactly: 0.175 is 17.5%."""
    return f"{100 * value:.6g}%"


def chart(figure, directory: str | os.PathLike, name: str, alt: str) -> str:
    """Write the figure to directory/name.png.

    Returns:
        The same as <svg> for a page.
    """
    import matplotlib

    with files.complete_file(os.path.join(directory, f"{name}.png")) as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": _SOFTWARE})
    data = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # The salt makes equal calls write equal bytes.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    ):
        figure.savefig(data, format="svg", transparent=True, metadata=no_metadata)
    svg = data.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)  # a page holds several charts
    for color, code in COLORS.items():
        svg = svg.replace(code, f"var(--{color})")
    head, rest = svg.split(">", 1)
    view_box = re.findall(r'viewBox="[^"]*"', head)[0]
    return f'<svg role="img" aria-label="{html.escape(alt)}" {view_box}>{rest}'
