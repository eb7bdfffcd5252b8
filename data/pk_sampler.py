"""Which images make batch number t: a pure function of (seed, t), so resuming needs nothing but t.

Here are batches of P×K images; data/samplers.py has others, and chooses.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

import common
from common import UserError
from data.dataset import Dataset, labels_of

# Streams of random numbers that must not repeat each other; data/augment.py draws from the third.
_EPOCH, _IMAGES = 0, 1


def group_by_pid(pids: Sequence[str]) -> list[np.ndarray]:
    """The rows of each person's images: an int64 array for each pid, in the pids' sorted order."""
    return group_by_label(labels_of(pids))


def group_by_label(labels: np.ndarray) -> list[np.ndarray]:
    """The rows of each distinct label, in the labels' order; int [N] -> int64 arrays."""
    order = np.argsort(labels, kind="stable")
    is_first = np.diff(labels[order]) > 0
    return np.split(order, np.flatnonzero(is_first) + 1)


def check_enough_pids(groups: Sequence[np.ndarray], P: int) -> None:
    """Raises: common.UserError when a batch needs more pids than there are."""
    if len(groups) < P:
        raise common.UserError(
            f"--batch_p {P} is more than the {len(groups)} pids of the training set. Give at most that, or more pids."
        )


class Part(NamedTuple):
    """Where some of the pids of each batch come from, or some of its images.

    Attributes:
        pools: places in Sampler.groups, or rows, int64 [n] each; those of one batch are all of one
            pool.
        P: how many of each batch.
    """

    pools: Sequence[np.ndarray]
    P: int


