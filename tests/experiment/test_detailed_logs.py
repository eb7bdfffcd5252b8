import json

import numpy as np
import pytest

import common
from experiment import detailed_logs
from experiment.detailed_logs import DetailedLogs, read
from runtime import terminal


def write(path, dtype, shape, rows):
    with DetailedLogs(path.parent, {path.name: (dtype, shape)}) as logs:
        for index, row in rows.items():
            logs.write(index, **{path.name: row})
        logs.sync()


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "losses", np.float32, (3, 4), {1: [1, 2, 3, 4]})
    np.testing.assert_array_equal(read(tmp_path / "losses"), [[0] * 4, [1, 2, 3, 4], [0] * 4])
    assert json.loads((tmp_path / "losses.json").read_text()) == {"dtype": "<f4", "shape": [3, 4]}
    assert (tmp_path / "losses").stat().st_size == 3 * 4 * 4


def test_a_longer_run_keeps_the_rows_and_a_shorter_one_does_not_cut_them(tmp_path):
    write(tmp_path / "fids", "S5", (2, 1), {0: [b"ab"], 1: [b"abcde"]})
    for rows in (4, 1):
        write(tmp_path / "fids", "S5", (rows, 1), {})
        assert read(tmp_path / "fids").tolist() == [[b"ab"], [b"abcde"], [b""], [b""]]


@pytest.mark.parametrize(
    "dtype, shape", [(np.float64, (2, 3)), (np.float32, (2, 4)), (np.float32, (2, 3, 1))]
)
def test_another_kind_of_rows_is_refused_and_nothing_is_changed(tmp_path, dtype, shape):
    write(tmp_path / "x", np.float32, (2, 3), {0: [7, 7, 7], 1: [8, 8, 8]})
    with pytest.raises(common.UserError, match="does not go on"):
        write(tmp_path / "x", dtype, shape, {})
    np.testing.assert_array_equal(read(tmp_path / "x"), [[7] * 3, [8] * 3])


def test_a_row_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\[3\]. Received: \[2\]"):
        write(tmp_path / "x", np.float32, (2, 3), {0: [1, 2]})


def test_rows_of_files_that_are_not_kept_are_passed_over(tmp_path):
    with DetailedLogs(tmp_path, {}) as logs:
        logs.write(0, losses=[1, 2])
    assert not list(tmp_path.iterdir())


def test_the_layout_is_that_of_the_batches_and_of_the_longest_fid(tmp_path):
    layout = detailed_logs.layout(iterations=3, B=2, D=5, fids=["a", "ü.png"])
    assert layout == {
        "embeddings": (np.float32, (3, 2, 5)),
        "losses": (np.float32, (3, 2)),
        "fids": (np.dtype("S6"), (3, 2)),
    }


def test_the_iterations_that_ran_are_told(tmp_path):
    layout = detailed_logs.layout(iterations=4, B=2, D=3, fids=["a", "ü"])
    with pytest.raises(common.UserError, match="has no detailed logs. Train with --detailed_logs"):
        detailed_logs.read_all(tmp_path)
    with DetailedLogs(tmp_path, layout) as logs:
        with pytest.raises(common.UserError, match="no iteration"):
            detailed_logs.read_all(tmp_path)
        for row in (0, 1):
            fids = ["ü".encode(), b"a"]
            logs.write(row, embeddings=np.full((2, 3), row), losses=[row, 2], fids=fids)
    logged = detailed_logs.read_all(tmp_path)
    assert logged.rows.tolist() == [0, 1]
    assert logged.losses[logged.rows].tolist() == [[0, 2], [1, 2]]
    assert logged.fids[1].tolist() == ["ü".encode(), b"a"]
    assert (logged.embeddings[1] == 1).all()


# ------------------------------------------------------------------------- damaged files


def logs_of(root, iterations=4):
    layout = detailed_logs.layout(iterations, B=2, D=3, fids=["a", "ü.png"])
    rng = np.random.default_rng(0)
    with DetailedLogs(root, layout) as logs:
        for row in range(iterations):
            embs = rng.normal(size=(2, 3))
            logs.write(row, embeddings=embs, losses=rng.random(2), fids=[b"a", "ü.png".encode()])
    return layout


