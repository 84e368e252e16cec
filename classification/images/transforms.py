"""From a picture to the square that the network sees: uint8, normalised later and elsewhere."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from classification.images.rand_augment import RandAugment
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.images.reading import REDUCTIONS, Box, DecodedImage, JpegImage

from detectron2.config import CfgNode

MAX_ATTEMPTS = 10  # of torchvision's RandomResizedCrop
MAX_RATIO = 100  # of the longer side to the shorter one, up to which an image is resized as a whole


class View(NamedTuple):
    """What training sees of an image: a box of it, decoded at 1/reduction of its size and then resized to
    (size, size), mirrored or not."""

    box: Box
    reduction: int
    size: int
    mirrored: bool

    @property
    def nbytes(self) -> int:
        """About as many bytes as ``read`` gives."""
        return 3 * self.box.height * self.box.width // self.reduction**2

    def read(self, image: JpegImage | DecodedImage) -> np.ndarray:
        """The box's pixels, (h, w, 3) RGB uint8. Raises UnreadableImage where they cannot be decoded."""
        return image.crop(self.box, self.reduction)


class TrainTransform:
    """Random resized crop and mirror image; RandAugment and colour jitter where the config asks for them.

    Args:
        cfg: INPUT.{TRAIN_SIZE, SCALE, RATIO, FLIP, RAND_AUGMENT, COLOR_JITTER, FORMAT}.

    Raises:
        UserError: a probability, strength or magnitude is out of range.
    """

    def __init__(self, cfg: CfgNode):
        given = cfg.INPUT
        if not 0 <= given.FLIP <= 1:
            raise UserError(f"INPUT.FLIP is a probability, 0..1; got {given.FLIP}")
        if not 0 <= given.COLOR_JITTER < 1:
            raise UserError(f"INPUT.COLOR_JITTER must be in 0..1, below 1; got {given.COLOR_JITTER}")
        self.size, self.scale, self.ratio = given.TRAIN_SIZE, tuple(given.SCALE), tuple(given.RATIO)
        self.flip, self.jitter, self.order = given.FLIP, given.COLOR_JITTER, given.FORMAT
        augment = given.RAND_AUGMENT
        self.augment = RandAugment(augment.OPS, augment.MAGNITUDE) if augment.OPS else None

    def __call__(
        self, image: JpegImage | DecodedImage | np.ndarray, rng: np.random.Generator, size: int = 0
    ) -> np.ndarray:
        """An image, (H, W, 3) RGB uint8 or not decoded yet → (S, S, 3) uint8 in the order of INPUT.FORMAT.

        All draws come from ``rng``. S is ``size``, or INPUT.TRAIN_SIZE where that is 0. Raises UnreadableImage where
        the pixels cannot be decoded.
        """
        image = DecodedImage(image) if isinstance(image, np.ndarray) else image
        view = self.choose(image, rng, size)
        return self.finish(view.read(image), view, rng)

    def choose(self, image: JpegImage | DecodedImage, rng: np.random.Generator, size: int = 0) -> View:
        """The first of the three steps of a call: what is to be seen, by the first draws from ``rng``."""
        size = size or self.size
        box = random_box(image.height, image.width, self.scale, self.ratio, rng)
        box = image.aligned(box, reduction_for(box, size))
        return View(box, reduction_for(box, size), size, bool(rng.random() < self.flip))

    def finish(self, pixels: np.ndarray, view: View, rng: np.random.Generator) -> np.ndarray:
        """The last of the three steps: what ``view.read`` gave → the result. Draws go on from ``choose``'s."""
        pixels = resize(pixels, view.size, view.size)
        if view.mirrored:
            pixels = cv2.flip(pixels, 1)
        if self.augment is not None:
            pixels = self.augment(pixels, rng)
        if self.jitter:
            pixels = color_jitter(pixels, self.jitter, rng)
        return _in_order(pixels, self.order)


def training_sizes(cfg: CfgNode) -> list[int]:
    """The sides of the training crops, in pixels, each for an equal share of the run: from INPUT.TRAIN_SIZE_START by
    32, the network's stride, to TRAIN_SIZE; TRAIN_SIZE alone where the start is 0.

    A step on small images costs a fraction, and what is learnt first needs no detail (progressive resizing; Tan and
    Le, arXiv 2104.00298, section 4).
    """
    start, end = cfg.INPUT.TRAIN_SIZE_START, cfg.INPUT.TRAIN_SIZE
    return [*range(start, end, 32), end] if start else [end]