class Epochs:
    """Of each part of batches, which of its places are in batch t.

    An epoch of a part is all places of its pools in random order, each pool cut to a multiple of P.
    With several pools, it is all batches of all pools, in random order.

    Attributes:
        lengths: how many batches an epoch of each part is.
    """

    def __init__(self, parts: Sequence[Part], seed: int):
        self._parts = parts
        self._seed = seed
        self._drawn: dict[int, tuple[int, np.ndarray]] = {}  # of each part: the epoch, its batches
        self.lengths = [sum(len(pool) // part.P for pool in part.pools) for part in parts]

    def batch(self, iteration: int) -> list[np.ndarray]:
        """Those of one batch: int64 [P] of each part."""
        places = []
        for number, length in enumerate(self.lengths):
            epoch, position = divmod(iteration, length)
            if self._drawn.get(number, (None,))[0] != epoch:
                self._drawn[number] = epoch, self._draw(number, epoch)
            places.append(self._drawn[number][1][position])
        return places

    def _draw(self, number: int, epoch: int) -> np.ndarray:
        """The batches of one epoch of a part: int64 [batches, P]."""
        part = self._parts[number]
        key = [_EPOCH, self._seed, epoch]
        if len(self._parts) == len(part.pools) == 1:
            return _in_batches(part.pools[0], part.P, key)
        batches = [
            _in_batches(pool, part.P, [*key, number + 1, place + 1])
            for place, pool in enumerate(part.pools)
        ]
        together = np.concatenate(batches)
        if len(batches) > 1:
            together = np.random.default_rng([*key, number + 1, 0]).permutation(together)
        return together


def _in_batches(pool: np.ndarray, P: int, key: Sequence[int]) -> np.ndarray:
    """A pool in random order, cut to a multiple of P: int64 [batches, P]."""
    order = np.random.default_rng(key).permutation(pool)
    return order[: len(pool) // P * P].reshape(-1, P)


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Draws batches: first pids, then images of them.

    An epoch is all pids in random order, cut to a multiple of P: no pid comes twice in one, and the
    next epoch has another order. A pid with at least K images gives K different ones; of a pid with
    fewer, the list of its images is repeated until it has K or more, shuffled, and cut to K.

    With several parts, each has epochs of its own. With several pools, an epoch is all batches of
    all pools, in random order.

    With cameras, the K images of a pid come from as many of its cameras as possible: one of each in
    turn, in random order, until there are K; a pid with fewer images starts over.

    Attributes:
        groups: the rows of each pid's images, as from group_by_pid; of each pid in each pool, where
            there are several.
        parts: what a batch is made of.
        K: images of each pid.
        seed: any int >= 0.
        cameras: a number for the camera of each row, int [N]; None to draw without regard to them,
            as the original does.
        too_small: names of groups that have too few pids for a batch, and are never drawn.
    """

    groups: Sequence[np.ndarray]
    parts: Sequence[Part]
    K: int
    seed: int
    cameras: np.ndarray | None = None
    too_small: list[str] = dataclasses.field(default_factory=list)

    @property
    def needed(self) -> str:
        """What a group has to have for a batch, in words."""
        return f"the {self.parts[0].P} pids of a batch"

    def epochs(self) -> list[int]:
        """How many batches an epoch of each part is."""
        return Epochs(self.parts, self.seed).lengths

    def describe(self) -> str:
        """What an epoch is, in words."""
        return f"an epoch, every pid once, is {iterations(self.epochs())}"

    def batches(self, start: int, end: int) -> Iterator[np.ndarray]:
        """The batches number start, start + 1, ... end - 1.

        Yields:
            int64 [P·K], rows; the K of one pid follow each other.
        """
        epochs = Epochs(self.parts, self.seed)
        for iteration in range(start, end):
            rng = images_rng(self.seed, iteration)
            rows = [
                draw_images(rng, self.groups[place], self.K, self.cameras)
                for places in epochs.batch(iteration)
                for place in places
            ]
            yield np.concatenate(rows)


def images_rng(seed: int, iteration: int) -> np.random.Generator:
    """The random numbers that images of a batch are drawn by."""
    return np.random.default_rng([_IMAGES, seed, iteration])


def iterations(lengths: Sequence[int]) -> str:
    """Lengths of epochs in words: "12 and 7 iterations"."""
    return f"{' and '.join(map(str, lengths))} iterations"


def batches(
    groups: Sequence[np.ndarray],
    P: int,
    K: int,
    seed: int,
    start: int,
    end: int,
    cameras: Sequence[str] | None = None,
) -> Iterator[np.ndarray]:
    """Batches of all pids alike; see Sampler.

    Args:
        cameras: the camera of each row, or None.
    """
    labels = None if cameras is None else labels_of(cameras)
    parts = [Part([np.arange(len(groups))], P)]
    return Sampler(groups, parts, K, seed, labels).batches(start, end)


def make_sampler(
    images: Dataset,
    P: int,
    K: int,
    seed: int,
    cameras: Sequence[str] | None = None,
    set_weights: Sequence[float] | None = None,
    same_group: bool = False,
) -> Sampler:
    """The sampler of a data set.

    Args:
        cameras: the camera of each image, or None.
        set_weights: of each of several sets: as `shares` has it, so many of the P pids are of it. A
            pid that is in several sets counts to the first of them.
        same_group: all images of a batch are of one group of the data set. A group with fewer than
            P pids is never drawn.

    Raises:
        UserError where there are too few pids, or no groups.
    """
    labels = None if cameras is None else labels_of(cameras)
    if same_group:
        advice = "a --batch_p of at most the pids of a group, or larger groups"
        groups, pools, too_small = group_within_groups(images, P, advice)
        return Sampler(groups, [Part(pools, P)], K, seed, labels, too_small)
    groups = group_by_pid(images.pids)
    check_enough_pids(groups, P)
    parts = [Part([np.arange(len(groups))], P)]
    if set_weights is not None:
        parts = _parts_by_set(images, groups, shares(P, set_weights))
    return Sampler(groups, parts, K, seed, labels)


def shares(P: int, weights: Sequence[float]) -> list[int]:
    """Divide P pids by weights, and what is left over by the largest remainders.

    Args:
        weights: above 0.

    Returns:
        whole numbers that add up to P, one for each weight.
    """
    exact = P * np.asarray(weights, np.float64) / np.sum(weights)
    whole = np.floor(exact).astype(int)
    largest = np.argsort(whole - exact, kind="stable")
    whole[largest[: P - whole.sum()]] += 1
    return whole.tolist()


def _parts_by_set(
    images: Dataset, groups: Sequence[np.ndarray], shares: Sequence[int]
) -> list[Part]:
    parts = []
    for number, (pids, P) in enumerate(
        zip(pids_of_sets(images, groups, len(shares)), shares, strict=True)
    ):
        if len(pids) < P:
            raise UserError(
                f"--set_weights give set {number + 1} of --train_set {P} of the pids of each batch, but it has "
                f"{len(pids)}. Give it less weight, a smaller --batch_p, or more pids."
            )
        parts.append(Part([pids], P))
    return parts


def pids_of_sets(images: Dataset, groups: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The pids of each of `count` sets, as places in groups; a pid of several counts to the first.

    Args:
        groups: the rows of each pid.
    """
    sets = np.zeros(len(images), np.int32) if images.sets is None else images.sets
    set_of_pid = np.array([sets[rows].min() for rows in groups])
    return [np.flatnonzero(set_of_pid == number) for number in range(count)]


def group_within_groups(
    images: Dataset, least: int, advice: str
) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """The rows of each pid within each group.

    Args:
        least: how many pids a group needs.
        advice: what to give where none has them.

    Returns:
        the rows of each pid within each group, the pids (places in the former) of each group that
        has enough, and the names of the others.
    Raises:
        UserError where there are no groups, or none has enough pids.
    """
    names, group_of_row = groups_of(images)
    pids = labels_of(images.pids)
    groups = group_by_label(group_of_row * (pids.max() + 1) + pids)
    group_of_pid = np.array([group_of_row[rows[0]] for rows in groups])
    members = [np.flatnonzero(group_of_pid == number) for number in range(len(names))]
    pools, too_small = large_enough(names, members, least, "pids")
    if not pools:
        raise UserError(
            f"--same_group_batches: no group has the {least} pids of a batch: {common.first_few(too_small)}. Give "
            f"{advice}."
        )
    return groups, pools, too_small


def groups_of(images: Dataset) -> tuple[list[str], np.ndarray]:
    """The names of the groups, and the number of each row's: int64 [N]. Raises: UserError: none."""
    if images.groups is None:
        raise UserError(
            f"--same_group_batches needs a column group, which {images.path} lacks. Give a CSV with a header and this "
            "column, or leave --same_group_batches out."
        )
    return sorted(set(images.groups)), labels_of(images.groups)


def large_enough(
    names: Sequence[str], members: Sequence[np.ndarray], least: int, unit: str
) -> tuple[list[np.ndarray], list[str]]:
    """The members of groups that have enough of them, and the others' names with their numbers."""
    too_small = [
        f"{name} ({len(of_group)} {unit})"
        for name, of_group in zip(names, members, strict=True)
        if len(of_group) < least
    ]
    return [of_group for of_group in members if len(of_group) >= least], too_small


def draw_images(
    rng: np.random.Generator, rows: np.ndarray, K: int, cameras: np.ndarray | None = None
) -> np.ndarray:
    """K of the rows of a pid. cameras: as of Sampler."""
    if cameras is None:
        return _draw(rng, rows, K)
    return _draw_in_turn(rng, rows, cameras[rows], K)


def _draw(rng: np.random.Generator, rows: np.ndarray, K: int) -> np.ndarray:
    """K of the rows of a pid."""
    if len(rows) >= K:
        return rng.choice(rows, K, replace=False)
    repeats = -(-K // len(rows))
    return rng.permutation(np.tile(rows, repeats))[:K]


def _draw_in_turn(
    rng: np.random.Generator, rows: np.ndarray, cameras: np.ndarray, K: int
) -> np.ndarray:
    """K of the rows of a pid, from each of its cameras in turn. cameras: a label of each row."""
    by_camera = group_by_label(cameras)
    shuffled = [rng.permutation(rows[by_camera[c]])[:K] for c in rng.permutation(len(by_camera))]
    in_turn = [row for turn in itertools.zip_longest(*shuffled) for row in turn if row is not None]
    return np.resize(in_turn, K)  # repeats them where there are fewer than K
