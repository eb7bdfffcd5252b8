import os

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
