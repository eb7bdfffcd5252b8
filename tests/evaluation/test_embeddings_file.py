import contextlib
import fcntl
import os
import resource
import zlib

import h5py
import numpy as np
import pytest

from common import UserError
from data.dataset import Dataset, load
from evaluation import embeddings_file
from evaluation.embeddings_file import Origin
from runtime import terminal

EMBS = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)


def images(count, path="emb.csv"):
    fids = [f"{row}.jpg" for row in range(count)]
    return Dataset(["1"] * count, fids, path)


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
        assert list(file) == ["emb"] and list(file.attrs) == ["crc32"]
        assert file.attrs["crc32"] == zlib.crc32(EMBS.tobytes())
    np.testing.assert_array_equal(embeddings_file.load(path, images(50)), EMBS)
    np.testing.assert_array_equal(embeddings_file.head(path, images(50), 3), EMBS[:3])
    assert embeddings_file.may_be_replaced(path)


def test_views_and_how_they_were_made_are_in_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["original_resize", "original_flip_resize"]
    views = np.stack([EMBS, EMBS + 2])
    origin = Origin("exp/checkpoint-5", names, "mean", "images", orientation="exif")
    with embeddings_file.create("emb.h5", 50, 7, origin, images(50).fids) as file:
        file.add(views[:, :30].mean(axis=0), views[:, :30])
        file.add(views[:, 30:].mean(axis=0), views[:, 30:])
    with h5py.File("emb.h5") as file:
        assert file["emb"].dtype == file["emb_aug"].dtype == np.float32
        np.testing.assert_array_equal(file["emb"][()], views.mean(axis=0))
        np.testing.assert_array_equal(file["emb_aug"][()], views)
        assert file["augmentation_types"][()].astype(str).tolist() == names
        assert file["fids"].asstr()[()].tolist() == images(50).fids.tolist()
        assert file.attrs["checkpoint"] == str(tmp_path / "exp/checkpoint-5")
    assert embeddings_file.origin("emb.h5") == Origin(
        checkpoint=str(tmp_path / "exp/checkpoint-5"),
        augmentation_types=tuple(names),
        aggregator="mean",
        image_root=str(tmp_path / "images"),
        orientation="exif",
    )


def test_the_embeddings_of_one_view_are_not_there_twice(tmp_path):
    origin = Origin(augmentation_types=("original_center",))
    with embeddings_file.create(tmp_path / "emb.h5", 50, 7, origin) as file:
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


