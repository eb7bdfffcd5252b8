import dataclasses
from collections import Counter

import numpy as np
import pytest

import common
from data import pk_sampler
from data.dataset import Dataset

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


# ------------------------------------------------------------------------- several sets, groups


@pytest.mark.parametrize(
    "P, weights, expected",
    [
        (8, [1, 3], [2, 6]),
        (32, [1, 1, 1], [11, 11, 10]),
        (4, [1], [4]),
        (5, [2, 1], [3, 2]),
        (10, [0.5, 0.25], [7, 3]),
        (4, [100, 1], [4, 0]),
        (3, [1, 1], [2, 1]),
    ],
)
def test_shares_add_up_to_p(P, weights, expected):
    assert pk_sampler.shares(P, weights) == expected


def two_sets(sizes=(5, 9)):
    """Sets of so many pids, 3 images of each; the images stand in random order."""
    pids = [f"{number}:{pid}" for number, size in enumerate(sizes) for pid in range(size)] * 3
    order = np.random.default_rng(0).permutation(len(pids))
    pids = np.array(pids, dtype=object)[order]
    sets = [int(pid[0]) for pid in pids]
    return Dataset(pids, pids, sets=sets)


def test_each_set_has_its_share_of_every_batch_and_its_own_epochs():
    images = two_sets()
    sampler = pk_sampler.make_sampler(images, 5, 2, seed=3, set_weights=[2, 3])
    assert sampler.epochs() == [2, 3]
    drawn = [images.pids[rows].reshape(5, 2) for rows in sampler.batches(0, 12)]
    for pids in drawn:
        assert (pids[:, 0] == pids[:, 1]).all()
        assert [pid[0] for pid in pids[:, 0]] == list("00111")
    for number, per_epoch in ((0, 2), (1, 3)):
        part = [pids[:2, 0] if number == 0 else pids[2:, 0] for pids in drawn]
        epochs = [
            np.concatenate(part[at : at + per_epoch]).tolist() for at in range(0, 12, per_epoch)
        ]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert len(set(map(tuple, epochs))) == len(epochs)


def test_a_pid_of_several_sets_counts_to_the_first():
    images = Dataset(list("aabbccdd"), list("aabbccdd"), sets=[0, 1, 0, 0, 1, 1, 1, 0])
    sampler = pk_sampler.make_sampler(images, 2, 2, seed=1, set_weights=[1, 1])
    for rows in sampler.batches(0, 20):
        first, _, second, _ = images.pids[rows]
        assert first in "abd" and second == "c"


def groups_of(sizes):
    """3 images of so many pids in each group; pid 0 is in all of them."""
    rows = [
        (f"p{pid}" if pid == 0 else f"{g}{pid}", g) for g, n in sizes.items() for pid in range(n)
    ]
    pids, groups = zip(*rows * 3, strict=True)
    return Dataset(pids, pids, groups=groups)


def test_a_batch_is_of_one_group_and_an_epoch_is_all_groups():
    images = groups_of({"x": 7, "y": 2, "z": 9})
    sampler = pk_sampler.make_sampler(images, 3, 2, seed=3, same_group=True)
    assert sampler.too_small == ["y (2 pids)"] and sampler.epochs() == [2 + 3]
    batches = list(sampler.batches(0, 30))
    orders = set()
    for at in range(0, 30, 5):
        epoch = batches[at : at + 5]
        names = ["".join(set(images.groups[rows])) for rows in epoch]
        assert sorted(names) == list("xxzzz")
        orders.add("".join(names))
        for name in "xz":
            of_group = [
                images.pids[rows][::2]
                for rows, its in zip(epoch, names, strict=True)
                if its == name
            ]
            pids = np.concatenate(of_group)
            assert len(set(pids)) == len(pids)
    assert len(orders) > 1


@pytest.mark.parametrize("more", [{"set_weights": [1, 2]}, {"same_group": True}, {}])
def test_any_batch_is_a_function_of_seed_and_iteration(more):
    images = two_sets()
    images = dataclasses.replace(images, groups=[str(number) for number in images.sets])
    cameras = ["1", "2", "3"] * 14

    def drawn(start, seed=7):
        sampler = pk_sampler.make_sampler(images, 3, 2, seed, cameras=cameras, **more)
        return np.array(list(sampler.batches(start, 40)))

    whole = drawn(0)
    for start in (1, 5, 39):
        np.testing.assert_array_equal(drawn(start), whole[start:])
    assert (drawn(0, seed=8) != whole).any()


def test_a_sampler_without_sets_and_groups_is_the_plain_one():
    pids, groups = two_sets().pids, pk_sampler.group_by_pid(two_sets().pids)
    sampler = pk_sampler.make_sampler(Dataset(pids, pids), 3, 2, seed=5)
    np.testing.assert_array_equal(
        list(sampler.batches(0, 9)), list(pk_sampler.batches(groups, 3, 2, 5, 0, 9))
    )


@pytest.mark.parametrize(
    "P, more, message",
    [
        (15, {}, "--batch_p 15 is more than the 14 pids"),
        (12, {"set_weights": [1, 1]}, "give set 1 of --train_set 6 of the pids of each batch, but it has 5"),
        (10, {"same_group": True}, r"no group has the 10 pids of a batch: 0 \(5 pids\), 1 \(9 pids\)"),
    ],
)  # fmt: skip
def test_too_few_pids_are_told(P, more, message):
    images = two_sets()
    images = dataclasses.replace(images, groups=[str(number) for number in images.sets])
    with pytest.raises(common.UserError, match=message):
        pk_sampler.make_sampler(images, P, 2, seed=0, **more)


def test_groups_need_their_column():
    with pytest.raises(common.UserError, match="needs a column group, which x.csv lacks"):
        pk_sampler.make_sampler(Dataset(["1"], ["a"], "x.csv"), 2, 2, 0, same_group=True)
