"""The CSV of images in one folder per identity."""

import os
import re

import pytest

import common
from data import dataset, folders


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def run(root, *flags):
    out = root.parent / "csvs"
    folders.main(folders.parse_args([f"--image_root={root}", f"--directory={out}", *flags]))
    return out


def lines(out, name="all"):
    return (out / f"{name}.csv").read_text().splitlines()


@pytest.fixture
def root(tmp_path):
    """Two persons, two cameras; and what is no image."""
    root = tmp_path / "photos"
    touch(
        root, "ann/cam2_2024-05-01_a.jpg", "ann/cam1_2024-06-01_b.JPEG", "bob/cam1_2024-05-03.png"
    )
    touch(root, "bob/cam2_2024-06-09.webp", "bob/notes.txt", "bob/.hidden.jpg", ".git/x/y.jpg")
    (root / "bob" / "album.jpg").mkdir()
    return root


def test_a_row_for_each_image_sorted(root, capsys):
    out = run(root)
    assert lines(out) == [
        "pid,fid",
        "ann,ann/cam1_2024-06-01_b.JPEG",
        "ann,ann/cam2_2024-05-01_a.jpg",
        "bob,bob/cam1_2024-05-03.png",
        "bob,bob/cam2_2024-06-09.webp",
    ]
    told, warned = capsys.readouterr()
    assert "all.csv: 4 images, 2 pids\n" in told
    assert "Files that are no images are skipped: 1 of suffix .txt." in warned
    assert os.listdir(out) == ["all.csv"]


def test_cameras_dates_and_groups_come_from_file_names(root, capsys):
    out = run(root, r"--camera=cam(\d)", r"--date=(\d{4}-\d\d-\d\d)", "--group=^(.)")
    assert lines(out)[:2] == [
        "pid,fid,camera,date,group",
        "ann,ann/cam1_2024-06-01_b.JPEG,1,2024-06-01,a",
    ]
    assert list(dataset.load(out / "all.csv").cameras) == ["1", "2", "1", "2"]
    assert "4 images, 2 pids, 2 cameras, 2 groups, 4 dates\n" in capsys.readouterr().out


def test_split_at_once(root, capsys):
    out = run(root, "--split", r"--camera=cam(\d)")
    parts = {name: lines(out, name)[1:] for name in ("train", "query", "gallery")}
    assert sorted(sum(parts.values(), [])) == lines(out)[1:]
    assert [len(part) for part in parts.values()] == [2, 1, 1]
    assert "Identities: 1 for training, 1 for testing" in capsys.readouterr().out


def test_the_identity_may_be_a_deeper_folder(tmp_path, capsys):
    root = tmp_path / "photos"
    touch(root, "fruit/kiwi/1.jpg", "fruit/kiwi/shelf/2.jpg", "milk/oat/3.jpg", "milk/4.jpg")
    message = (
        r"which folder is the identity\? fruit/kiwi/shelf/2.jpg lies in 3. Give --pid_level 1 \(2 identities, such "
        r"as fruit\) or --pid_level 2 \(2 identities, such as fruit/kiwi\) or --pid_level 3 \(1 identities"
    )
    with pytest.raises(common.UserError, match=message):
        run(root)
    assert not (tmp_path / "csvs").exists()
    assert lines(run(root, "--pid_level=1"))[1] == "fruit,fruit/kiwi/1.jpg"
    assert lines(run(root, "--pid_level=2"))[1:] == [
        "fruit/kiwi,fruit/kiwi/1.jpg",
        "fruit/kiwi,fruit/kiwi/shelf/2.jpg",
        "milk/oat,milk/oat/3.jpg",
    ]
    assert "1 images are left out, because they are in no folder of an identity: milk/4.jpg" in (
        capsys.readouterr().err
    )
    assert lines(run(root, r"--pid=(\d)\.jpg"))[1] == "1,fruit/kiwi/1.jpg"


def test_links_to_folders_are_followed_once(tmp_path, capsys):
    root = tmp_path / "photos"
    touch(root, "ann/1.jpg")
    touch(tmp_path / "elsewhere", "2.jpg")
    (root / "bob").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root)
    out = run(root)
    assert lines(out)[1:] == ["ann,ann/1.jpg", "bob,bob/2.jpg"]
    warned = capsys.readouterr().err
    assert "circle is left out: it is a link to" in warned
    assert re.search(r"Links lead out of .*photos: .*photos/bob\. .* --allow_any_path", warned)


def test_names_that_are_no_utf_8_are_told_and_nothing_is_written(tmp_path):
    touch(tmp_path / "photos", os.fsdecode(b"ann/\xe9.jpg"), "ann/2.jpg")
    with pytest.raises(common.UserError, match="1 of the 2 file names in .*photos are not UTF-8: "):
        run(tmp_path / "photos")
    assert not (tmp_path / "csvs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [r"--camera=cam(\d)_2"],
            "--camera .* finds nothing in 1 of the 3 file ids: ann/x.jpg. Give",
        ),
        (["--pid=(y?)"], "--pid .* finds nothing in 3 of the 3"),
        (["--pid_level=2"], "should lie in at least 2 folders.* Received: ann/cam1_2.jpg."),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_written(flags, message, tmp_path):
    touch(tmp_path / "photos", "ann/cam1_2.jpg", "ann/cam2_2.jpg", "ann/x.jpg")
    with pytest.raises(common.UserError, match=message):
        run(tmp_path / "photos", *flags)
    assert not (tmp_path / "csvs").exists()


def test_no_images(tmp_path):
    touch(tmp_path / "photos", "ann/x.heic", "ann/y.txt")
    message = r"has no image: .* ends in .jpg, .*Received: 1 of suffix .heic, 1 of suffix .txt\."
    with pytest.raises(common.UserError, match=message):
        run(tmp_path / "photos")
    touch(tmp_path / "flat", "1.jpg")
    with pytest.raises(
        common.UserError, match="at least one folder: .* Received: 1.jpg. Give one folder"
    ):
        run(tmp_path / "flat")


@pytest.mark.parametrize("text", ["cam", "(a)(b)", "("])
def test_regular_expressions_have_one_group(text, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit):
        run(tmp_path / "photos", f"--camera={text}")
    assert re.search(
        r"argument --camera: should be a regular expression.* Received:", capsys.readouterr().err
    )


def test_after_an_error_while_writing_no_csv_has_changed(root, tmp_path, monkeypatch):
    out = run(root)
    before = lines(out)
    touch(root, "eve/cam1_2024-05-01.jpg")
    real = folders.csv_builder._write

    def full_disk(path, part):
        if "query" in str(path):
            raise OSError(28, "No space left on device", str(path))
        real(path, part)

    monkeypatch.setattr(folders.csv_builder, "_write", full_disk)
    with pytest.raises(OSError, match="No space"):
        run(root, "--split")
    assert os.listdir(out) == ["all.csv"] and lines(out) == before
