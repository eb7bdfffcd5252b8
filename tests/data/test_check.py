import os
import re

import pytest
from image_kinds import KINDS, REFUSED, oriented
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
    return run_all(root, {"set.csv": rows}, capsys, *flags)


def run_all(root, sets, capsys, *flags):
    """Exit code and output of the command for several CSVs, the rows of each by its name."""
    paths = []
    for name, rows in sets.items():
        paths.append(str(root / name))
        (root / name).write_text("".join(f"{row}\n" for row in rows))
    code = 0
    try:
        check.main(check.parse_args([*paths, f"--image_root={root}", *flags]))
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
    assert code == 10
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


TITLES = {code: kind for kind, code in check.EXIT_CODES.items()}
ROWS = {
    10: ["1,gone.png"],
    11: ["1,text.jpg"],
    13: ["2,a2.png"],
    14: ["2,copy.png"],  # of a2.png
    17: ["01,c1.png"],
    18: ["NaN,c1.png"],
    19: ["1,./a1.png"],
}


@pytest.mark.parametrize("code", ROWS)
def test_each_kind_of_problem_has_its_exit_code(code, images, capsys):
    (images / "text.jpg").write_text("hello")
    os.link(images / "a2.png", images / "copy.png")
    Image.new("RGB", (3, 3)).save(images / "c1.png")
    found, out = run(images, GOOD[:4] + ROWS[code], capsys)
    assert found == code
    assert out.count(": 1\n    ") == 1 and f"  {TITLES[code]}: 1\n    " in out
    # The worst of two decides, and both are told.
    found, out = run(images, GOOD[:4] + ROWS[code] + ROWS[10], capsys)
    assert found == 10 and TITLES[10] in out and TITLES[code] in out


