import numpy as np
import pytest

import common
from data.holdout import hold_out

PIDS = np.repeat([f"{pid:02d}" for pid in range(20)], 4)
CAMERAS = np.tile(["a", "a", "b", "c"], 20)


def test_the_same_seed_holds_out_the_same_and_another_others():
    first = hold_out(PIDS, None, 5, seed=3)
    again = hold_out(PIDS, None, 5, seed=3)
    assert np.array_equal(first.held, again.held) and np.array_equal(first.queries, again.queries)
    assert not np.array_equal(first.held, hold_out(PIDS, None, 5, seed=4).held)
    # A training that is resumed by a later version has to hold out the same.
    assert sorted(set(PIDS[first.held])) == ["02", "03", "04", "05", "19"]


def test_whole_pids_are_held_out_as_many_as_asked_for():
    for amount, count in ((2, 2), (7, 7), (0.25, 5), (0.01, 2)):
        held, queries, _ = hold_out(PIDS, None, amount, seed=0)
        assert len(set(PIDS[held])) == count
        assert not set(PIDS[held]) & set(PIDS[~held])
        assert np.array_equal(queries, np.flatnonzero(held))


def test_with_cameras_one_image_of_each_pid_and_camera_is_a_query():
    held, queries, _ = hold_out(PIDS, CAMERAS, 6, seed=1)
    pairs = list(zip(PIDS[queries], CAMERAS[queries], strict=True))
    assert len(set(pairs)) == len(pairs) == 18 and set(PIDS[queries]) == set(PIDS[held])
    assert np.array_equal(queries, np.sort(queries)) and held[queries].all()
    of_two = {row % 4 for row in queries if CAMERAS[row] == "a"}
    assert of_two == {0, 1}  # either of the two images of camera a


def test_a_pid_that_cannot_be_found_again_is_not_held_out():
    pids = np.array(["a", "b", "b", "c", "c", "d", "d"])
    for seed in range(5):
        assert set(pids[hold_out(pids, None, 3, seed).held]) == {"b", "c", "d"}
        cameras = ["1", "1", "1", "1", "2", "1", "2"]
        assert set(pids[hold_out(pids, cameras, 2, seed).held]) == {"c", "d"}
        junk = np.array([False, False, False, False, True, False, False])
        held, queries, _ = hold_out(pids, None, 2, seed, junk)
        assert set(pids[held]) == {"b", "d"}
    with pytest.raises(
        common.UserError, match=r"4 holds out 4 pids, but only 3 of the 4 .* two images, so"
    ):
        hold_out(pids, None, 4, seed=0)
    with pytest.raises(
        common.UserError, match=r"0.9 holds out 4 pids, but only 2 .* images of two cameras"
    ):
        hold_out(pids, cameras, 0.9, seed=0)


def test_distractors_are_of_the_other_pids_and_change_nothing_else():
    without = hold_out(PIDS, CAMERAS, 5, seed=3)
    assert np.array_equal(without.gallery, without.held)
    junk = np.arange(80) % 4 == 1
    for junk_or_none in (None, junk):
        without = hold_out(PIDS, CAMERAS, 5, seed=3, junk=junk_or_none)
        others = 60 if junk_or_none is None else 45
        for asked, got in ((1, 1), (30, 30), (others, others), (1000, others)):
            found = hold_out(PIDS, CAMERAS, 5, seed=3, junk=junk_or_none, distractors=asked)
            assert np.array_equal(found.held, without.held)
            assert np.array_equal(found.queries, without.queries)
            assert found.gallery[found.held].all()
            drawn = found.gallery & ~found.held
            assert drawn.sum() == got
            assert junk_or_none is None or not (drawn & junk).any()
    few, more, others = (
        hold_out(PIDS, None, 5, seed, distractors=count).gallery
        for seed, count in ((3, 20), (3, 30), (4, 20))
    )
    assert more[few].all() and not np.array_equal(few, others)


def test_junk_is_no_query_but_not_trained_on_either():
    pids = np.array(["a", "a", "a", "b", "b", "b"])
    junk = np.array([False, True, False, False, False, False])
    held, queries, _ = hold_out(pids, None, 2, 0, junk)
    assert held.all() and queries.tolist() == [0, 2, 3, 4, 5]