DESCRIPTIONS = {
    "pointers": {"dtype": "O", "shape": [4, 2]},
    "records": {"dtype": [["a", "O"]], "shape": [4, 2]},
    "records as text": {"dtype": "O,f4", "shape": [4, 2]},
    "dates": {"dtype": "<M8[s]", "shape": [4, 1]},
    "bytes without end": {"dtype": "|S9999999", "shape": [4, 2]},
    "no bytes": {"dtype": "|S0", "shape": [4, 2]},
    "no dtype": {"shape": [4, 2]},
    "null": {"dtype": None, "shape": [4, 2]},
    "more than the file": {"dtype": "<f4", "shape": [5, 2]},
    "rows of another size": {"dtype": "<f4", "shape": [4, 3]},
    "more than the memory": {"dtype": "<f4", "shape": [2**40, 2**40]},
    "below zero": {"dtype": "<f4", "shape": [-4, -2]},
    "nothing": {"dtype": "<f4", "shape": [0, 2]},
    "no shape": {"dtype": "<f4", "shape": []},
    "a shape in words": {"dtype": "<f4", "shape": "42"},
    "true": {"dtype": "<f4", "shape": [4, True]},
    "halves": {"dtype": "<f4", "shape": [4, 2.0]},
    "a number": 4,
    "a list": ["<f4", [4, 2]],
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_that_makes_no_sense_is_told(name, tmp_path):
    layout = logs_of(tmp_path)
    (tmp_path / "losses.json").write_text(json.dumps(DESCRIPTIONS[name]))
    for reader in (
        lambda: read(tmp_path / "losses"),
        lambda: detailed_logs.read_all(tmp_path),
        lambda: DetailedLogs(tmp_path, layout),  # train.py --resume
    ):
        with pytest.raises(
            common.UserError, match=r"the detailed log .*losses is damaged"
        ) as error:
            reader()
        assert "\n" not in str(error.value) and len(str(error.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[" * 10**5, '{"dtype": NaN}', '{"shape": 1e999}'])
def test_a_description_that_is_no_json_is_told(content, tmp_path):
    logs_of(tmp_path)
    (tmp_path / "fids.json").write_text(content)
    with pytest.raises(common.UserError, match="the detailed log .*fids is damaged"):
        detailed_logs.read_all(tmp_path)


def test_files_that_are_cut_or_do_not_belong_together_are_told(tmp_path):
    logs_of(tmp_path)
    whole = (tmp_path / "losses").read_bytes()
    for size in (0, 1, len(whole) - 1, len(whole) - 8):
        (tmp_path / "losses").write_bytes(whole[:size])
        with pytest.raises(common.UserError, match="losses is damaged: .* of .* bytes"):
            detailed_logs.read_all(tmp_path)
    (tmp_path / "losses").write_bytes(whole)
    for name, description in (
        ("losses", {"dtype": "<f4", "shape": [8, 1]}),
        ("losses", {"dtype": "|S4", "shape": [4, 2]}),
        ("embeddings", {"dtype": "<f4", "shape": [4, 6]}),
        ("embeddings", {"dtype": "<f4", "shape": [4, 3, 2]}),
    ):
        path = tmp_path / f"{name}.json"
        before = path.read_text()
        path.write_text(json.dumps(description))
        with pytest.raises(common.UserError, match="do not belong together"):
            detailed_logs.read_all(tmp_path)
        path.write_text(before)
    detailed_logs.read_all(tmp_path)


def test_a_file_that_grew_before_a_kill_is_read(tmp_path):
    """Its description is that of before."""
    logs_of(tmp_path, iterations=2)
    before = (tmp_path / "losses.json").read_text()
    with DetailedLogs(tmp_path, detailed_logs.layout(4, 2, 3, ["a", "ü.png"])):
        (tmp_path / "losses.json").write_text(before)
    assert read(tmp_path / "losses").shape == (4, 2)
    assert detailed_logs.read_all(tmp_path).rows.tolist() == [0, 1]


def test_damaged_rows_are_left_out(tmp_path, capfd):
    terminal.setup_logging("test")
    logs_of(tmp_path)
    assert detailed_logs.read_all(tmp_path).rows.tolist() == [0, 1, 2, 3]
    for name, row in (("embeddings", 1), ("fids", 3)):
        content = bytearray((tmp_path / name).read_bytes())
        content[row * len(content) // 4] ^= 1
        (tmp_path / name).write_bytes(content)
    assert detailed_logs.read_all(tmp_path).rows.tolist() == [0, 2]
    assert "2 of 4 iterations in the detailed logs" in capfd.readouterr().err
    for name in ("checksums", "checksums.json"):  # an older version's
        (tmp_path / name).unlink()
    assert detailed_logs.read_all(tmp_path).rows.tolist() == [0, 1, 2, 3]
    with DetailedLogs(tmp_path, detailed_logs.layout(4, 2, 3, ["a", "ü.png"])):
        # It goes on: the rows of before have no checksums.
        assert detailed_logs.read_all(tmp_path).rows.tolist() == [0, 1, 2, 3]
