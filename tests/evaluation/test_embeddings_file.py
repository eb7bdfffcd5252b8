import h5py
import numpy as np
import pytest

from common import UserError
from evaluation import embeddings_file

EMBS = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)


def write(path, embs=EMBS, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("emb", data=embs, **options)


# ------------------------------------------------------------------------- writing


def test_rows_are_written_as_they_come_and_read_back(tmp_path):
    path = tmp_path / "emb.h5"
    with embeddings_file.create(path, count=50, dim=7) as file:
        for start in range(0, 50, 20):
            file.add(EMBS[start : start + 20])
        assert not path.exists()
    with h5py.File(path) as file:
        assert list(file) == ["emb"] and not file.attrs
    np.testing.assert_array_equal(embeddings_file.load(path, "emb.csv", 50), EMBS)
    np.testing.assert_array_equal(embeddings_file.head(path, 3), EMBS[:3])
    assert embeddings_file.is_hdf5(path)


def test_variants_and_how_they_were_made_are_in_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["original_resize", "original_flip_resize"]
    variants = np.stack([EMBS, EMBS + 2])
    with embeddings_file.create("emb.h5", 50, 7, names, checkpoint="exp/checkpoint-5") as file:
        file.add(variants[:, :30].mean(axis=0), variants[:, :30])
        file.add(variants[:, 30:].mean(axis=0), variants[:, 30:])
    with h5py.File("emb.h5") as file:
        assert file["emb"].dtype == file["emb_aug"].dtype == np.float32
        np.testing.assert_array_equal(file["emb"][()], variants.mean(axis=0))
        np.testing.assert_array_equal(file["emb_aug"][()], variants)
        assert file["augmentation_types"][()].astype(str).tolist() == names
        assert file.attrs["checkpoint"] == str(tmp_path / "exp/checkpoint-5")


def test_the_embeddings_of_one_variant_are_not_there_twice(tmp_path):
    with embeddings_file.create(tmp_path / "emb.h5", 50, 7, ["original_center"]) as file:
        file.add(EMBS, EMBS[None])
    with h5py.File(tmp_path / "emb.h5") as file:
        assert set(file) == {"emb", "augmentation_types"}


def test_a_file_that_lacks_rows_does_not_appear(tmp_path):
    with (
        pytest.raises(ValueError, match="should get 50 embeddings. Received: 20"),
        embeddings_file.create(tmp_path / "emb.h5", 50, 7) as file,
    ):
        file.add(EMBS[:20])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": np.float16},
        {"dtype": np.float64},
        {"dtype": ">f4"},
        {"chunks": (2, 1)},
        {"compression": "gzip", "shuffle": True},
    ],
    ids=str,
)
def test_other_precisions_and_layouts_are_read_as_float32(options, tmp_path):
    write(tmp_path / "emb.h5", **options)
    got = embeddings_file.load(tmp_path / "emb.h5", "emb.csv", 50)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, EMBS, rtol=1e-3)


def test_what_lies_in_one_piece_is_mapped_and_not_read(tmp_path):
    with h5py.File(tmp_path / "emb.h5", "w", userblock_size=512) as file:
        file["augmentation_types"] = np.array(["original_resize"], dtype="S")
        file["emb"] = EMBS
    got = embeddings_file.load(tmp_path / "emb.h5", "emb.csv", 50)
    assert got.dtype == np.float32
    assert not got.flags.owndata and not got.flags.writeable
    np.testing.assert_array_equal(got, EMBS)


def test_embeddings_that_were_never_written_are_zeros(tmp_path):
    with h5py.File(tmp_path / "emb.h5", "w") as file:
        file.create_dataset("emb", (4, 3), np.float32)
    got = embeddings_file.load(tmp_path / "emb.h5", "emb.csv", 4)
    np.testing.assert_array_equal(got, np.zeros((4, 3)))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def scrambled(path):
    data = bytearray(path.read_bytes())
    data[96:800] = bytes(704)
    path.write_bytes(data)


