import json

import numpy as np
import pytest

import common
import detailed_logs


def test_what_is_written_is_read_back(tmp_path):
    log = detailed_logs.open_to_write(tmp_path / "losses", np.float32, (3, 4))
    log[1] = [1, 2, 3, 4]
    log.flush()
    np.testing.assert_array_equal(detailed_logs.open_to_read(tmp_path / "losses"), [[0] * 4, [1, 2, 3, 4], [0] * 4])
    assert json.loads((tmp_path / "losses.json").read_text()) == {"dtype": "<f4", "shape": [3, 4]}


def test_a_longer_run_keeps_the_rows_and_a_shorter_one_does_not_cut_them(tmp_path):
    detailed_logs.open_to_write(tmp_path / "fids", "S5", (2, 1))[:] = [[b"ab"], [b"abcde"]]
    for rows in (4, 1):
        log = detailed_logs.open_to_write(tmp_path / "fids", "S5", (rows, 1))
        assert log.shape == (4, 1)
        assert log[:, 0].tolist() == [b"ab", b"abcde", b"", b""]


@pytest.mark.parametrize("dtype, shape", [(np.float64, (2, 3)), (np.float32, (2, 4)), (np.float32, (2, 3, 1))])
def test_another_kind_of_rows_is_refused_and_nothing_is_changed(tmp_path, dtype, shape):
    detailed_logs.open_to_write(tmp_path / "x", np.float32, (2, 3))[:] = 7
    with pytest.raises(common.UserError, match="does not go on"):
        detailed_logs.open_to_write(tmp_path / "x", dtype, shape)
    np.testing.assert_array_equal(detailed_logs.open_to_read(tmp_path / "x"), np.full((2, 3), 7))