class TestTransform:
    """Shorter side to INPUT.TEST_RESIZE, then the centre crop of INPUT.TEST_SIZE, or the ten crops.

    Sizes, places and their rounding are torchvision's (``Resize``, ``CenterCrop``, ``TenCrop``). Where TEST_RESIZE is
    0, only an image smaller than the crop is resized, to the crop's size, while torchvision would pad it with black.

    Attributes:
        shape: of a result, (S, S, 3), or (10, S, S, 3) where TEST.CROPS is 10.

    Raises:
        UserError: the crop is larger than the resized image, or TEST.CROPS is neither 1 nor 10.
    """

    __test__ = False  # for pytest, which collects by name

    def __init__(self, cfg: CfgNode):
        self.resize, self.size, self.crops = cfg.INPUT.TEST_RESIZE, cfg.INPUT.TEST_SIZE, cfg.TEST.CROPS
        self.order = cfg.INPUT.FORMAT
        if 0 < self.resize < self.size:
            raise UserError(f"INPUT.TEST_SIZE {self.size} is larger than the image, INPUT.TEST_RESIZE {self.resize}")
        if self.crops not in (1, 10):
            raise UserError(f"TEST.CROPS must be 1 or 10; got {self.crops}")
        square = (self.size, self.size, 3)
        self.shape = square if self.crops == 1 else (10, *square)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) RGB uint8 → ``shape`` uint8, in the order of INPUT.FORMAT.

        The ten crops are in the order of torchvision's TenCrop: top left, top right, bottom left, bottom right,
        centre, and the same of the mirror image.
        """
        image = self.resized(without_the_unseen(image))
        if self.crops == 1:
            return _in_order(_center(image, self.size), self.order)
        return np.stack([_in_order(crop, self.order) for crop in ten_crops(image, self.size)])

    def resized(self, image: np.ndarray) -> np.ndarray:
        """What the crops are cut from: (H, W, 3) → (H', W', 3) with both sides at least INPUT.TEST_SIZE."""
        shorter = self.resize or max(self.size, min(image.shape[:2]))
        return resize(image, *shorter_side_to(shorter, *image.shape[:2]))


def without_the_unseen(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) → the same; of a strip more than a hundred times as long as it is wide both ends and the middle.

    Crops lie there, and what is between them would cost gigabytes: 5000 x 1 pixels become 1,280,000 x 256.
    """
    shorter, longer = sorted(image.shape[:2])
    if longer <= MAX_RATIO * shorter:
        return image
    if image.shape[0] > image.shape[1]:
        return np.ascontiguousarray(without_the_unseen(image.transpose(1, 0, 2)).transpose(1, 0, 2))
    end = 2 * shorter + 2  # more than a crop, and what is smoothed into it
    middle = end + (longer - end) % 2  # centred on what the picture is centred on
    start = (longer - middle) // 2
    return np.concatenate([image[:, :end], image[:, start : start + middle], image[:, -end:]], axis=1)


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """The part of an image for a random resized crop, drawn as torchvision's ``RandomResizedCrop`` does.

    Args:
        height, width: of the image.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width over height; it is drawn evenly on a logarithmic scale.

    After ten draws that do not fit, the largest central part with an allowed ratio.
    """
    narrow, wide = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(MAX_ATTEMPTS):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = math.exp(narrow + (wide - narrow) * rng.random())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    h, w = height, width
    if width / height < ratio[0]:
        h = max(round(width / ratio[0]), 1)
    elif width / height > ratio[1]:
        w = max(round(height * ratio[1]), 1)
    return Box((height - h) // 2, (width - w) // 2, h, w)


def reduction_for(box: Box, size: int) -> int:
    """By how much a box may be reduced before it is resized to (size, size): 1, 2, 4 or 8.

    It keeps as many pixels as the result has, and on its shorter side, which a box that is no square has a little less
    of than it needs, 85 percent.
    """
    shorter, area = min(box.height, box.width), box.height * box.width
    return next((r for r in REDUCTIONS if area >= (r * size) ** 2 and shorter >= 0.85 * r * size), 1)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 → (height, width, 3) uint8, bilinear, antialiased where it becomes smaller.

    torch's kernel for bytes does what Pillow's does, up to a difference of one level in a few pixels, in a quarter of
    the time; OpenCV's area filter is another filter (0.9 levels away on average) and no faster.
    """
    if image.shape[:2] == (height, width):
        return image
    # Strides of (H * W * 3, 1, W * 3, 3) are what torch takes for channels_last, in and out; with others it copies,
    # twice. numpy's own new axis would have the stride 0.
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    out = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(out.permute(0, 2, 3, 1)[0].numpy())


def shorter_side_to(size: int, height: int, width: int) -> tuple[int, int]:
    """The (height, width) of an image whose shorter side becomes ``size``; the other is rounded down, as torchvision
    does."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def ten_crops(image: np.ndarray, size: int) -> list[np.ndarray]:
    """The corners, the centre, and the same of the mirror image: ten views, (size, size, 3), in TenCrop's order."""
    return [crop for view in (image, image[:, ::-1]) for crop in _five_crops(view, size)]


def color_jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) RGB uint8 with brightness, contrast and saturation changed, in random order, by a factor each that is
    drawn evenly from 1 - strength to 1 + strength. Strength 0..1, below 1."""
    for kind in rng.permutation(3):
        factor = rng.uniform(1 - strength, 1 + strength)
        if kind == 0:
            image = _scaled(image, factor, 0.0)
        elif kind == 1:
            mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
            image = _scaled(image, factor, (1 - factor) * round(mean))
        else:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, factor, grey, 1 - factor, 0)
    return image


def _scaled(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    table = np.clip(np.arange(256) * factor + offset, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def _five_crops(image: np.ndarray, size: int) -> list[np.ndarray]:
    corners = (image[:size, :size], image[:size, -size:], image[-size:, :size], image[-size:, -size:])
    return [*corners, _center(image, size)]


def _center(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def _in_order(image: np.ndarray, order: str) -> np.ndarray:
    return np.ascontiguousarray(image if order == "RGB" else image[:, :, ::-1])
