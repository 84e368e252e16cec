"""Images in batches: bytes, as the network's device gets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from classification.images.crops import View, training_sizes
from classification.images.transforms import TestTransform, TrainTransform
from classification.index.index import ImageIndex
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.images.reading import DecodedImage, JpegImage, UnreadableImage
from engine.train.loading import load_batches
from engine.train.sampling import TrainingBatches, balancing_factors, derive_seed, shard, steps_per_epoch

from detectron2.config import CfgNode

MAX_ATTEMPTS = 10  # at finding a readable image in place of a broken one
MAX_HELD_BYTES = 2**25  # of files and pixels; from there on images are finished before others are opened


@dataclass
class ImageBatch:
    """Images with their labels.

    Attributes:
        images: (N, 3, S, S) uint8 in the order of INPUT.FORMAT, or (N, crops, 3, S, S) of several crops; in
            memory the channels lie last.
        labels: (N,) int64, -1 where there is none.
        indices: (N,) int64, the positions in the index that were asked for.
        chosen: (N,) int64, the positions of the images that are there: others where those asked for were replaced.
        broken: (position, message) of each image that could not be read; an image for training is replaced by
            another one, one for testing by zeros.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    chosen: Tensor
    broken: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> ImageBatch:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        pinned = (part.pin_memory() for part in (self.images, self.labels, self.indices, self.chosen))
        return ImageBatch(*pinned, self.broken)

    def readable(self) -> ImageBatch:
        """Those of its images that could be read."""
        broken = torch.tensor([position for position, _ in self.broken], dtype=torch.int64)
        whole = ~torch.isin(self.indices, broken)
        return ImageBatch(*(part[whole] for part in (self.images, self.labels, self.indices, self.chosen)))

    def split(self, parts: int) -> list[ImageBatch]:
        """``parts`` batches of about equal size, views of this one; for fewer images than parts, fewer."""
        shares = (shard(len(self), part, parts) for part in range(parts))
        cuts = [slice(share.start, share.stop) for share in shares if share]
        return [
            ImageBatch(
                self.images[cut], self.labels[cut], self.indices[cut], self.chosen[cut], [] if number else self.broken
            )
            for number, cut in enumerate(cuts)
        ]


@dataclass
class _Item:
    pixels: Tensor  # (S, S, 3) or (crops, S, S, 3)
    label: int
    index: int
    chosen: int  # as in _UnfinishedItem
    broken: list[tuple[int, str]]


@dataclass
class _UnfinishedItem:
    """A training item in the making.

    Attributes:
        index: of the image that was asked for.
        chosen: the one that is read, another one where that is broken.
    """

    epoch: int
    index: int
    chosen: int
    again: tuple[int, ...] = ()  # which further time in its epoch, if it is one
    broken: list[tuple[int, str]] = field(default_factory=list)
    rng: np.random.Generator | None = None
    image: JpegImage | DecodedImage | None = None
    view: View | None = None
    pixels: np.ndarray | Tensor | None = None


class TrainingSet(Dataset):
    """Augmented images. An item's position is one of ``TrainingBatches``, and everything that is drawn for it depends
    on (seed, epoch, index, which time) alone, whichever worker makes it, and after whatever else.

    A broken image is replaced by one whose position is drawn from these and the attempt.
    """

    def __init__(self, index: ImageIndex, cfg: CfgNode):
        self.index, self.seed, self.transform = index, cfg.SEED, TrainTransform(cfg)
        self.max_pixels = cfg.INPUT.MAX_PIXELS
        self.sizes = training_sizes(cfg)
        self.epochs = max(cfg.SOLVER.MAX_ITER / steps_per_epoch(len(index), cfg.SOLVER.IMS_PER_BATCH), 1)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: tuple[int, ...]) -> _Item:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[tuple[int, ...]]) -> list[_Item]:
        """The items of a batch, as PyTorch's loader asks for them.

        Each step is taken for many images before the next step: its code is then in the processor's caches, which
        every image's pixels sweep.
        """
        items, unfinished, held = [], [], 0
        for position in positions:
            epoch, index, *again = position
            unfinished.append(item := _UnfinishedItem(epoch, index, chosen=index, again=tuple(again)))
            self._choose(item)
            held += item.image.nbytes + item.view.nbytes
            if held > MAX_HELD_BYTES:
                items += self._finish(unfinished)
                unfinished, held = [], 0
        return items + self._finish(unfinished)

    def _finish(self, unfinished: list[_UnfinishedItem]) -> list[_Item]:
        for item in unfinished:
            item.pixels = self._read(item)
        for item in unfinished:
            item.pixels = torch.from_numpy(self.transform.finish(item.pixels, item.view, item.rng))
        return [
            _Item(item.pixels, self.index.label(item.chosen), item.index, item.chosen, item.broken)
            for item in unfinished
        ]

    def _choose(self, item: _UnfinishedItem) -> None:
        """Opens the image, or the first of its replacements that can be opened, and draws what is seen of it."""
        size = self.sizes[min(int(item.epoch / self.epochs * len(self.sizes)), len(self.sizes) - 1)]
        while True:
            item.rng = np.random.Generator(np.random.PCG64(derive_seed(*self._drawn_from(item))))
            try:
                item.image = self.index.open(item.chosen, self.max_pixels)
            except UnreadableImage as error:
                self._replace(item, error)
                continue
            item.view = self.transform.choose(item.image, item.rng, size)
            return

    def _drawn_from(self, item: _UnfinishedItem) -> tuple[int, ...]:
        return self.seed, item.epoch, item.index, *item.again

    def _read(self, item: _UnfinishedItem) -> np.ndarray:
        while True:
            try:
                return item.view.read(item.image)
            except UnreadableImage as error:
                self._replace(item, error)
                self._choose(item)

    def _replace(self, item: _UnfinishedItem, error: UnreadableImage) -> None:
        item.broken.append((item.chosen, str(error)))
        attempt = len(item.broken)
        if attempt == MAX_ATTEMPTS:
            raise UserError(
                f"{self.index.source}: none of {MAX_ATTEMPTS} images could be read ({item.broken[0][1]}; …). Check the "
                "data"
            )
        item.chosen = derive_seed(*self._drawn_from(item), attempt) % len(self.index)


