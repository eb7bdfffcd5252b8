"""An image in a ranked list of a page: its picture in a frame, and what stands below it."""

import html
from typing import NamedTuple

from PIL import Image

from reports import page


class Pictures(NamedTuple):
    """What is shown of an image."""

    small: Image.Image
    overlaid: Image.Image | None = None  # the same with its activation map


class Listed(NamedTuple):
    """An image in a ranked list."""

    kind: str  # "query", "true", "wrong" or "plain": its class in the page's style
    words: str  # what it is, for those who cannot see it
    pid: str  # "" where it is not known
    fid: str  # with its box, if there is one
    camera: str | None
    caption: str  # HTML


def item(image: Listed, pictures: Pictures) -> str:
    """The image as <li>."""
    caption = image.caption
    if image.camera:
        caption += f"<span>camera {html.escape(image.camera)}</span>"
    return (
        f'<li class="{image.kind}" title="{title(image)}">{framed(image, pictures)}{caption}</li>\n'
    )


def title(image: Listed) -> str:
    """What a browser shows at the pointer: pid and fid."""
    return html.escape(_name(image))


def framed(image: Listed, pictures: Pictures) -> str:
    """The picture of an image, and under it the one with its activation map."""
    alt = f"{image.words}: {_name(image)}"
    shown = page.picture(pictures.small, alt)
    if pictures.overlaid is not None:
        alt += ", with what the network looks at"
        shown += page.picture(pictures.overlaid, alt, 'class="map"')
    return f'<span class="picture">{shown}</span>'


def _name(image: Listed) -> str:
    return f"{image.pid}, {image.fid}" if image.pid else image.fid
