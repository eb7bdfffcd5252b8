import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

import common
from common import UserError
from data.dataset import ImageFiles
from reports import page


def test_a_page_holds_the_title_escaped_and_the_body_as_it_is(tmp_path):
    page.write(tmp_path / "a.html", "<b> & co", "<p>$1 each</p>")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<title>&lt;b&gt; &amp; co</title>" in text
    assert "<p>$1 each</p>" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)|url\(|@import|https?:", text)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pictures_are_small_jpegs_with_their_words(tmp_path, mode):
    Image.fromarray(np.full((300, 100, 3), 204, np.uint8)).convert(mode).save(tmp_path / "a.png")
    tag = page.picture(
        page.thumbnail(ImageFiles([str(tmp_path / "a.png")]), 0), 'a "quoted" <name>', 'class="x"'
    )
    assert 'alt="a &quot;quoted&quot; &lt;name&gt;"' in tag
    encoded = re.search(r'src="data:image/jpeg;base64,([^"]+)"', tag)[1]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert (image.format, image.size) == ("JPEG", (43, 128))
        assert abs(np.asarray(image).astype(int) - 204).max() <= 2
    assert 'width="43" height="128" class="x"' in tag


@pytest.mark.parametrize(
    "size, shown",
    [
        ((400, 400), (81, 81)),
        ((64, 128), (57, 114)),
        ((128, 96), (93, 70)),
        ((20, 20), (81, 81)),
        ((1000, 10), (128, 1)),
        ((1, 500), (1, 128)),
    ],
)
def test_pictures_have_the_images_shape_and_about_one_area(tmp_path, size, shown):
    Image.new("RGB", size).save(tmp_path / "a.png")
    tag = page.picture(page.thumbnail(ImageFiles([str(tmp_path / "a.png")]), 0), "")
    width, height = map(int, re.search(r'width="(\d+)" height="(\d+)"', tag).groups())
    assert (width, height) == shown
    style = (common.HERE / "reports" / "page.html").read_text()
    assert not re.search(r"img \{[^}]*(width|height)", style)  # which would set another shape


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(common.UserError, match="a.png cannot be read as an image"):
        page.thumbnail(ImageFiles([str(tmp_path / "a.png")]), 0)


def test_percents_of_an_axis_are_exact():
    ticks = [page.percent(value) for value in (0, 0.025, 0.175, 0.1 + 0.2, 1, 0.0005)]
    assert ticks == ["0%", "2.5%", "17.5%", "30%", "100%", "0.05%"]


def draw(tmp_path, name):
    figure, plot = page.axes("<x>", "y")
    plot.plot([1, 2], [3, 4], color=page.COLORS["true"], label="z")
    page.legend(plot)
    return page.chart(figure, tmp_path, name, "it <rises>")


def test_charts_take_the_colours_of_the_page_and_have_words(tmp_path):
    svg = draw(tmp_path, "up")
    assert svg.startswith('<svg role="img" aria-label="it &lt;rises&gt;" viewBox="0 0 ')
    assert svg.rstrip().endswith("</svg>")
    assert "var(--true)" in svg and "var(--muted)" in svg
    assert not any(code in svg for code in page.COLORS.values())
    assert "&lt;x&gt;" in svg
    with Image.open(tmp_path / "up.png") as image:
        colors = {color for _, color in image.convert("RGB").getcolors(2**24)}
    assert {(255, 255, 255), tuple(bytes.fromhex(page.COLORS["true"][1:]))} <= colors


def test_two_charts_of_a_page_share_no_id_and_equal_calls_write_equal_charts(tmp_path):
    one, other = draw(tmp_path, "one"), draw(tmp_path, "other")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0] and ids[0].isdisjoint(ids[1])
    for svg, names in zip((one, other), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= names
    assert draw(tmp_path, "one") == one
    colors = dict(
        re.findall(
            r"--([a-z]+): (#[0-9a-f]{6})", (common.HERE / "reports" / "page.html").read_text()
        )
    )
    assert page.COLORS.keys() <= colors.keys()


def test_characters_that_turn_the_text_around_them_are_shown(tmp_path):
    page.write(tmp_path / "a.html", "\u202etitle", "<p>\u2066x.jpg\n\ty\x07</p>")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert r"<title>\u202etitle</title>" in text and "<p>\\u2066x.jpg\n\ty\\x07</p>" in text


OLD_START = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>"""


def test_only_files_of_reports_are_replaced(tmp_path):
    def check(directory=tmp_path):
        page.check_replaced(directory, "index.html", ["up.png", "down.png"])

    check(tmp_path / "new")
    check()
    draw(tmp_path, "up")  # killed before it wrote the page
    check()
    page.write(tmp_path / "index.html", "title", "body")
    (tmp_path / "down.png").write_bytes(b"of an earlier version, as the page")
    check()
    (tmp_path / "index.html").write_text(OLD_START + "title</title>")
    check()
    (tmp_path / "index.html").unlink()
    with pytest.raises(
        UserError, match=r"down\.png is not of an earlier report.*another directory"
    ):
        check()
    (tmp_path / "down.png").unlink()
    for mine in ("", "<!DOCTYPE html>\n<html><title>My page, made by triplet-reid, Matplotlib"):
        (tmp_path / "index.html").write_text(mine)
        with pytest.raises(UserError, match=r"index\.html is not of an earlier report"):
            check()
    (tmp_path / "index.html").unlink()
    (tmp_path / "index.html").mkdir()
    with pytest.raises(UserError, match=r"index\.html is not of an earlier report"):
        check()
