import json

import numpy as np
import pytest

import common
from experiment import detailed_logs
from experiment.detailed_logs import DetailedLogs, read


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
