"""Which sampler makes the batches, as --sampler says, and those that are not P×K.

Like data/pk_sampler.py: batch number t is a pure function of (seed, t).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from common import UserError, first_few
from data import pk_sampler
from data.dataset import Dataset, labels_of
from data.pk_sampler import Epochs, Part, shares

SAMPLERS = ("pk", "shuffle", "balanced")


class Plan(NamedTuple):
    """How batches are made, as flags of a training say.

    Attributes:
        kind: one of SAMPLERS.
        P, K: pids of a batch and images of each, of pk.
        B: images of a batch.
        set_weights: of each of several sets; None where all sets are one.
        same_group: whether a batch is of one group.
    """

    kind: str
    P: int
    K: int
    B: int
    set_weights: Sequence[float] | None = None
    same_group: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Shuffled:
    """Draws images, whatever their pids.

    An epoch is all images in random order, cut to a multiple of B: no image comes twice in one, and
    others are left over in the next.

    Attributes:
        parts: what a batch is made of; places in their pools are rows.
        seed: any int >= 0.
        too_small: names of groups that have too few images for a batch, and are never drawn.
    """

    parts: Sequence[Part]
    seed: int
    too_small: list[str] = dataclasses.field(default_factory=list)

    @property
    def needed(self) -> str:
        """What a group has to have for a batch, in words."""
        return f"the {self.parts[0].P} images of a batch"

    def describe(self) -> str:
        """What an epoch is, in words."""
        lengths = Epochs(self.parts, self.seed).lengths
        return f"an epoch, every image once, is {pk_sampler.iterations(lengths)}"

    def batches(self, start: int, end: int) -> Iterator[np.ndarray]:
        """The batches number start, start + 1, ... end - 1. Yields: int64 [B], rows."""
        epochs = Epochs(self.parts, self.seed)
        for iteration in range(start, end):
            yield np.concatenate(epochs.batch(iteration))

    def share_with_positive(self, labels: np.ndarray) -> float:
        """The expected share of a batch's images that have another of their pid in it.

        Of N images, n of them of a pid, B - 1 others come with one of the pid: none of the same pid
        with probability C(N - n, B - 1) / C(N - 1, B - 1). A pid may have images in several parts.

        Args:
            labels: pids as numbers, int [N].
        """
        found = total = 0.0
        for part in self.parts:
            elsewhere = np.ones(labels.max() + 1)  # that no other part has an image of the pid
            for other in self.parts:
                if other is not part:
                    (pool,) = other.pools
                    counts = np.bincount(labels[pool], minlength=len(elsewhere))
                    elsewhere *= _none_of(counts, len(pool), other.P)
            # A pool is drawn as often as it has batches.
            weights = np.array([len(pool) // part.P for pool in part.pools], float)
            for pool, weight in zip(part.pools, part.P * weights / weights.sum(), strict=True):
                own, counts = np.unique(labels[pool], return_counts=True)
                alone = _none_of(counts - 1, len(pool) - 1, part.P - 1) * elsewhere[own]
                found += weight * float(((1 - alone) * counts).sum() / len(pool))
                total += weight
        return found / total


def _none_of(counts: np.ndarray, N: int, B: int) -> np.ndarray:
    """The probability that B of N images, drawn at random, are none of a certain n: [pids].

    Args:
        counts: n, of each pid.
    """
    sizes, places = np.unique(counts, return_inverse=True)
    drawn = np.arange(B)
    others = np.maximum(N - sizes[:, None] - drawn, 0)
    return np.prod(others / (N - drawn), axis=1)[places]


@dataclasses.dataclass(frozen=True, eq=False)
class Balanced:
    """Draws pids, each with the same probability, and an image of each that is drawn.

    A pid may come several times in a batch: it gives different images as far as it has them. There
    are no epochs. Of several pools, one is drawn for a batch, a pool of twice the pids twice as
    often.

    Attributes:
        groups: the rows of each pid's images; of each pid in each pool, where there are several.
        parts: what a batch is made of; places in their pools are places in groups.
        seed: any int >= 0.
        cameras: a number for the camera of each row, int [N]: several images of a pid come from as
            many of them as possible. None to draw without regard to them.
        too_small: names of groups that have a single pid, and are never drawn.
    """

    groups: Sequence[np.ndarray]
    parts: Sequence[Part]
    seed: int
    cameras: np.ndarray | None = None
    too_small: list[str] = dataclasses.field(default_factory=list)

    @property
    def needed(self) -> str:
        """What a group has to have for a batch, in words."""
        return "2 pids"

    def describe(self) -> str:
        """How often a pid is drawn, in words; of several parts, the pids of each."""
        rates = [f"{part.P / sum(map(len, part.pools)):.3g}" for part in self.parts]
        return f"every pid is drawn {' and '.join(rates)} times in an iteration, on average"

    def batches(self, start: int, end: int) -> Iterator[np.ndarray]:
        """The batches number start, start + 1, ... end - 1.

        Yields:
            int64 [B], rows; those of one pid follow each other.
        """
        for iteration in range(start, end):
            rng = pk_sampler.images_rng(self.seed, iteration)
            rows = []
            for part in self.parts:
                places, times = np.unique(_draw_pids(rng, part), return_counts=True)
                for place, count in zip(places, times, strict=True):
                    drawn = pk_sampler.draw_images(rng, self.groups[place], count, self.cameras)
                    rows.append(drawn)
            yield np.concatenate(rows)

    def share_with_positive(self, labels: np.ndarray) -> float:  # noqa: ARG002, as of Shuffled
        """The expected share of a batch's images that have another image of their pid in it.

        Of I pids that are drawn B times: 1 - (1 - 1/I)^(B - 1), for pids of at least two images,
        which give two different ones whenever they are drawn twice. A single image gives copies.
        """
        found = 0.0
        for part in self.parts:
            sizes = np.array([len(pool) for pool in part.pools], float)
            pairs = np.array([(self._counts[pool] > 1).mean() for pool in part.pools])
            with_positive = pairs * (1 - (1 - 1 / sizes) ** (part.P - 1))
            found += part.P * (with_positive * sizes).sum() / sizes.sum()
        return found / sum(part.P for part in self.parts)

    def copied(self) -> tuple[int, int]:
        """How many pids have fewer images than a batch draws of them on average, and of how many.

        Of several pools, those batches count that are of the pid's own.
        """
        few = total = 0
        for part in self.parts:
            for pool in part.pools:
                few += int((self._counts[pool] < part.P / len(pool)).sum())
                total += len(pool)
        return few, total

    @property
    def _counts(self) -> np.ndarray:
        """Images of each of groups, int [groups]."""
        return np.array([len(rows) for rows in self.groups])


def _draw_pids(rng: np.random.Generator, part: Part) -> np.ndarray:
    """The pids of a part of a batch, with repetitions: int64 [part.P], places in groups."""
    pool = part.pools[0]
    if len(part.pools) > 1:
        sizes = np.array([len(pool) for pool in part.pools], float)
        pool = part.pools[rng.choice(len(sizes), p=sizes / sizes.sum())]
    return pool[rng.integers(len(pool), size=part.P)]


# ------------------------------------------------------------------------- which of them

Sampler = pk_sampler.Sampler | Shuffled | Balanced


def make(images: Dataset, plan: Plan, seed: int, cameras: Sequence[str] | None = None) -> Sampler:
    """The sampler of a data set.

    Args:
        seed: any int >= 0.
        cameras: the camera of each image, or None; shuffle has no use for them.

    Raises:
        UserError where there are too few pids or images, or no groups.
    """
    if plan.kind == "pk":
        return pk_sampler.make_sampler(
            images,
            plan.P,
            plan.K,
            seed,
            cameras=cameras,
            set_weights=plan.set_weights,
            same_group=plan.same_group,
        )
    if len(set(images.pids)) < 2:
        raise UserError(
            f"the training set has images of a single pid, {images.pids[0]}. Give images of at least two."
        )
    if plan.kind == "shuffle":
        return _make_shuffled(images, plan, seed)
    return _make_balanced(images, plan, seed, None if cameras is None else labels_of(cameras))


def _make_shuffled(images: Dataset, plan: Plan, seed: int) -> Shuffled:
    B = plan.B
    if plan.same_group:
        names, group_of_row = pk_sampler.groups_of(images)
        members = pk_sampler.group_by_label(group_of_row)
        pools, too_small = pk_sampler.large_enough(names, members, B, "images")
        if not pools:
            raise UserError(
                f"--same_group_batches: no group has the {B} images of a batch: {first_few(too_small)}. Give a "
                "--batch_size of at most the images of a group, or larger groups."
            )
        return Shuffled([Part(pools, B)], seed, too_small)
    if plan.set_weights is None:
        if len(images) < B:
            raise UserError(
                f"--batch_size {B} is more than the {len(images)} images of the training set. Give at most that, or "
                "more images."
            )
        return Shuffled([Part([np.arange(len(images))], B)], seed)
    parts = []
    for number, count in enumerate(shares(B, plan.set_weights)):
        rows = np.flatnonzero(images.sets == number)
        if len(rows) < count:
            raise UserError(
                f"--set_weights give set {number + 1} of --train_set {count} of the images of each batch, but it has "
                f"{len(rows)}. Give it less weight, a smaller --batch_size, or more images."
            )
        parts.append(Part([rows], count))
    return Shuffled(parts, seed)


def _make_balanced(images: Dataset, plan: Plan, seed: int, cameras: np.ndarray | None) -> Balanced:
    if plan.same_group:
        groups, pools, too_small = pk_sampler.group_within_groups(images, 2, "larger groups")
        return Balanced(groups, [Part(pools, plan.B)], seed, cameras, too_small)
    groups = pk_sampler.group_by_pid(images.pids)
    if plan.set_weights is None:
        return Balanced(groups, [Part([np.arange(len(groups))], plan.B)], seed, cameras)
    counts = shares(plan.B, plan.set_weights)
    pools = pk_sampler.pids_of_sets(images, groups, len(counts))
    for number, pool in enumerate(pools):
        if not len(pool):
            raise UserError(
                f"--set_weights: all pids of set {number + 1} of --train_set are in sets before it, to which they "
                "count. Leave --set_weights or --join_pids out."
            )
    parts = [Part([pool], count) for pool, count in zip(pools, counts, strict=True)]
    return Balanced(groups, parts, seed, cameras)