def emb_is_a_group(path):
    with h5py.File(path, "w") as file:
        file.create_group("emb")


def with_another_name(path):
    with h5py.File(path, "w") as file:
        file["embs"] = EMBS


def embeddings(value):
    return lambda path: write(path, value)


def ending_with(value, count):
    embs = np.zeros((50, 7), np.float64)
    embs[-count:, 1] = value
    return embeddings(embs)


# name: what is done to the file, words of the message in their order.
BAD = {
    "an empty file": (lambda path: path.write_bytes(b""), "emb.h5 cannot be read as HDF5"),
    "a CSV": (lambda path: path.write_text("1,a.jpg\n"), "emb.h5 cannot be read as HDF5"),
    "cut": (cut, "emb.h5 cannot be read as HDF5.*embed.py"),
    "scrambled": (scrambled, "emb.h5 cannot be read as HDF5.*embed.py"),
    "no emb": (with_another_name, "emb.h5 .*`emb`.*Received: .'embs'.*embed.py"),
    "emb a group": (emb_is_a_group, "emb.h5 .*`emb`"),
    "emb a scalar": (embeddings(1.5), "`emb` in .*emb.h5 .*Received: float64 .."),
    "emb of 1 axis": (embeddings(np.zeros(50)), r"`emb` in .*Received: float64 \[50\]"),
    "emb of 3 axes": (embeddings(np.zeros((2, 3, 2), "f4")), r"Received: float32 \[2, 3, 2\]"),
    "emb of integers": (embeddings(np.zeros((50, 2), int)), r"floats.*Received: int64 \[50, 2\]"),
    "emb of text": (embeddings([["a"]] * 50), "emb.h5 .*floats.*Received: object"),
    "emb of no dimension": (embeddings(np.zeros((50, 0))), r"Received: float64 \[50, 0\]"),
    "too few rows": (embeddings(EMBS[:49]), "emb.h5 .*emb.csv.*49 embeddings, 50 images"),
    "too many rows": (embeddings(np.zeros((51, 2))), "51 embeddings, 50 images"),
    "NaN": (ending_with(np.nan, 2), "2 of the 50 embeddings in .*emb.h5 are NaN .* row 48"),
    "infinite": (ending_with(-np.inf, 1), "1 of the 50 embeddings in .*emb.h5 .* row 49"),
    "beyond float32": (ending_with(1e300, 50), "50 of the 50 .*infinite in float32.* row 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_told(name, tmp_path):
    change, words = BAD[name]
    path = tmp_path / "emb.h5"
    write(path)
    change(path)
    with pytest.raises(UserError, match=words) as error:
        embeddings_file.load(path, "emb.csv", 50)
    assert "\n" not in str(error.value)


def test_differences_are_those_of_what_both_files_tell(tmp_path):
    paths = [tmp_path / "query.h5", tmp_path / "gallery.h5"]
    with embeddings_file.create(paths[0], 50, 7, ["a"], checkpoint="/exp/1") as file:
        file.add(EMBS)
    for types, checkpoint, wanted in (
        (["a"], "/exp/1", []),
        (["a"], "/exp/2", [("checkpoint", "/exp/1", "/exp/2")]),
        (["b"], "/exp/1", [("augmentation_types", [b"a"], [b"b"])]),
        ((), None, []),
    ):
        with embeddings_file.create(paths[1], 50, 7, types, checkpoint) as file:
            file.add(EMBS)
        assert embeddings_file.differences(*paths) == wanted


@pytest.mark.parametrize("checkpoint", ["/exp/checkpoint-5", None])
def test_the_checkpoint_of_a_file_is_told_where_it_is_known(checkpoint, tmp_path):
    with embeddings_file.create(tmp_path / "a.h5", 0, 1, checkpoint=checkpoint):
        pass
    assert embeddings_file.checkpoint_of(tmp_path / "a.h5") == checkpoint
