from collections import Counter

import numpy as np
import pytest

import common
from data import pk_sampler

# From the sampler as it was before --cameras.
GOLDEN = [
    [2, 1, 1, 0, 13, 15, 12, 14],
    [9, 9, 10, 10, 8, 5, 6, 4],
    [1, 0, 2, 0, 3, 3, 3, 3],
    [10, 9, 9, 10, 7, 8, 6, 5],
]


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


@pytest.mark.parametrize(
    "count, K, allowed", [(1, 4, {(4,)}), (2, 4, {(2, 2)}), (3, 4, {(1, 1, 2), (2, 2)})]
)
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


# ------------------------------------------------------------------------- with cameras


def draws(counts, K, iterations=200):
    """Batches of one pid with counts[c] images in camera c, as lists of (camera, row)."""
    cameras = [f"{camera}" for camera, count in enumerate(counts) for _ in range(count)]
    cameras = list(np.random.default_rng(1).permutation(cameras))
    groups = pk_sampler.group_by_pid(["a"] * len(cameras))
    for rows in pk_sampler.batches(groups, 1, K, seed=4, start=0, end=iterations, cameras=cameras):
        assert rows.shape == (K,) and rows.dtype == np.int64
        yield [(cameras[row], row) for row in rows]


@pytest.mark.parametrize("K", [1, 2, 4, 7])
@pytest.mark.parametrize(
    "counts",
    [
        [9],
        [4],
        [3],
        [1],
        [2, 2],
        [1, 9],
        [5, 5, 5, 5],
        [1, 1, 1, 1],
        [9, 1, 1],
        [8, 1, 1, 1, 1, 1, 3],
        [2, 4, 6],
    ],
)
def test_images_of_a_pid_come_from_as_many_cameras_as_possible(counts, K):
    for drawn in draws(counts, K):
        rows = Counter(row for _, row in drawn)
        cameras = Counter(camera for camera, _ in drawn)
        assert len(cameras) == min(K, len(counts))
        assert len(rows) == min(K, sum(counts))
        assert max(rows.values()) - min(rows.values()) <= 1
        if sum(counts) >= K:
            # A camera has more than one image more than another only if that has no other image.
            for camera, count in cameras.items():
                assert count >= min(counts[int(camera)], max(cameras.values()) - 1)


def test_all_cameras_and_all_of_their_images_get_their_turn():
    drawn = [pair for batch in draws([12, 2, 3], 2, 3000) for pair in batch]
    # 6000 images: each of three cameras in two of three batches, whatever the number of its images.
    cameras, rows = Counter(camera for camera, _ in drawn), Counter(drawn)
    for camera, count in enumerate([12, 2, 3]):
        np.testing.assert_allclose(cameras[f"{camera}"], 2000, rtol=0.05)
        of_camera = [times for (where, _), times in rows.items() if where == f"{camera}"]
        assert len(of_camera) == count
        np.testing.assert_allclose(of_camera, 2000 / count, rtol=0.35)


def test_cameras_change_neither_the_pids_nor_what_a_later_start_gives():
    pids, groups = make([3, 4, 5, 2, 8, 1, 4])
    cameras = [f"{row % 3}" for row in range(len(pids))]

    def stream(start, cameras):
        return np.array(list(pk_sampler.batches(groups, 3, 4, 11, start, 70, cameras)))

    whole = stream(0, cameras)
    np.testing.assert_array_equal(stream(17, cameras), whole[17:])
    np.testing.assert_array_equal(stream(0, cameras), whole)
    np.testing.assert_array_equal(np.array(pids)[whole], np.array(pids)[stream(0, None)])


def test_without_cameras_the_batches_are_those_of_before_there_was_the_flag():
    groups = pk_sampler.group_by_pid(
        [f"{pid}" for pid, count in enumerate([3, 1, 5, 2, 6]) for _ in range(count)]
    )
    np.testing.assert_array_equal(
        list(pk_sampler.batches(groups, 2, 4, seed=7, start=0, end=4)), GOLDEN
    )