@contextlib.contextmanager
def small_disk(size):
    """A limit on the size of files, in bytes, stands for a full disk.

    Only within the block: pytest's own output may go to a file that is larger.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 3000, 10**5, 10**6])
def test_a_full_disk_is_told_before_the_first_row(tmp_path, size):
    origin = Origin("c", ("a", "b"))
    with (
        small_disk(size),
        pytest.raises(OSError, match="File too large"),
        embeddings_file.create(tmp_path / "emb.h5", 10**4, 32, origin, images(10**4).fids),
    ):
        pytest.fail("the room should be taken first")
    assert not list(tmp_path.iterdir())


def test_the_room_that_was_taken_is_enough(tmp_path):
    path = tmp_path / "emb.h5"
    fids = ["x" * (row % 97) for row in range(1000)]
    with embeddings_file.create(path, 1000, 3, Origin("c", ("a", "b", "c"), "mean"), fids) as file:
        partial = max(tmp_path.iterdir(), key=os.path.getsize)  # beside its lock
        room = partial.stat().st_size
        assert partial.stat().st_blocks * 512 >= room
        for row in range(1000):
            file.add(np.full((1, 3), row), np.full((3, 1, 3), row))
        with pytest.raises(ValueError, match="room for 1000 embeddings. Received: 1001"):
            file.add(np.zeros((1, 3)), np.zeros((3, 1, 3)))
        with pytest.raises(ValueError, match=r"should be \[1, 3\] in each of 4"):
            file.add(np.zeros((1, 3)), np.zeros((2, 1, 3)))
    assert path.stat().st_size == room
    embs = embeddings_file.load(path, Dataset(fids, fids, "x.csv"))
    np.testing.assert_array_equal(embs, np.arange(1000)[:, None] * np.ones(3))


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
    got = embeddings_file.load(tmp_path / "emb.h5", images(50))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, EMBS, rtol=1e-3)


def test_what_lies_in_one_piece_is_mapped_and_not_read(tmp_path):
    with h5py.File(tmp_path / "emb.h5", "w", userblock_size=512) as file:
        file["augmentation_types"] = np.array(["original_resize"], dtype="S")
        file["emb"] = EMBS
    got = embeddings_file.load(tmp_path / "emb.h5", images(50))
    assert got.dtype == np.float32
    assert not got.flags.owndata and not got.flags.writeable
    np.testing.assert_array_equal(got, EMBS)


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


def with_emb(make):
    """A file of which `make`, given the file and the folder, makes `emb`."""

    def change(path):
        with h5py.File(path, "w") as file:
            make(file, path.parent)

    return change


def elsewhere(folder):
    """Another file: what is in it should not be read."""
    with h5py.File(folder / "other.h5", "w") as file:
        file["emb"] = EMBS
    EMBS.tofile(folder / "other.raw")
    return folder / "other.h5"


def external_link(file, folder):
    file["emb"] = h5py.ExternalLink(elsewhere(folder).name, "emb")


def broken_external_link(file, folder):
    file["emb"] = h5py.ExternalLink("nowhere.h5", "emb")


def soft_link(file, folder):
    file["other"] = EMBS
    file["emb"] = h5py.SoftLink("/other")


def raw_storage(file, folder):
    elsewhere(folder)
    raw = [(str(folder / "other.raw"), 0, EMBS.nbytes)]
    file.create_dataset("emb", EMBS.shape, np.float32, external=raw)


def missing_raw_storage(file, folder):
    file.create_dataset("emb", EMBS.shape, np.float32, external=[("nowhere", 0, EMBS.nbytes)])


def virtual(name):
    def make(file, folder):
        elsewhere(folder)
        layout = h5py.VirtualLayout(EMBS.shape, np.float32)
        layout[:] = h5py.VirtualSource(folder / name, "emb", EMBS.shape)
        file.create_virtual_dataset("emb", layout)

    return make


def claimed(shape, **options):
    return lambda file, folder: file.create_dataset("emb", shape, np.float32, **options)


def half_written(file, folder):
    emb = file.create_dataset("emb", EMBS.shape, np.float32, chunks=(10, 7))
    emb[:30] = EMBS[:30]
    file["filler"] = np.zeros(1000)


def with_damaged_heap(offset, value):
    """A number of the heap of fids is another one. HDF5 would not come to an end, or nearly so."""

    def change(path):
        path.unlink()
        with embeddings_file.create(path, 50, 7, Origin("/c"), images(50).fids) as file:
            file.add(EMBS)
        content = bytearray(path.read_bytes())
        place = content.index(b"GCOL") + 16 + offset
        content[place : place + 8] = value.to_bytes(8, "little")
        path.write_bytes(content)

    return change


# name: what is done to the file, words of the message in their order.
BAD = {
    "free space of 0 bytes": (with_damaged_heap(0, 0), "emb.h5 .*its heap at byte 2048 is damaged"),
    "a text of much": (with_damaged_heap(8, 2**60), "its heap at byte 2048 is damaged"),
    "a text below zero": (with_damaged_heap(8, 2**64 - 40), "its heap at byte 2048 is damaged"),
    "an external link": (with_emb(external_link), "`emb` is a link: copy what it leads to"),
    "a broken external link": (with_emb(broken_external_link), "`emb` is a link"),
    "a soft link": (with_emb(soft_link), "`emb` is a link"),
    "raw storage": (with_emb(raw_storage), "`emb` is kept in other files: copy it into one"),
    "missing raw storage": (with_emb(missing_raw_storage), "`emb` is kept in other files"),
    "virtual": (with_emb(virtual("other.h5")), "`emb` is kept in other files"),
    "virtual, missing": (with_emb(virtual("nowhere.h5")), "`emb` is kept in other files"),
    "a claim of much": (
        with_emb(claimed((50, 10**12))),
        "`emb` would be of 200000000000000 bytes, in a file of",
    ),
    "a claim of many chunks": (
        with_emb(claimed((50, 10**9), chunks=(1, 1000), compression="gzip")),
        "`emb` would be of 200000000000 bytes",
    ),
    "never written": (with_emb(claimed((50, 2))), "`emb` was never written, or not to its end"),
    "half written": (with_emb(half_written), "`emb` was never written, or not to its end"),
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
        embeddings_file.load(path, images(50))
    assert "\n" not in str(error.value)


def test_only_the_dimension_is_bounded_by_the_size_of_the_file(tmp_path):
    """Zeros that were packed well are no damage."""
    with h5py.File(tmp_path / "emb.h5", "w") as file:
        file.create_dataset("emb", data=np.zeros((50, 10**4), "f4"), compression="gzip")
    assert (tmp_path / "emb.h5").stat().st_size < 50 * 10**4
    assert embeddings_file.load(tmp_path / "emb.h5", images(50)).shape == (50, 10**4)


def test_attributes_of_any_type_do_no_harm(tmp_path):
    values = (
        h5py.Empty("f4"),
        np.zeros((2, 3)),
        np.void(b"opaque"),
        np.array([b"a", b"b"]),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.float64("nan"),
        np.uint64(2**64 - 1),
        True,
    )
    for value in values:
        path = tmp_path / "emb.h5"
        write(path)
        with h5py.File(path, "a") as file:
            for name in ("checkpoint", "aggregator", "image_root"):
                file.attrs[name] = value
            file.attrs["reference"] = file["emb"].ref
            if not isinstance(value, np.integer):
                file.attrs["crc32"] = value
        assert embeddings_file.origin(path) == Origin()
        np.testing.assert_array_equal(embeddings_file.load(path, images(50)), EMBS)


def test_augmentation_types_of_any_kind_are_text_or_none(tmp_path):
    cases = ((np.arange(2), ("0", "1")), (np.zeros((2, 2)), None), (b"a", None))
    for value, wanted in cases:
        with h5py.File(tmp_path / "emb.h5", "w") as file:
            file["augmentation_types"] = value
        assert embeddings_file.origin(tmp_path / "emb.h5").augmentation_types == wanted


def test_a_change_of_the_numbers_is_told(tmp_path, capfd):
    terminal.setup_logging("test")
    path = tmp_path / "emb.h5"
    with embeddings_file.create(path, 50, 7, fids=images(50).fids) as file:
        file.add(EMBS[:20])
        file.add(EMBS[20:])
    embeddings_file.load(path, images(50))
    assert not capfd.readouterr().err
    with h5py.File(path, "r+") as file:
        file["emb"][49, 6] += np.float32(1e-6)
    embeddings_file.load(path, images(50))
    assert "emb.h5 was changed after embed.py wrote it." in capfd.readouterr().err


def test_a_file_that_another_program_has_locked_is_read(tmp_path):
    write(tmp_path / "emb.h5")
    with open(tmp_path / "emb.h5") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        np.testing.assert_array_equal(embeddings_file.load(tmp_path / "emb.h5", images(50)), EMBS)


def test_differences_are_those_of_what_both_files_tell():
    one = Origin("/exp/1", ("a",), "mean")
    for other, wanted in (
        (one, []),
        (Origin(), []),
        (Origin("/exp/2", image_root="/x"), [("checkpoint", "/exp/1", "/exp/2")]),
        (Origin(augmentation_types=("b", "c")), [("augmentation_types", "a", "b, c")]),
        (Origin(aggregator="normalized_mean"), [("aggregator", "mean", "normalized_mean")]),
    ):
        assert embeddings_file.differences(one, other) == wanted


def test_fingerprints_of_the_network_count_where_both_files_have_one():
    one = Origin("/exp/1", network="sha256 0123456789abcdef")
    moved = one._replace(checkpoint="/moved/1")
    assert embeddings_file.differences(one, moved) == []
    assert embeddings_file.differences(one._replace(network=None), moved) == [
        ("checkpoint", "/exp/1", "/moved/1")
    ]
    trained_anew = one._replace(network="sha256 fedcba9876543210")
    assert embeddings_file.differences(one, trained_anew) == [
        ("network", "/exp/1 (sha256 0123456789ab...)", "/exp/1 (sha256 fedcba987654...)")
    ]
    other = trained_anew._replace(checkpoint="/exp/2")
    assert embeddings_file.differences(one, other) == [("checkpoint", "/exp/1", "/exp/2")]


# ------------------------------------------------------------------------- rows and fids


def with_fids(path, fids, **origin):
    count = len(fids)
    views = len(origin.get("augmentation_types", ()))
    with embeddings_file.create(path, count, 7, Origin(**origin), fids) as file:
        file.add(EMBS[:count], np.stack([EMBS[:count]] * views) if views else None)
    return path


def test_fids_of_any_text_are_compared_with_the_csv(tmp_path):
    fids = ["a b.jpg", "ä/ö,ü.png", '"q".jpg', "日本/1.jpg", "a" * 300]
    path = with_fids(tmp_path / "emb.h5", fids)
    got = embeddings_file.load(path, Dataset(["1"] * 5, fids, "emb.csv"))
    np.testing.assert_array_equal(got, EMBS[:5])


def test_one_file_under_another_name_is_the_same_row(tmp_path):
    path = with_fids(tmp_path / "emb.h5", ["x.jpg", "a//y.jpg", "a/../z.jpg"])
    embeddings_file.load(path, Dataset(["1"] * 3, ["./x.jpg", "a/y.jpg", "z.jpg"], "emb.csv"))


# name: the fids of the CSV, words of the message
OTHER_ROWS = {
    "sorted anew": ("c b a", "another order than emb.csv: .* is 1, 'a' there and 'c' in the CSV"),
    "one line moved": (
        "a c b",
        "another order than emb.csv: .* is 2, 'b' there and 'c' in the CSV",
    ),
    "another image": ("a b d", "other images than emb.csv: .* is 3, 'c' there and 'd' in the CSV"),
    "one twice": ("a b b", "other images than emb.csv: .* is 3, 'c' there and 'b' in the CSV"),
}


@pytest.mark.parametrize("name", OTHER_ROWS)
def test_other_rows_are_refused_with_the_first_that_differs(name, tmp_path):
    fids, words = OTHER_ROWS[name]
    path = with_fids(tmp_path / "emb.h5", ["a", "b", "c"])
    csv = Dataset(["1"] * 3, fids.split(), "emb.csv")
    for read in (
        lambda: embeddings_file.load(path, csv),
        lambda: embeddings_file.head(path, csv, 1),
    ):
        with pytest.raises(UserError, match=f"emb.h5 .*{words}.*or embed this one") as error:
            read()
        assert "\n" not in str(error.value)


def test_a_file_of_before_says_no_fids_and_goes_on_with_one_line(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(embeddings_file.log, "warning", warnings.append)
    write(tmp_path / "emb.h5")
    embeddings_file.load(tmp_path / "emb.h5", images(50))
    (message,) = warnings
    assert "emb.h5 does not say which images" in message
    assert "emb.csv" in message and "\n" not in message


def test_fids_of_another_number_than_embeddings_are_damage(tmp_path):
    path = with_fids(tmp_path / "emb.h5", ["a", "b", "c"])
    with h5py.File(path, "a") as file:
        del file["fids"]
        file["fids"] = ["a", "b"]
    with pytest.raises(UserError, match="damaged: it has 3 embeddings and 2 fids"):
        embeddings_file.load(path, Dataset(["1"] * 3, ["a", "b", "c"], "emb.csv"))


def test_what_a_new_file_would_replace(tmp_path):
    made = Origin("/exp/1", ("a", "b"), "mean", "/images", network="sha256 1", data="{}")
    path = with_fids(tmp_path / "emb.h5", ["a", "b", "c"], **made._asdict())

    def lost(fids="a b c", origin=made):
        fids = fids.split()
        return embeddings_file.what_would_be_lost(path, Dataset(fids, fids, "x.csv"), origin)

    assert lost() == lost("./a b c") == lost(origin=made._replace(image_root="/moved")) == []
    assert lost(origin=made._replace(data="{x}")) == []
    assert lost(origin=made._replace(network="sha256 2")) == [
        "network /exp/1 (sha256 1...), not /exp/1 (sha256 2...)"
    ]
    assert embeddings_file.origin(path) == made
    assert lost("a b") == ["3 images, not 2"]
    assert lost("a c b") == ["other images (in row 2 b, not c)"]
    assert lost(origin=Origin("/exp/2", ("a",), "mean")) == [
        "checkpoint /exp/1, not /exp/2",
        "augmentation_types a, b, not a",
    ]
    with h5py.File(path, "w") as file:
        file["layers"] = [1]
    assert lost() == ["no embeddings but layers"]
    assert not embeddings_file.may_be_replaced(path)  # a net's weights
    path.write_bytes(path.read_bytes()[:500])
    assert embeddings_file.may_be_replaced(path)  # damaged
    path.write_bytes(b"")
    assert lost() == []


def test_embeddings_that_moved_with_their_experiment_are_of_the_same_checkpoint(tmp_path):
    path = with_fids(tmp_path / "emb.h5", ["a"], checkpoint="/old/exp/checkpoint-5")
    csv = Dataset(["1"], ["a"], "x.csv")
    for name, count in (("checkpoint-5", 0), ("checkpoint-6", 1)):
        made = Origin(str(tmp_path / name))
        assert len(embeddings_file.what_would_be_lost(path, csv, made)) == count
    made = Origin("/elsewhere/checkpoint-5")
    assert len(embeddings_file.what_would_be_lost(path, csv, made)) == 1


def test_a_million_fids_are_written_and_compared(tmp_path):
    fids = [f"box/{row:07d}_c1s1_000001_00.jpg" for row in range(10**6)]
    embs = np.ones((10**6, 1), np.float32)
    with embeddings_file.create(tmp_path / "emb.h5", *embs.shape, fids=fids) as file:
        file.add(embs)
    fids[-1] = "x.jpg"
    with pytest.raises(UserError, match="first row that differs is 1000000, .* and 'x.jpg'"):
        embeddings_file.load(tmp_path / "emb.h5", Dataset(fids, fids, "emb.csv"))


def test_boxes_are_part_of_what_was_embedded(tmp_path):
    def boxed(x1):
        return Dataset(["1", "2"], ["a.jpg", "a.jpg"], "x.csv", boxes=[[x1, 0, 9, 9], [0] * 4])

    path = tmp_path / "emb.h5"
    with embeddings_file.create(path, 2, 3, fids=boxed(5).names()) as file:
        file.add(np.ones((2, 3), np.float32))
    assert embeddings_file.load(path, boxed(5)).shape == (2, 3)
    with pytest.raises(
        UserError, match=r"row that differs is 1, 'a.jpg#5,0,9,9' there and 'a.jpg#6,0,9,9'"
    ):
        embeddings_file.load(path, boxed(6))
    lost = embeddings_file.what_would_be_lost(path, boxed(6), Origin())
    assert lost == ["other images (in row 1 a.jpg#5,0,9,9, not a.jpg#6,0,9,9)"]


def test_a_split_is_found_in_the_file_of_all_rows(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("pid,fid,split\n1,a,train\n1,b,query\n2,c,gallery\n2,d,query\n")
    with embeddings_file.create(tmp_path / "emb.h5", 4, 1, fids=list("abcd")) as file:
        file.add(np.float32([[1], [2], [3], [4]]))
    queries = load(path, "query")
    assert embeddings_file.load_part(tmp_path / "emb.h5", queries, "query").tolist() == [[2], [4]]
    with pytest.raises(UserError, match="of other images than"):
        path.write_text("pid,fid,split\n1,a,train\n1,b,query\n2,x,gallery\n2,d,query\n")
        embeddings_file.load_part(tmp_path / "emb.h5", load(path, "query"), "query")