def test_help_documents_the_exit_codes(capsys):
    with pytest.raises(SystemExit, match="0"):
        check.parse_args(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    for kind, code in check.EXIT_CODES.items():
        assert f" {code} {kind}" in words
    codes = list(check.EXIT_CODES.values())
    assert codes == sorted(set(codes)) and min(codes) > 2


@pytest.mark.parametrize(
    "rows, told",
    [
        (["PID,FID", *GOOD[:4]], True),
        (["identity,file name", *GOOD[:4]], True),
        (["1,gone", *GOOD[:4]], False),  # an image of pid 1 without suffix
        (["3,gone.png", *GOOD[:4]], False),
        (["3,plain", *GOOD[:4]], False),  # which is there
        (["id,file", "3,plain"], False),  # no file has a suffix: it is one that is missing
        (["id,file"], False),
    ],
)
def test_a_header_is_told_as_one(rows, told, images, capsys):
    Image.new("RGB", (3, 3)).save(images / "plain", "PNG")
    code, out = run(images, rows, capsys)
    assert (
        f"headers that do not name the columns pid and fid: 1\n    {images}/set.csv, line 1" in out
    ) == told
    if told:
        assert code == 12 and "missing: 1" not in out and "4 rows, 2 pids" in out


def test_training_and_test_are_kept_apart(images, capsys):
    os.link(images / "a2.png", images / "copy.png")
    Image.new("RGB", (3, 3)).save(images / "c1.png")
    Image.new("RGB", (3, 4)).save(images / "c2.png")
    sets = {"train.csv": ["1,a1.png", "1,a2.png"], "q.csv": ["3,c1.png"], "g.csv": ["3,c2.png"]}
    code, out = run_all(images, sets, capsys)
    assert code == 0 and out.endswith("No problems.\n")
    assert out.count("1 rows, 1 pids") == 2 and out.count("2 rows, 1 pids") == 1

    # Query and gallery may share pids and images.
    code, _ = run_all(images, sets | {"g.csv": ["3,c1.png", "3,c2.png"]}, capsys)
    assert code == 0

    # The pids of both, by name; the images of both, by normalized name and by content.
    more = {"q.csv": ["1,c1.png", "1,./a1.png"], "g.csv": ["1,copy.png", "4,c2.png"]}
    code, out = run_all(images, sets | more, capsys)
    assert code == 15
    assert f"pids in both training and test: 1\n    1 ({images}/q.csv, {images}/g.csv)\n" in out
    assert (
        f"images in both training and test: 2\n    a1.png ({images}/q.csv)\n"
        f"    a2.png = copy.png ({images}/g.csv)\n"
    ) in out

    code, out = run_all(images, sets | {"q.csv": ["1,c1.png"]}, capsys)
    assert code == 16 and "images in both" not in out

    # What an image is told as does not depend on the CSV that its other pid is in.
    code, out = run_all(images, sets | {"q.csv": ["3,copy.png"], "g.csv": ["01,a2.png"]}, capsys)
    assert code == 13
    assert "copies of an image under another pid: 1\n    a2.png = copy.png" in out
    assert "pids that look alike: 1\n    '1' = '01'" in out


def test_each_csv_is_told_for_itself_and_few_images_of_the_first(images, capsys):
    sets = {"train.csv": GOOD[:4], "q.csv": ["5,gone.png", "5,gone.png"]}
    code, out = run_all(images, sets, capsys, "--batch_k=2")
    assert code == 10 and "have fewer than" not in out
    assert out.count("pids with fewer than 2 images") == 1  # of a test set no batches are made
    assert "not for a training set" not in out
    assert "missing: 1\n    gone.png\n" in out
    assert "rows that stand there more than once: 1\n    5,gone.png\n" in out
    _, out = run_all(images, sets, capsys, "--batch_k=3")
    assert f"For a training on {images}/train.csv: 2 of the 2 pids (100%)" in out


def test_kinds_of_files_are_counted_and_refused_ones_have_their_reason(images, capsys):
    kinds = {"a.bmp": "BMP of 8 bits", "a.webp": "moving WebP", "a.gif": "moving GIF"}
    kinds |= {"a.tif": "moving TIFF", "a.avif": "AVIF"}
    for name, kind in kinds.items():
        (images / name).write_bytes(KINDS[kind][0])
    (images / "huge.png").write_bytes(REFUSED["huge PNG"][0])
    (images / "phone.jpg").write_bytes(REFUSED["HEIC"][0])
    rows = [f"3,{name}" for name in (*kinds, "huge.png", "phone.jpg")]
    code, out = run(images, GOOD[:4] + rows, capsys)
    assert code == 11
    assert "kinds of files: PNG (4), BMP (1), WebP (1), GIF (1), TIFF (1), AVIF (1)\n" in out
    assert "moving images, of which the first picture counts: 3\n" in out
    assert "images that cannot be decoded: 2\n" in out
    assert "huge.png (14000 x 13500 pixels are more than the 178,956,970" in out
    assert "phone.jpg (it is a HEIC file)\n" in out


def test_turned_images_are_named(images, capsys):
    for orientation in range(1, 9):
        (images / f"{orientation}.jpg").write_bytes(oriented(orientation))
    rows = [f"3,{orientation}.jpg" for orientation in range(1, 9)]
    code, out = run(images, GOOD[:4] + rows, capsys)
    assert code == 0 and "No problems.\n" in out
    assert "images that are turned or mirrored with --orientation exif: 7\n" in out
    code, out = run(images, GOOD[:4] + rows, capsys, "--orientation", "stored")
    assert code == 20
    assert "viewers turn or mirror, as EXIF says, and a network does not: 7\n" in out
    assert "1.jpg (orientation" not in out
    for orientation in range(2, 9):
        assert f"    {orientation}.jpg (orientation {orientation})\n" in out


def test_columns_are_told_and_boxes_are_images_of_their_own(images, capsys):
    rows = [
        "pid,fid,x1,y1,x2,y2,camera,group,tracklet",
        "1,b1.png,0,0,4,5,c1,g,t",
        "2,b1.png,4,0,8,5,c2,g,",
        "2,./b2.png,,,,,c2,h,",
    ]
    code, out = run(images, rows, capsys)
    assert code == 0 and "3 rows, 2 pids" in out
    assert "cameras: 2 (c1, c2)\n  groups: 2 (g, h)\n  tracklets: 1 (t)\n" in out
    assert "boxes: 2 of 3 rows, height 5 to 5, width 4 to 4 pixels" in out


def test_boxes_that_are_wrong(images, capsys):
    rows = [
        "pid,fid,x1,y1,x2,y2",
        "1,b1.png,0,0,4,5",
        "2,b1.png,0,0,4,5",
        "2,b1.png,1,0,9,5",
        "1,b1.png,1,0,8,6",
        "1,b1.png,1,0,8,6",
    ]
    code, out = run(images, rows, capsys)
    assert code == 13 and "images with more than one pid: 1\n    b1.png#0,0,4,5\n" in out
    assert (
        "boxes that are not within their image: 2\n    b1.png#1,0,9,5 (of 5x8)\n    b1.png#1,0,8,6 (of 5x8)\n"
        in out
    )
    assert "rows that stand there more than once: 1\n    1,b1.png#1,0,8,6" in out


def test_the_splits_of_a_csv_are_kept_apart(images, capsys):
    rows = [
        "pid,fid,split",
        "1,a1.png,gallery",
        "2,b1.png,train",
        "2,b2.png,train",
        "2,a2.png,query",
        "3,b1.png,gallery",
    ]
    code, out = run(images, rows, capsys)
    path = images / "set.csv"
    assert code == 13
    for split, count in {"train": 2, "query": 1, "gallery": 2}.items():
        assert f"{path} ({split}):\n  {count} rows" in out
    assert f"pids in both training and test: 1\n    2 ({path} (query))\n" in out
    assert f"images in both training and test: 1\n    b1.png ({path} (gallery))\n" in out
