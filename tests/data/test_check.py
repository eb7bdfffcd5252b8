import os
import re

import pytest
from PIL import Image

from data import check


@pytest.fixture
def images(tmp_path):
    for name, size in {
        "a1.png": (4, 6),
        "a2.png": (4, 6),
        "b1.png": (8, 5),
        "b2.png": (2, 9),
    }.items():
        Image.new("RGB", size, name.encode().hex()[:6].join(["#", ""])).save(tmp_path / name)
    return tmp_path


def run(root, rows, capsys, *flags):
    """Exit code and output of the command for a CSV of these rows."""
    (root / "set.csv").write_text("".join(f"{row}\n" for row in rows))
    code = 0
    try:
        check.main(check.parse_args([str(root / "set.csv"), f"--image_root={root}", *flags]))
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out


GOOD = ["1,a1.png", "1,a2.png", "2,b1.png", "2,b2.png", "2,a2.png"]


def test_a_good_set(images, capsys):
    code, out = run(images, GOOD[:4], capsys, "--batch_k=2")
    assert code == 0 and out.endswith("No problems.\n")
    assert "4 rows, 2 pids" in out
    assert "images of a pid: 2 to 2, median 2" in out
    assert "pids with fewer than 2 images: 0\n" in out
    assert "height 5 to 9, width 2 to 8 pixels" in out
    assert "6x4 (2 times)" in out


def test_pids_with_few_images_are_named(images, capsys):
    code, out = run(images, ["1,a1.png", "-1,a2.png", "0000,b1.png"], capsys)
    assert code == 0
    assert "pids with fewer than 4 images: 3 (1, -1, 0000)" in out
    assert "1 images of pid -1, junk" in out and "1 images of pid 0000, distractors" in out


@pytest.mark.parametrize(
    "rows, told",
    [(["1,a1.png", "1,a2.png"], True), (["1,a1.png", "2,b1.png"], True), (GOOD, False)],
)
def test_a_set_without_triplets_is_told(rows, told, images, capsys):
    _, out = run(images, rows, capsys)
    assert ("not for a training set" in out) == told


def test_every_problem_is_found_with_its_names(images, capsys):
    (images / "empty.jpg").touch()
    (images / "text.jpg").write_text("hello")
    (images / "cut.png").write_bytes((images / "b1.png").read_bytes()[:40])
    os.link(images / "b1.png", images / "copy.png")
    rows = ["3,empty.jpg", "3,text.jpg", "3,cut.png", "3,gone.png", "1,copy.png", "1,a1.png"]
    code, out = run(images, GOOD + rows, capsys)
    assert code == 1
    assert "images that are missing: 1\n    gone.png\n" in out
    assert re.search(
        r"images that cannot be decoded: 3\n    empty.jpg \(.*\n    text.jpg \(.*\n    cut.png \(",
        out,
    )
    assert "rows that stand there more than once: 1\n    1,a1.png\n" in out
    assert "images with more than one pid: 1\n    a2.png\n" in out
    assert "copies of an image under another pid: 1\n    b1.png = copy.png\n" in out
    assert "images that are copies of another: 1\n" in out


def test_copies_of_one_pid_are_counted_and_no_problem(images, capsys):
    os.link(images / "b1.png", images / "copy.png")
    code, out = run(images, [*GOOD[:4], "2,copy.png"], capsys)
    assert code == 0 and "images that are copies of another: 1\n" in out
