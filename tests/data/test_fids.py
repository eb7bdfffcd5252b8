import os
import re

from data import fids


def test_one_name_for_a_file_by_its_text():
    for name in ("a/x.jpg", "./a/x.jpg", "a//x.jpg", "a/./x.jpg", "b/../a/x.jpg", ".//a/x.jpg"):
        assert fids.normalized([name]) == ["a/x.jpg"]
    assert fids.normalized(["//data/x.jpg", "/data//x.jpg", "../x.jpg"]) == [
        "/data/x.jpg",
        "/data/x.jpg",
        "../x.jpg",
    ]


def test_links_of_files_and_folders_and_absolute_paths_lead_to_the_file(tmp_path):
    real = tmp_path / "disk" / "a"
    real.mkdir(parents=True)
    (real / "x.jpg").touch()
    (real / "y.jpg").touch()
    root = tmp_path / "images"
    root.mkdir()
    (root / "folder").symlink_to(real)
    (root / "one.jpg").symlink_to(real / "x.jpg")
    (root / "two.jpg").symlink_to("one.jpg")
    names = ["one.jpg", "two.jpg", "./folder/x.jpg", "folder//x.jpg", str(real / "x.jpg")]
    assert set(fids.real_paths(names, root)) == {str(real / "x.jpg")}
    others = ["folder/y.jpg", "folder/missing.jpg", "nowhere/x.jpg"]
    assert fids.real_paths(others, root) == [
        str(real / "y.jpg"),
        str(real / "missing.jpg"),
        str(root / "nowhere" / "x.jpg"),
    ]


def test_each_folder_is_asked_once(tmp_path, monkeypatch):
    """A million questions to a file system in a network would take minutes."""
    asked = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: asked.append(folder) or scandir(folder))
    (tmp_path / "a").mkdir()
    names = [f"a/{number}.jpg" for number in range(1000)]
    assert fids.real_paths(names, tmp_path)[-1] == str(tmp_path / "a" / "999.jpg")
    assert asked == [str(tmp_path / "a")]


def test_why_an_image_is_missing(tmp_path):
    composed, decomposed = "\u00e4.jpg", "a\u0308.jpg"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").touch()
    (tmp_path / "a" / decomposed).touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / composed).touch()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    cases = {
        "a\\x.jpg": r"with / in place of \\, which Windows",
        f"a/{composed}": "another form of Unicode .NFD; .*uconv -x NFD",
        f"b/{decomposed}": "another form of Unicode .NFC; .*uconv -x NFC",
        "loop.jpg": "^loop.jpg: Too many levels .*share is there",
        "a": "a is no file but a folder",
        "x\0.jpg": "embedded null byte",
        "y" * 300: "File name too long",
        "a\\y.jpg": "^$",
        "a/y.jpg": "^$",
        "a/x.jpg/y.jpg": "^$",
    }
    for fid, words in cases.items():
        assert re.search(words, fids.why_missing(fid, tmp_path)), fid
