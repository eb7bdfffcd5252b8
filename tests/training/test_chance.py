import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from common import UserError
from training import chance


def parts(values):
    return {str(pid): value for pid, value in enumerate(values)}


def of(*rises):
    return chance.of_rise(parts([0.5] * len(rises)), parts(0.5 + np.array(rises)))


def test_it_is_the_share_of_signs_that_rise_by_as_much():
    assert of(0.25) == 1 / 2
    assert of(0.25, 0.5) == 1 / 4
    assert of(0.25, 0.5, -0.125) == 2 / 8  # or with the last one up, too
    assert of(0.125, 0.125, 0.125, 0.125) == 1 / 16
    assert of(0.0, 0.0) == 1.0
    assert of(-0.25) == 1.0
    rng = np.random.default_rng(3)
    for _ in range(20):
        rises = rng.normal(0.1, 1.0, 9)
        ways = [np.dot(signs, rises) for signs in itertools.product((1, -1), repeat=9)]
        assert of(*rises) == np.mean(np.array(ways) >= rises.sum() - 1e-9)


def test_many_pids_stand_for_all_signs_and_are_always_the_same():
    rises = np.random.default_rng(4).normal(0.3, 1.0, 20)
    sums = (1 - 2 * (np.arange(2**20)[:, None] >> np.arange(20) & 1)) @ rises
    exact = np.mean(sums >= rises.sum() - 1e-9)
    assert 0.02 < exact < 0.5
    assert of(*rises) == pytest.approx(exact, abs=3 * (exact / 4095) ** 0.5)
    assert of(*rises) == of(*rises)
    assert of(*[0.1] * 300) == 1 / 4096


def test_other_pids_are_refused():
    with pytest.raises(UserError, match="Received: 2 pids, validation-0.json has 2, and 2 are"):
        chance.of_rise({"a": 0.1, "b": 0.2}, {"b": 0.2, "c": 0.3})


def test_parts_of_pids_add_up_to_the_map():
    query = SimpleNamespace(pids=["a", "b", "a", "c", "b"])
    aps = [0.5, 1.0, 0.25, None, 0.125]
    found = chance.by_pid(SimpleNamespace(query=query, aps=aps))
    assert found == {"a": 0.75 / 4, "b": 1.125 / 4}
    assert sum(found.values()) == np.mean([0.5, 1.0, 0.25, 0.125])


def test_they_are_kept_and_a_damaged_file_is_told(tmp_path):
    chance.write(tmp_path, {"a": 0.1, "b": 1 / 3})
    assert chance.read(tmp_path) == {"a": 0.1, "b": 1 / 3}
    path = tmp_path / chance.NAME
    for content in (path.read_text().replace("0.1", "0.2"), "{", "[]", '{"by_pid": 3}'):
        path.write_text(content)
        with pytest.raises(UserError, match="cannot be read .*set val_beyond_chance to false"):
            chance.read(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        chance.read(tmp_path)
