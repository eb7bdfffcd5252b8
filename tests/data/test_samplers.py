import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from common import UserError
from data import pk_sampler, samplers
from data.dataset import Dataset, labels_of
from data.samplers import Plan

SIZES = [1, 2, 3, 9, 5, 4, 1, 12]  # images of each pid


def make_set(sizes=SIZES, sets=1):
    """So many images of each pid in random order; pids take turns in sets, which are groups, too."""
    rows = [(f"{pid}", str(pid % sets)) for pid, size in enumerate(sizes) for _ in range(size)]
    order = np.random.default_rng(0).permutation(len(rows))
    pids, groups = zip(*(rows[row] for row in order), strict=True)
    numbers = [int(group) for group in groups] if sets > 1 else None
    return Dataset(pids, pids, "x.csv", groups=groups, sets=numbers)


def plan(kind, B, **more):
    return Plan(kind, P=2, K=2, B=B, **more)


def draw(images, made, seed=3, start=0, end=60, cameras=None):
    return list(samplers.make(images, made, seed, cameras).batches(start, end))


# ------------------------------------------------------------------------- shuffle


@pytest.mark.parametrize("B", [2, 5, 37])
def test_a_shuffled_epoch_has_each_image_once_and_all_in_the_long_run(B):
    images = make_set()
    per_epoch = 37 // B
    batches = draw(images, plan("shuffle", B), end=200 * per_epoch)
    assert all(rows.shape == (B,) and rows.dtype == np.int64 for rows in batches)
    epochs = np.reshape(batches, (200, per_epoch * B))
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 200
    # An image is left out of an epoch with probability (37 mod B) / 37: 4.5 standard deviations.
    share = per_epoch * B / 37
    times = np.bincount(epochs.ravel(), minlength=37)
    assert np.abs(times - 200 * share).max() <= 4.5 * np.sqrt(200 * share * (1 - share))


def test_a_shuffled_image_is_at_each_place_of_an_epoch_equally_often():
    images = make_set([3, 3])
    epochs = np.reshape(draw(images, plan("shuffle", 3), end=2 * 3000), (3000, 6))
    for place in epochs.T:
        # 3000 draws of 1 in 6: 4.5 standard deviations.
        assert np.abs(np.bincount(place, minlength=6) - 500).max() < 4.5 * np.sqrt(500 * 5 / 6)


def test_shuffled_batches_share_out_sets_and_keep_to_groups():
    images = make_set(sets=2)
    batches = draw(images, plan("shuffle", 6, set_weights=[1, 2]), end=30)
    for rows in batches:
        assert images.sets[rows].tolist() == [0, 0, 1, 1, 1, 1]
    # Each set has its own epochs: set 0 has 10 images, 5 batches; set 1 has 27, 6 batches.
    for part, per_epoch in ((slice(0, 2), 5), (slice(2, 6), 6)):
        of_set = np.array(batches)[:, part]
        for at in range(0, 30, per_epoch):
            epoch = of_set[at : at + per_epoch].ravel()
            assert len(set(epoch)) == len(epoch)

    sampler = samplers.make(images, plan("shuffle", 11, same_group=True), seed=1)
    assert sampler.too_small == ["0 (10 images)"] and sampler.needed == "the 11 images of a batch"
    assert sampler.describe() == "an epoch, every image once, is 2 iterations"
    for rows in sampler.batches(0, 9):
        assert set(images.groups[rows]) == {"1"} and len(set(rows)) == 11
    rows = np.concatenate(draw(images, plan("shuffle", 5, same_group=True), end=7))
    assert len(set(rows)) == 35  # an epoch is the 2 batches of group 0 and the 5 of group 1


# ------------------------------------------------------------------------- balanced