class TestSet(Dataset):
    """Images at test size; one that cannot be read comes as zeros."""

    __test__ = False  # for pytest, which collects by name

    def __init__(self, index: ImageIndex, cfg: CfgNode):
        self.index, self.transform, self.max_pixels = index, TestTransform(cfg), cfg.INPUT.MAX_PIXELS

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> _Item:
        label = self.index.label(position)
        try:
            # In full size: an evaluation's figures should not depend on how a JPEG can be decoded faster.
            pixels = torch.from_numpy(self.transform(self.index.read(position, self.max_pixels)))
        except UnreadableImage as error:
            pixels = torch.zeros(self.transform.shape, dtype=torch.uint8)
            return _Item(pixels, label, position, position, [(position, str(error))])
        return _Item(pixels, label, position, position, [])


def training_batches(
    index: ImageIndex, cfg: CfgNode, start: int, rank: int, world_size: int, pin_memory: bool | None = None
) -> Iterator[ImageBatch]:
    """This process's share of each step's batch, from step ``start`` to SOLVER.MAX_ITER.

    The batches depend on the seed and the step alone, neither on ``start`` nor on the number of workers.

    Args:
        pin_memory: page-locked memory; None: where MODEL.DEVICE is a GPU.

    Raises:
        UserError: there are no images, some have no label, or the batch cannot be shared by the processes; while
            iterating, an image and all of its replacements are broken.
    """
    unlabelled = np.flatnonzero(np.asarray(index.labels) < 0)
    if len(unlabelled):
        raise UserError(
            f"{index.source}: {len(unlabelled):,} images have no label and cannot be trained on; the first is "
            f"{index.name(int(unlabelled[0]))}"
        )
    try:
        positions = TrainingBatches(
            len(index), cfg.SOLVER.IMS_PER_BATCH, cfg.SEED,
            start=start, end=cfg.SOLVER.MAX_ITER, rank=rank, world_size=world_size,
            factors=sampling_factors(index.labels, cfg),
        )  # fmt: skip
    except ValueError as error:
        where = "SOLVER.IMS_PER_BATCH" if len(index) else index.source
        raise UserError(f"{where}: {error}") from error
    return _batches(TrainingSet(index, cfg), positions, cfg, pin_memory)


def sampling_factors(labels: np.ndarray, cfg: CfgNode) -> np.ndarray | None:
    """How often each image is in an epoch, by DATALOADER.CLASS_BALANCE; None for once."""
    strength = cfg.DATALOADER.CLASS_BALANCE
    return balancing_factors(np.asarray(labels), strength) if strength and len(labels) else None


def test_batches(
    index: ImageIndex, positions: Sequence[int], cfg: CfgNode, pin_memory: bool | None = None
) -> Iterator[ImageBatch]:
    """Batches for evaluation, in the order of ``positions``: TEST.IMS_PER_BATCH images at most, of ten crops a tenth
    of that.

    Args:
        positions: in the index.
        pin_memory: as for ``training_batches``.
    """
    dataset = TestSet(index, cfg)
    size = max(cfg.TEST.IMS_PER_BATCH // cfg.TEST.CROPS, 1)
    batches = [positions[first : first + size] for first in range(0, len(positions), size)]
    return _batches(dataset, batches, cfg, pin_memory)


def _batches(dataset: Dataset, positions, cfg: CfgNode, pin_memory: bool | None) -> Iterator[ImageBatch]:
    if pin_memory is None:
        pin_memory = cfg.MODEL.DEVICE.startswith("cuda")
    return load_batches(dataset, positions, _collate, cfg.DATALOADER.NUM_WORKERS, pin_memory)


def _collate(items: list[_Item]) -> ImageBatch:
    # In a worker, default_collate puts the images together in shared memory: the one copy there is.
    images = default_collate([item.pixels for item in items]).movedim(-1, -3)
    labels = torch.tensor([item.label for item in items])
    indices = torch.tensor([item.index for item in items])
    chosen = torch.tensor([item.chosen for item in items])
    return ImageBatch(images, labels, indices, chosen, [entry for item in items for entry in item.broken])
