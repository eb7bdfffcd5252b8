from collections import Counter

import numpy as np
import pytest

import common
from data import pk_sampler


def make(counts):
    """groups of a data set whose pids come in mixed order, `counts` images each."""
    pids = [f"{pid:04d}" for pid, count in enumerate(counts) for _ in range(count)]
    pids = list(np.random.default_rng(0).permutation(pids))
    return pids, pk_sampler.group_by_pid(pids)


def test_groups_hold_every_row_once_under_its_pid():
    pids, groups = make([3, 1, 5])
    assert [len(group) for group in groups] == [3, 1, 5]
    assert sorted(np.concatenate(groups)) == list(range(9))
    assert all(len({pids[row] for row in group}) == 1 for group in groups)


def test_leading_zeros_make_another_pid():
    assert len(pk_sampler.group_by_pid(["1", "01", "001", "1"])) == 3


@pytest.mark.parametrize("P, pids_count", [(4, 4), (4, 5), (4, 7), (4, 8), (1, 3), (3, 10)])
@pytest.mark.parametrize("K", [1, 2, 4])
def test_an_epoch_has_each_pid_at_most_once(P, pids_count, K):
    pids, groups = make([4] * pids_count)
    batches_per_epoch = pids_count // P
    drawn = list(pk_sampler.batches(groups, P, K, seed=5, start=0, end=6 * batches_per_epoch))
    orders = []
    for epoch in range(6):
        rows = np.concatenate(drawn[epoch * batches_per_epoch : (epoch + 1) * batches_per_epoch])
        by_pid = [pids[row] for row in rows[::K]]
        assert len(set(by_pid)) == len(by_pid) == batches_per_epoch * P
        orders.append(tuple(by_pid))
    if pids_count > 3:
        assert len(set(orders)) > 1


def test_a_batch_is_P_pids_of_K_different_images():
    pids, groups = make([4, 5, 9, 4, 100])
    for rows in pk_sampler.batches(groups, 3, 4, seed=1, start=0, end=50):
        assert rows.shape == (12,) and rows.dtype == np.int64
        assert len(set(rows)) == 12
        for of_one in rows.reshape(3, 4):
            assert len({pids[row] for row in of_one}) == 1


@pytest.mark.parametrize("count, K, allowed", [(1, 4, {(4,)}), (2, 4, {(2, 2)}), (3, 4, {(1, 1, 2), (2, 2)})])
def test_a_pid_with_few_images_repeats_them(count, K, allowed):
    _, groups = make([count] * 2)
    seen = set()
    for rows in pk_sampler.batches(groups, 2, K, seed=2, start=0, end=200):
        for of_one in rows.reshape(2, K):
            seen.add(tuple(sorted(Counter(of_one.tolist()).values())))
    assert seen == allowed


def test_every_image_gets_its_turn():
    _, groups = make([6, 2, 9, 4])
    drawn = np.concatenate(list(pk_sampler.batches(groups, 2, 2, seed=3, start=0, end=400)))
    counts = np.bincount(drawn, minlength=21)
    assert (counts > 0).all()
    # Each pid is drawn 400 times x 2 images, evenly spread over its own.
    for group in groups:
        np.testing.assert_allclose(counts[group], 400 / len(group), rtol=0.35)


@pytest.mark.parametrize("start", [1, 2, 3, 17, 60])
def test_a_stream_started_later_is_the_tail_of_the_whole(start):
    _, groups = make([3, 4, 5, 2, 8, 1, 4])
    whole = list(pk_sampler.batches(groups, 3, 4, seed=11, start=0, end=70))
    tail = list(pk_sampler.batches(groups, 3, 4, seed=11, start=start, end=70))
    np.testing.assert_array_equal(tail, whole[start:])


def test_the_seed_decides():
    _, groups = make([5] * 8)

    def stream(seed):
        return np.array(list(pk_sampler.batches(groups, 4, 2, seed, 0, 10)))

    np.testing.assert_array_equal(stream(7), stream(7))
    assert (stream(7) != stream(8)).any()


def test_more_pids_asked_for_than_there_are():
    _, groups = make([2, 2, 2])
    pk_sampler.check_enough_pids(groups, 3)
    with pytest.raises(common.UserError, match="--batch_p 4 .* 3 pids"):
        pk_sampler.check_enough_pids(groups, 4)
