"""Which images form which batch: a function of (seed, epoch), so that a run can go on from any position."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


def derive_seed(*position: int | str) -> int:
    """A 32-bit seed that depends on all of the position, (seed, epoch, image id) say, and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, position)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many batches, of all processes together, an epoch of so many images takes: the last one is filled up."""
    return -(-images // batch_size)


def repeat_factors(classes: Sequence[Collection[Hashable]], threshold: float, root: bool = True) -> np.ndarray:
    """How often each image is in an epoch, so that rare classes are seen more often (Gupta, Dollár and Girshick, LVIS,
    CVPR 2019, appendix B.2).

    r(c) = max(1, sqrt(t / f(c))) with f(c), the share of images that hold class c; an image's factor is the largest of
    its classes', and 1 where it holds none.

    Args:
        classes: of each image.
        threshold: t: classes in a smaller share of the images than this are repeated.
        root: without it, r(c) = max(1, t / f(c)).

    Returns:
        (N,) float64, 1 or more.
    """
    held = [set(each) for each in classes]
    images = Counter(one for each in held for one in each)
    ratio = {one: threshold * len(held) / count for one, count in images.items()}
    factor = {one: max(1.0, math.sqrt(value) if root else value) for one, value in ratio.items()}
    return np.array([max((factor[one] for one in each), default=1.0) for each in held], dtype=np.float64)


def balancing_factors(labels: np.ndarray, strength: float) -> np.ndarray:
    """How often each image is in an epoch of as many images as there are, so that classes are seen more alike.

    A class of n images gets a share in proportion to n^(1 - strength): with 0 as they are, with 1 all classes alike,
    with 0.5 by the square root (Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR
    2020, equation 1, whose q is 1 - strength).

    Args:
        labels: (N,) whole numbers, 0 or more.

    Returns:
        (N,) float64, whose sum is N.
    """
    counts = np.bincount(labels).astype(np.float64)
    weight = np.where(counts > 0, np.maximum(counts, 1) ** -strength, 0)
    return weight[labels] * (len(labels) / (weight * counts).sum())


def spread(items: Sequence, count: int) -> Iterable:
    """So many of a sequence, evenly from its whole length."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """The batches from one position of a training run to its end, for one process.

    Each epoch is a permutation drawn from (seed, epoch), cut into batches. Where ``groups`` are given (landscape
    and portrait, say), a batch is of one group as far as that goes, since images of one shape need little padding.
    Every image is in every epoch; the last batch of an epoch is filled up from that epoch's first images.

    With ``factors`` an image is in an epoch as often as its factor says, and of a fraction as likely as it is large:
    of 2.3 twice, and in three of ten epochs a third time. Which ones is drawn from (seed, epoch) too, and an epoch has
    as many images as the factors' sum, rounded up or down: so a position needs no history here either.

    Args:
        size: number of images.
        batch_size: of all processes together, in one step.
        seed: of the run.
        start, end: first step, and the one behind the last.
        rank, world_size: this process and how many there are; each takes its share of every batch.
        groups: a small integer an image, or None.
        factors: how often each image is in an epoch, 0 or more; None for once.

    Iterating gives, a step, a list of (epoch, index): the epoch travels along so that an augmentation's draw can
    depend on it. An image's second time in an epoch is (epoch, index, 1), its third (epoch, index, 2), and so on.

    Raises:
        ValueError: no images, or a batch that the processes cannot share evenly.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        end: int,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
        factors: np.ndarray | None = None,
    ):
        if size < 1:
            raise ValueError("there are no images to train on")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"a batch of {batch_size} images cannot be shared evenly by {world_size} processes: "
                f"make it a multiple of {world_size}"
            )
        self.size, self.batch_size, self.seed, self.start, self.end = size, batch_size, seed, start, end
        self.rank, self.share = rank, batch_size // world_size
        self.groups = None if groups is None else np.asarray(groups)
        self.factors = None if factors is None else np.asarray(factors, dtype=np.float64)
        # Rounded first: a sum that is a whole number by its definition is one but for its last digits.
        images = size if factors is None else max(math.ceil(round(float(self.factors.sum()), 6)), 1)
        self.batches_per_epoch = steps_per_epoch(images, batch_size)

    def __len__(self) -> int:
        return max(self.end - self.start, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order, times = -1, None, None
        for step in range(self.start, self.end):
            if step // self.batches_per_epoch != epoch:
                epoch = step // self.batches_per_epoch
                order = times = None  # before the next is drawn: two orders of millions are never in memory at once
                order = self._epoch(epoch)
                times = None if self.factors is None else _times(order)
            first = (step % self.batches_per_epoch) * self.batch_size + self.rank * self.share
            here = range(first, first + self.share)
            images = order.take(here, mode="wrap").tolist()  # the last batch goes on at the front
            if times is None:
                yield [(epoch, index) for index in images]
            else:
                again = times.take(here, mode="wrap").tolist()
                yield [(epoch, index, *([time] if time else [])) for index, time in zip(images, again, strict=True)]

    def _epoch(self, epoch: int) -> np.ndarray:
        """The epoch's images in order: (size,), or of ``factors`` about their sum, of the smallest integers that hold
        them."""
        random = np.random.default_rng([self.seed, epoch])
        order = np.arange(self.size, dtype=np.min_scalar_type(self.size - 1))
        if self.factors is not None:
            order = np.repeat(order, _rounded(self.factors, random))
        random.shuffle(order)  # as random.permutation(size) orders them, in half of the memory or less
        return order if self.groups is None else self._by_group(order, random)

    def _by_group(self, order: np.ndarray, random: np.random.Generator) -> np.ndarray:
        full, rest = [], []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            whole = len(members) // self.batch_size * self.batch_size
            full += np.split(members[:whole], max(whole // self.batch_size, 1)) if whole else []
            rest.append(members[whole:])
        shuffled = [full[i] for i in random.permutation(len(full))]
        return np.concatenate([*shuffled, *rest])


def _rounded(factors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N,) int64: each factor rounded down or up, up as likely as its fraction is large.

    By systematic sampling: the fractions lie in a row, and every whole number of it, from a random start on, rounds the
    one that it falls into up. So the sum varies by one at most. Equal factors lie together, in random order, so that
    the sum of those of one class does too.
    """
    order = random.permutation(len(factors))
    order = order[np.argsort(factors[order], kind="stable")]
    whole = np.floor(factors).astype(np.int64)
    marks = np.floor(np.cumsum((factors - whole)[order]) + random.random()).astype(np.int64)
    counts = whole.copy()
    counts[order] += np.diff(marks, prepend=0)
    return counts if counts.any() else np.ones_like(counts)  # an epoch needs an image


def _times(order: np.ndarray) -> np.ndarray:
    """(len(order),): how often the image of each place came before it in the order."""
    by_image = np.argsort(order, kind="stable")
    images = order[by_image]
    first = np.flatnonzero(np.diff(images, prepend=-1))
    times = np.empty(len(order), dtype=np.int64)
    times[by_image] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return times


def shard(size: int, rank: int, world_size: int) -> range:
    """The indices one process evaluates: contiguous, every index in exactly one process, whatever the sizes."""
    return range(size * rank // world_size, size * (rank + 1) // world_size)
