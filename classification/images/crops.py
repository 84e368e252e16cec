"""Which part of an image training sees, by INPUT.TRAIN_CROP."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from engine import compat  # noqa: F401  (before detectron2)
from engine.images.reading import REDUCTIONS, Box, DecodedImage, JpegImage

from detectron2.config import CfgNode

MAX_ATTEMPTS = 10  # of torchvision's RandomResizedCrop
TRAIN_CROPS = ("area", "pad", "shorter_side")


class View(NamedTuple):
    """What training sees of an image: a box of it, decoded at 1/reduction of its size and then resized to ``place``,
    its part of a square of (size, size), mirrored or not."""

    box: Box
    reduction: int
    size: int
    mirrored: bool
    place: Box

    @property
    def nbytes(self) -> int:
        """About as many bytes as ``read`` gives."""
        return 3 * self.box.height * self.box.width // self.reduction**2

    def read(self, image: JpegImage | DecodedImage) -> np.ndarray:
        """The box's pixels, (h, w, 3) RGB uint8. Raises UnreadableImage where they cannot be decoded."""
        return image.crop(self.box, self.reduction)


class TrainCrop:
    """Draws the part of an image that is seen, and its place in the square that the network gets.

    - ``area``: a share of the image's area, INPUT.SCALE, at an aspect ratio, INPUT.RATIO, which fills the square
      (Szegedy et al., arXiv 1409.4842; "random cropping using scale and aspect ratio" of arXiv 1709.01507).
    - ``shorter_side``: a square out of the image whose shorter side has become a number of pixels that is drawn evenly
      from INPUT.SHORTER_SIDE (He et al., arXiv 1512.03385, section 3.4, after Simonyan and Zisserman). It is cut out
      before it is resized, so that the rest is never decoded nor resized: its sides are rounded to pixels of the image.
      While INPUT.TRAIN_SIZE_START lets the square grow, the part of the image is the same.
    - ``pad``: a square out of the image with INPUT.PAD pixels around it (He et al., section 4.2, for CIFAR), the
      image's shorter side being the square's, or made that.

    Args:
        cfg: INPUT.{TRAIN_CROP, TRAIN_SIZE, SCALE, RATIO, PAD, SHORTER_SIDE}.
    """

    def __init__(self, cfg: CfgNode):
        given = cfg.INPUT
        self.size, self.scale, self.ratio = given.TRAIN_SIZE, tuple(given.SCALE), tuple(given.RATIO)
        self.pad, self.shorter_side = given.PAD, tuple(given.SHORTER_SIDE)
        self._draw = {"area": self._area, "pad": self._padded, "shorter_side": self._scaled}[given.TRAIN_CROP]

    def __call__(self, height: int, width: int, size: int, rng: np.random.Generator) -> tuple[Box, Box]:
        """A part of an image of (height, width), and its place inside of (size, size); all draws are from ``rng``."""
        return self._draw(height, width, size, rng)

    def _area(self, height: int, width: int, size: int, rng: np.random.Generator) -> tuple[Box, Box]:
        return random_box(height, width, self.scale, self.ratio, rng), Box(0, 0, size, size)

    def _scaled(self, height: int, width: int, size: int, rng: np.random.Generator) -> tuple[Box, Box]:
        low, high = self.shorter_side
        side = max(round(min(height, width) * self.size / int(rng.integers(low, high + 1))), 1)
        top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
        return Box(top, left, side, side), Box(0, 0, size, size)

    def _padded(self, height: int, width: int, size: int, rng: np.random.Generator) -> tuple[Box, Box]:
        rows, columns = (
            _overlap(length, resized, size, int(rng.integers(resized + 2 * self.pad - size + 1)) - self.pad)
            for length, resized in zip((height, width), shorter_side_to(size, height, width), strict=True)
        )
        box, place = ((rows[n][0], columns[n][0], rows[n][1], columns[n][1]) for n in (0, 1))
        return Box(*box), Box(*place)


def _overlap(length: int, resized: int, size: int, start: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of one side of an image of ``length`` pixels, resized to ``resized``, what lies in start..start + size.

    Returns:
        (first, count) in the image's own pixels, and (first, count) in those of the crop.
    """
    first, end = max(start, 0), min(start + size, resized)
    own = round(first * length / resized)
    own = min(own, length - 1)
    return (own, max(round(end * length / resized) - own, 1)), (first - start, end - first)


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


def shorter_side_to(size: int, height: int, width: int) -> tuple[int, int]:
    """The (height, width) of an image whose shorter side becomes ``size``; the other is rounded down, as torchvision
    does."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def training_sizes(cfg: CfgNode) -> list[int]:
    """The sides of the training crops, in pixels, each for an equal share of the run: from INPUT.TRAIN_SIZE_START by
    32, the network's stride, to TRAIN_SIZE; TRAIN_SIZE alone where the start is 0.

    A step on small images costs a fraction, and what is learnt first needs no detail (progressive resizing; Tan and
    Le, arXiv 2104.00298, section 4).
    """
    start, end = cfg.INPUT.TRAIN_SIZE_START, cfg.INPUT.TRAIN_SIZE
    return [*range(start, end, 32), end] if start else [end]
