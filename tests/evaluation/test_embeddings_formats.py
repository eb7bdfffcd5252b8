"""Embeddings in Parquet and .npy files: what embed.py writes of them, evaluate.py and search.py read."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import PROJECT

from common import UserError
from data.dataset import Dataset
from evaluation import embeddings_file, parquet_file
from evaluation.embeddings_file import Origin
from runtime import terminal

EMBS = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
FIDS = [f"{row}é.jpg" for row in range(50)]
IMAGES = Dataset(["1"] * 50, FIDS, "emb.csv")
ORIGIN = Origin("/exp/checkpoint-5", ("original_center",), None, "/images", orientation="exif")


def write(path, embs=EMBS, fids=FIDS, step=20):
    with embeddings_file.create(path, len(embs), embs.shape[1], ORIGIN, fids) as file:
        for start in range(0, len(embs), step):
            file.add(embs[start : start + step], embs[None, start : start + step])


@pytest.mark.parametrize("name", ["emb.parquet", "emb.npy", "EMB.NPY"])
def test_what_is_written_is_read_back(name, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "_ROWS", 20)  # three row groups
    path = tmp_path / name
    write(path)
    assert embeddings_file.is_embeddings(path) and embeddings_file.may_be_replaced(path)
    np.testing.assert_array_equal(embeddings_file.load(path, IMAGES), EMBS)
    np.testing.assert_array_equal(embeddings_file.head(path, IMAGES, 23), EMBS[:23])
    embs, fids = embeddings_file.load_alone(path)
    np.testing.assert_array_equal(embs, EMBS)
    if path.suffix == ".parquet":
        assert embeddings_file.origin(path) == ORIGIN and fids == FIDS
    else:
        assert embeddings_file.origin(path) == Origin() and fids is None


def test_other_programs_read_them(tmp_path):
    write(tmp_path / "emb.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "emb.npy"), EMBS)
    write(tmp_path / "emb.parquet")
    table = pq.read_table(tmp_path / "emb.parquet")
    assert table.schema.names == ["fid", "emb"] and table["fid"].to_pylist() == FIDS
    np.testing.assert_array_equal(np.stack(table["emb"].to_numpy()), EMBS)
    assert json.loads(table.schema.metadata[b"triplet_reid"])["checkpoint"] == "/exp/checkpoint-5"


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32())])
def test_lists_of_other_programs_are_read(kind, tmp_path):
    table = pa.table({"fid": FIDS, "emb": pa.array(EMBS.tolist(), kind), "more": [1] * 50})
    pq.write_table(table, tmp_path / "emb.parquet", row_group_size=15)
    read = embeddings_file.load(tmp_path / "emb.parquet", IMAGES)
    np.testing.assert_array_equal(read, EMBS)
    assert read.dtype == np.float32


def test_rows_and_their_order_are_those_of_the_csv(tmp_path, capfd):
    terminal.setup_logging("evaluate")
    write(tmp_path / "emb.parquet", fids=FIDS[::-1])
    with pytest.raises(UserError, match="in another order than emb.csv.*is 1, '49é.jpg' there"):
        embeddings_file.load(tmp_path / "emb.parquet", IMAGES)
    write(tmp_path / "emb.npy")
    embeddings_file.load(tmp_path / "emb.npy", IMAGES)
    assert (
        "does not say which images it has embeddings of, as .npy files:" in capfd.readouterr().err
    )


def test_a_file_appears_only_with_all_rows(tmp_path):
    for name in ("emb.parquet", "emb.npy"):
        with (
            pytest.raises(ValueError, match="should get 50 embeddings. Received: 20"),
            embeddings_file.create(tmp_path / name, 50, 7) as file,
        ):
            file.add(EMBS[:20])
        with (
            pytest.raises(ValueError, match="room for 10 embeddings. Received: 20"),
            embeddings_file.create(tmp_path / name, 10, 7) as file,
        ):
            file.add(EMBS[:20])
    assert not list(tmp_path.iterdir())


def test_bad_files_are_told(tmp_path):
    write(tmp_path / "cut.npy")
    write(tmp_path / "cut.parquet")
    write(tmp_path / "flipped.parquet")
    for name in ("cut.npy", "cut.parquet"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) - 300])
    content = bytearray((tmp_path / "flipped.parquet").read_bytes())
    content[content.index(EMBS[30].tobytes()) + 5] ^= 1
    (tmp_path / "flipped.parquet").write_bytes(content)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "flat.npy", EMBS[0])
    np.save(tmp_path / "nan.npy", np.full((50, 7), np.nan))
    np.save(tmp_path / "few.npy", EMBS[:20])
    ragged = [[1.0, 2.0]] * 49 + [[1.0]]
    pq.write_table(pa.table({"emb": ragged}), tmp_path / "ragged.parquet")
    pq.write_table(pa.table({"pid": FIDS, "fid": FIDS}), tmp_path / "set.parquet")
    cases = {
        "cut.npy": "cut.npy cannot be read as .npy",
        "cut.parquet": "cut.parquet cannot be read as Parquet",
        "flipped.parquet": "flipped.parquet cannot be read as Parquet.*checksum",
        "objects.npy": "objects.npy cannot be read as .npy",
        "flat.npy": r"should be floats \[images, dimension\]. Received: float32 \[7\]",
        "nan.npy": "50 of the 50 embeddings in .*nan.npy are NaN",
        "few.npy": "20 embeddings, 50 images",
        "ragged.parquet": "should have as many numbers in each row",
        "set.parquet": r"should hold a data set `emb`. Received: \['pid', 'fid'\]",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            embeddings_file.load(tmp_path / name, IMAGES)
    for name in ("set.parquet", "flat.npy", "objects.npy", "cut.parquet"):
        assert not embeddings_file.may_be_replaced(tmp_path / name)
    assert not embeddings_file.is_embeddings(tmp_path / "set.parquet")


def test_what_a_new_parquet_file_would_replace(tmp_path):
    write(tmp_path / "emb.parquet")
    lost = embeddings_file.what_would_be_lost
    assert lost(tmp_path / "emb.parquet", IMAGES, ORIGIN) == []
    other = ORIGIN._replace(augmentation_types=("original_resize",))
    assert lost(tmp_path / "emb.parquet", IMAGES, other) == [
        "augmentation_types original_center, not original_resize"
    ]
    assert lost(tmp_path / "emb.parquet", IMAGES.select(slice(9)), ORIGIN) == ["50 images, not 9"]


def test_without_pyarrow_a_parquet_file_is_refused_in_one_line():
    code = (
        "import sys; sys.modules['pyarrow'] = None; from evaluation import embeddings_file as e; "
    )
    code += "e.check_format('x.npy'); e.check_format('x.parquet')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert "UserError: x.parquet is a Parquet file, which needs pyarrow." in done.stderr