def test_balanced_pids_are_drawn_uniformly_and_independently_and_so_are_their_images():
    images = make_set()
    batches = np.array(draw(images, plan("balanced", 16), end=2000))
    labels = labels_of(images.pids)
    in_batch = np.stack([np.bincount(labels[rows], minlength=8) for rows in batches])
    # 32000 draws of 1 in 8; 4.5 standard deviations.
    deviation = np.sqrt(32000 * 7 / 64)
    assert np.abs(in_batch.sum(axis=0) - 4000).max() < 4.5 * deviation
    # The number of a pid in a batch is binomial: 16 draws of 1 in 8 have a variance of 1.75.
    np.testing.assert_allclose(in_batch.var(axis=0), 16 * 7 / 64, rtol=0.15)
    of_image = np.bincount(batches.ravel(), minlength=37)
    for pid, size in enumerate(SIZES):
        times = of_image[labels == pid]
        # Less than of independent draws: a pid does not repeat images before it must.
        assert np.abs(times - 4000 / size).max() < 5.5 * np.sqrt(4000 / size)
    for rows in batches:
        for pid, count in Counter(labels[rows].tolist()).items():
            times = Counter(row for row in rows.tolist() if labels[row] == pid)
            assert max(times.values()) <= -(-count // SIZES[pid])
        assert (np.diff(labels[rows]) >= 0).all()  # those of a pid follow each other


def test_balanced_batches_share_out_sets_keep_to_groups_and_vary_cameras():
    images = make_set(sets=2)
    for rows in draw(images, plan("balanced", 9, set_weights=[2, 1])):
        assert images.sets[rows].tolist() == [0] * 6 + [1] * 3
    sampler = samplers.make(images, plan("balanced", 9, set_weights=[2, 1]), seed=1)
    assert sampler.describe().startswith("every pid is drawn 1.5 and 0.75 times")  # of 4 pids each
    # 3 groups of 4, 2 and 1 pids.
    groups = dataclasses.replace(
        images, groups=["abcaaab"[int(pid)] if pid < "7" else "b" for pid in images.pids]
    )
    sampler = samplers.make(groups, plan("balanced", 5, same_group=True), seed=1)
    assert sampler.too_small == ["c (1 pids)"] and sampler.needed == "2 pids"
    names = ["".join(set(groups.groups[rows])) for rows in sampler.batches(0, 3500)]
    # a has 4 of the 7 pids: 2000 of 3500 batches; 4.5 standard deviations.
    assert abs(names.count("a") - 2000) < 4.5 * np.sqrt(3500 * 12 / 49)
    assert names.count("a") + names.count("b") == 3500

    two = make_set([6, 6])
    cameras = ["1" if row % 3 else "2" for row in range(12)]
    for rows in draw(two, plan("balanced", 6), cameras=cameras):
        for pid in "01":
            seen = [cameras[row] for row in rows if two.pids[row] == pid]
            assert len(seen) < 2 or len(set(seen)) == 2


# ------------------------------------------------------------------------- both


@pytest.mark.parametrize("kind", samplers.SAMPLERS)
@pytest.mark.parametrize("more", [{}, {"set_weights": [1, 2]}, {"same_group": True}])
def test_any_batch_is_a_function_of_seed_and_iteration(kind, more):
    images = make_set(sets=2)
    made = plan(kind, 7, **more)
    whole = np.array(draw(images, made))
    for start in (1, 5, 59):
        np.testing.assert_array_equal(draw(images, made, start=start), whole[start:])
    assert (np.array(draw(images, made, seed=4)) != whole).any()


def test_pk_is_the_sampler_that_it_was():
    images = make_set()
    old = pk_sampler.make_sampler(images, 3, 2, seed=5)
    made = Plan("pk", P=3, K=2, B=6)
    np.testing.assert_array_equal(draw(images, made, seed=5), list(old.batches(0, 60)))


@pytest.mark.parametrize("B", [2, 6, 13])
@pytest.mark.parametrize("kind", ["shuffle", "balanced"])
@pytest.mark.parametrize("more", [{}, {"set_weights": [1, 2]}, {"same_group": True}])
def test_the_share_of_images_with_a_positive_is_that_of_many_batches(kind, B, more):
    images = make_set([10, 3, 2, 9, 5, 14, 1, 12], sets=2)  # 18 images in set 0, 38 in set 1
    labels = labels_of(images.pids)
    sampler = samplers.make(images, plan(kind, B, **more), seed=1)
    shares = []
    for rows in sampler.batches(0, 3000):
        counts = np.bincount(labels[np.unique(rows)])  # copies of an image are no pair
        shares.append((counts[labels[rows]] > 1).mean())
    error = 4.5 * np.std(shares) / np.sqrt(3000) + 1e-9
    # Batches of an epoch are not independent, but closer to the mean than if they were.
    assert abs(np.mean(shares) - sampler.share_with_positive(labels)) <= error


@pytest.mark.parametrize("B", [2, 3, 5])
def test_balanced_copies_of_an_image_are_no_pairs(B):
    """By brute force: all batches of pids a (one image), b (two) and c (three)."""
    images = make_set([1, 2, 3])
    sampler = samplers.make(images, plan("balanced", B), seed=1)
    with_positive = [
        sum(batch.count(pid) > 1 and pid != "a" for pid in batch) / B
        for batch in itertools.product("abc", repeat=B)
    ]
    assert sampler.share_with_positive(labels_of(images.pids)) == pytest.approx(
        np.mean(with_positive)
    )


def test_balanced_tells_how_many_pids_are_drawn_more_often_than_they_have_images():
    images = make_set([1, 2, 3, 4, 5, 6], sets=2)  # of set 0 the pids of 1, 3 and 5 images
    for B, few in ((6, 0), (7, 1), (18, 2), (19, 3), (100, 6)):
        assert samplers.make(images, plan("balanced", B), 1).copied() == (few, 6)
    # 12 draws of 3 pids in set 0, 4 of 3 in set 1.
    by_set = plan("balanced", 16, set_weights=[3, 1])
    assert samplers.make(images, by_set, 1).copied() == (2, 6)
    by_group = plan("balanced", 12, same_group=True)
    assert samplers.make(images, by_group, 1).copied() == (3, 6)


def test_positives_of_a_pid_of_several_sets_count_across_them():
    sets = [number for number in (0, 1) for _ in range(8)]
    pids = [str(number % 8) for number in range(16)]
    images = Dataset(pids, pids, "x.csv", sets=sets)  # as of --join_pids, one image in each set
    labels = labels_of(images.pids)
    sampler = samplers.make(images, plan("shuffle", 8, set_weights=[1, 3]), seed=1)
    shares = [
        (np.bincount(labels[rows])[labels[rows]] > 1).mean() for rows in sampler.batches(0, 3000)
    ]
    error = 4.5 * np.std(shares) / np.sqrt(3000)
    assert abs(np.mean(shares) - sampler.share_with_positive(labels)) <= error


def test_pids_of_single_images_have_no_positives():
    images = make_set([1] * 9)
    for kind in ("shuffle", "balanced"):
        assert samplers.make(images, plan(kind, 6), 1).share_with_positive(np.arange(9)) == 0


@pytest.mark.parametrize(
    "kind, B, more, message",
    [
        ("shuffle", 38, {}, "--batch_size 38 is more than the 37 images"),
        ("shuffle", 30, {"set_weights": [1, 1]}, "give set 1 of --train_set 15 of the images .*, but it has 10"),
        ("shuffle", 28, {"same_group": True}, r"no group has the 28 images of a batch: 0 \(10 images\), 1 \(27"),
    ],
)  # fmt: skip
def test_too_few_images_are_told(kind, B, more, message):
    with pytest.raises(UserError, match=message):
        samplers.make(make_set(sets=2), plan(kind, B, **more), seed=0)


@pytest.mark.parametrize("kind", ["shuffle", "balanced"])
def test_what_cannot_be_trained_on_is_told(kind):
    one = Dataset(["a"] * 3, list("xyz"), "x.csv")
    with pytest.raises(UserError, match="images of a single pid, a. Give images of at least two"):
        samplers.make(one, plan(kind, 2), seed=0)
    without_groups = Dataset(["a", "b"], ["x", "y"], "x.csv")
    with pytest.raises(UserError, match="needs a column group, which x.csv lacks"):
        samplers.make(without_groups, plan(kind, 2, same_group=True), seed=0)


def test_balanced_needs_pids_of_each_set_and_two_in_a_group():
    images = Dataset(list("aabb"), list("wxyz"), sets=[0, 1, 0, 1])
    with pytest.raises(UserError, match="all pids of set 2 of --train_set are in sets before it"):
        samplers.make(images, plan("balanced", 4, set_weights=[1, 1]), seed=0)
    images = dataclasses.replace(images, groups=list("xxyy"))
    with pytest.raises(UserError, match=r"no group has the 2 pids .* x \(1 pids\).* Give larger"):
        samplers.make(images, plan("balanced", 4, same_group=True), seed=0)
