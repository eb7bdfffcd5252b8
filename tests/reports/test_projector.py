"""What TensorBoard's projector is given. No TensorFlow."""

import os

import numpy as np
import pytest
from PIL import Image

import common
from data.dataset import ImageFiles
from reports import projector

COLORS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10), (10, 250, 250)]
SIZES = [(128, 64), (20, 10), (64, 64), (300, 900), (64, 32)]  # height, width


@pytest.fixture
def paths(tmp_path):
    """Five images of one color each."""
    for number, (color, (height, width)) in enumerate(zip(COLORS, SIZES, strict=True)):
        Image.new("RGB", (width, height), color).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(len(COLORS))]


def write(root, name, emb, pids, fids, paths):
    projector.write(root, name, emb, pids=pids, fids=fids, images=ImageFiles(paths))


@pytest.mark.parametrize("count, side", [(1, 1), (2, 2), (4, 2), (5, 3)])
def test_thumbnails_stand_row_by_row_in_a_square_of_squares(count, side, paths):
    sprite = np.array(projector.sprite(ImageFiles(paths[:count])))
    size = projector.THUMBNAIL
    assert sprite.shape == (side * size, side * size, 4)
    cells = sprite.reshape(side, size, side, size, 4).swapaxes(1, 2).reshape(-1, size, size, 4)
    for cell, color, (height, width) in zip(cells[:count], COLORS, SIZES, strict=False):
        shown = cell[..., 3] == 255
        assert (cell[shown][:, :3] == color).all() and (cell[~shown] == 0).all()
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        # As large as fits, as wide for its height as the image is, and in the middle.
        assert max(len(rows), len(columns)) == size
        assert len(rows) * width == pytest.approx(len(columns) * height, rel=0.05)
        assert (
            abs(rows[0] - (size - 1 - rows[-1])) <= 1
            and abs(columns[0] - (size - 1 - columns[-1])) <= 1
        )
    assert (cells[count:] == 0).all()


def test_tensorboard_takes_the_largest_sprite():
    side = np.ceil(np.sqrt(projector.MOST_IMAGES))
    assert side * projector.THUMBNAIL <= 8192


def test_sets_of_embeddings_are_added_and_replaced(paths, tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "exp"
    query, gallery, other = rng.normal(size=(3, 2, 4)).astype(np.float32)
    fids = ["a.png", "b\tc\nd.png"]
    write(str(root), "query", query, ["1", "2"], fids, paths[:2])
    write(root, "gallery", gallery, ["1", "2"], fids, paths[:2])
    write(root, "query", other[:1], ["3"], ["e.png"], paths[2:3])
    entries = {entry.tensor_name: entry for entry in projector.read_config(root).embeddings}
    assert (
        entries.keys() == {"query", "gallery"} and len(projector.read_config(root).embeddings) == 2
    )
    for name, emb, rows in (
        ("query", other[:1], ["3\te.png"]),
        ("gallery", gallery, ["1\ta.png", "2\tb c d.png"]),
    ):
        entry = entries[name]
        np.testing.assert_allclose(np.loadtxt(root / entry.tensor_path, ndmin=2), emb, rtol=1e-5)
        assert (root / entry.metadata_path).read_text().splitlines() == ["pid\tfid", *rows]
        assert list(entry.sprite.single_image_dim) == [projector.THUMBNAIL] * 2
        with Image.open(root / entry.sprite.image_path) as sprite:
            assert sprite.format == "PNG" and sprite.width == projector.THUMBNAIL * (
                1 if name == "query" else 2
            )
    assert not list(root.rglob("*.partial"))


def test_what_is_wrong_is_told_and_what_was_there_stays(paths, tmp_path):
    root, bad = tmp_path / "exp", tmp_path / "bad.jpg"
    write(root, "query", np.ones((1, 2)), ["1"], ["a"], paths[:1])
    before = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    bad.write_bytes(b"no picture")
    with pytest.raises(common.UserError, match="bad.jpg cannot be read as an image"):
        write(root, "query", np.zeros((1, 2)), ["2"], ["b"], [str(bad)])
    assert {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()} == before
    for content in (b"embeddings { what }", b"\xff\xfe"):
        (root / "projector_config.pbtxt").write_bytes(content)
        with pytest.raises(common.UserError, match="projector_config.pbtxt is no configuration"):
            write(root, "query", np.zeros((1, 2)), ["2"], ["b"], paths[:1])


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "x" * 256])
def test_a_name_that_is_none_of_a_folder_is_told(name, tmp_path):
    with pytest.raises(common.UserError, match="--projector makes a folder .*another --filename"):
        projector.check(tmp_path, name)


def test_what_cannot_be_written_is_told(tmp_path, monkeypatch):
    projector.check(tmp_path, "query")
    (tmp_path / "projector").touch()
    with pytest.raises(common.UserError, match="cannot write to .*projector: it is a file"):
        projector.check(tmp_path, "query")
    (tmp_path / "projector").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind root
    with pytest.raises(common.UserError, match=f"cannot write to {tmp_path}: .*permissions"):
        projector.check(tmp_path, "query")
