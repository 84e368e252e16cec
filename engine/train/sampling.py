"""Which images form which batch: a function of (seed, epoch), so that a run can go on from any position."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


def derive_seed(*position: int | str) -> int:
    """A 32-bit seed that depends on all of the position, (seed, epoch, image id) say, and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, position)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many batches, of all processes together, an epoch of so many images takes: the last one is filled up."""
    return -(-images // batch_size)


def spread(items: Sequence, count: int) -> Iterable:
    """So many of a sequence, evenly from its whole length."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """The batches from one position of a training run to its end, for one process.

    Each epoch is a permutation drawn from (seed, epoch), cut into batches. Where ``groups`` are given (landscape
    and portrait, say), a batch is of one group as far as that goes, since images of one shape need little padding.
    Every image is in every epoch; the last batch of an epoch is filled up from that epoch's first images.

    Args:
        size: number of images.
        batch_size: of all processes together, in one step.
        seed: of the run.
        start, end: first step, and the one behind the last.
        rank, world_size: this process and how many there are; each takes its share of every batch.
        groups: a small integer an image, or None.

    Iterating gives, a step, a list of (epoch, index): the epoch travels along so that an augmentation's draw can
    depend on it.

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
        self.batches_per_epoch = steps_per_epoch(size, batch_size)

    def __len__(self) -> int:
        return max(self.end - self.start, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, None
        for step in range(self.start, self.end):
            if step // self.batches_per_epoch != epoch:
                epoch = step // self.batches_per_epoch
                order = None  # before the next is drawn: two orders of millions of images are never in memory at once
                order = self._epoch(epoch)
            first = (step % self.batches_per_epoch) * self.batch_size + self.rank * self.share
            images = order.take(range(first, first + self.share), mode="wrap")  # the last batch goes on at the front
            yield [(epoch, index) for index in images.tolist()]

    def _epoch(self, epoch: int) -> np.ndarray:
        """The epoch's images in order: (size,) of the smallest integers that hold them."""
        random = np.random.default_rng([self.seed, epoch])
        order = np.arange(self.size, dtype=np.min_scalar_type(self.size - 1))
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


def shard(size: int, rank: int, world_size: int) -> range:
    """The indices one process evaluates: contiguous, every index in exactly one process, whatever the sizes."""
    return range(size * rank // world_size, size * (rank + 1) // world_size)
