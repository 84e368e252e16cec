"""From a picture to the square that the network sees: uint8, normalised later and elsewhere."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from classification.images.crops import TrainCrop, View, reduction_for, shorter_side_to
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.images.reading import DecodedImage, JpegImage

from detectron2.config import CfgNode

TEST_CROPS = (1, 10, 12)
MAX_RATIO = 100  # of the longer side to the shorter one, up to which an image is resized as a whole


class TrainTransform:
    """Random crop and mirror image; RandAugment, colour jitter and Cutout where the config asks for them.

    Where ``pad`` shows more than there is of an image, and in Cutout's square, lies the mean, MODEL.PIXEL_MEAN in whole
    levels, which is zero for the network. Papers say that they pad with zeros, and not before or behind what: the Torch
    code of the pre-activation networks and of Shake-Shake (fb.resnet.torch, ``datasets/cifar10.lua``) normalises first,
    and He et al. (arXiv 1512.03385, section 4.2) subtract the mean of each pixel. torchvision's usual order pads the
    bytes with black, about two standard deviations below CIFAR's mean, and Wide ResNet's own code reflects the image.
    Cutout's authors (arXiv 1708.04552) cut out of the normalised image.

    Args:
        cfg: INPUT.{TRAIN_CROP, TRAIN_SIZE, SCALE, RATIO, PAD, SHORTER_SIDE, FLIP, RAND_AUGMENT, COLOR_JITTER, CUTOUT,
            FORMAT}, MODEL.PIXEL_MEAN.

    Raises:
        UserError: a probability, strength or magnitude is out of range.
    """

    def __init__(self, cfg: CfgNode):
        given = cfg.INPUT
        if not 0 <= given.FLIP <= 1:
            raise UserError(f"INPUT.FLIP is a probability, 0..1; got {given.FLIP}")
        if not 0 <= given.COLOR_JITTER < 1:
            raise UserError(f"INPUT.COLOR_JITTER must be in 0..1, below 1; got {given.COLOR_JITTER}")
        self.size, self.crop = given.TRAIN_SIZE, TrainCrop(cfg)
        self.flip, self.jitter, self.cutout, self.order = given.FLIP, given.COLOR_JITTER, given.CUTOUT, given.FORMAT
        self.mean = np.clip(np.rint(cfg.MODEL.PIXEL_MEAN), 0, 255).astype(np.uint8)  # in the order of INPUT.FORMAT
        augment = given.RAND_AUGMENT
        self.augment = None
        if augment.OPS:
            # Here: it needs torchvision, which takes as long to import as torch itself.
            from classification.images.rand_augment import RandAugment

            self.augment = RandAugment(augment.OPS, augment.MAGNITUDE)

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
        box, place = self.crop(image.height, image.width, size, rng)
        box = image.aligned(box, reduction_for(box, size))
        return View(box, reduction_for(box, size), size, bool(rng.random() < self.flip), place)

    def finish(self, pixels: np.ndarray, view: View, rng: np.random.Generator) -> np.ndarray:
        """The last of the three steps: what ``view.read`` gave → the result. Draws go on from ``choose``'s."""
        pixels = self._placed(resize(pixels, view.place.height, view.place.width), view)
        if view.mirrored:
            pixels = cv2.flip(pixels, 1)
        if self.augment is not None:
            pixels = self.augment(pixels, rng)
        if self.jitter:
            pixels = color_jitter(pixels, self.jitter, rng)
        pixels = _in_order(pixels, self.order)
        return cut_out(pixels, self.cutout, self.mean, rng) if self.cutout else pixels

    def _placed(self, pixels: np.ndarray, view: View) -> np.ndarray:
        """The pixels in a square of ``view.size``, and the mean around them."""
        top, left, height, width = view.place
        if (height, width) == (view.size, view.size):
            return pixels
        square = np.empty((view.size, view.size, 3), np.uint8)
        square[:] = self.mean if self.order == "RGB" else self.mean[::-1]
        square[top : top + height, left : left + width] = pixels
        return square


class TestTransform:
    """Shorter side to INPUT.TEST_RESIZE, then the centre crop of INPUT.TEST_SIZE, or ten or twelve crops.

    Sizes, places and their rounding are torchvision's (``Resize``, ``CenterCrop``, ``TenCrop``). Where TEST_RESIZE is
    0, only an image smaller than the crop is resized, to the crop's size, while torchvision would pad it with black.

    Attributes:
        shape: of a result, (S, S, 3), or (TEST.CROPS, S, S, 3) where there is more than one crop.

    Raises:
        UserError: the crop is larger than the resized image, or TEST.CROPS is none of ``TEST_CROPS``.
    """

    __test__ = False  # for pytest, which collects by name

    def __init__(self, cfg: CfgNode):
        self.resize, self.size, self.crops = cfg.INPUT.TEST_RESIZE, cfg.INPUT.TEST_SIZE, cfg.TEST.CROPS
        self.order = cfg.INPUT.FORMAT
        if 0 < self.resize < self.size:
            raise UserError(f"INPUT.TEST_SIZE {self.size} is larger than the image, INPUT.TEST_RESIZE {self.resize}")
        if self.crops not in TEST_CROPS:
            raise UserError(f"TEST.CROPS must be 1, 10 or 12; got {self.crops}")
        square = (self.size, self.size, 3)
        self.shape = square if self.crops == 1 else (self.crops, *square)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) RGB uint8 → ``shape`` uint8, in the order of INPUT.FORMAT.

        The ten crops are in the order of torchvision's TenCrop: top left, top right, bottom left, bottom right,
        centre, and the same of the mirror image; of the twelve see ``twelve_crops``.
        """
        if self.crops == 1:
            return self.centre(image)
        image = self.resized(without_the_unseen(image))
        crops = ten_crops if self.crops == 10 else twelve_crops
        return np.stack([_in_order(crop, self.order) for crop in crops(image, self.size)])

    def centre(self, image: np.ndarray) -> np.ndarray:
        """The one crop that there is where TEST.CROPS is 1: (H, W, 3) RGB uint8 → (S, S, 3) uint8."""
        return _in_order(_center(self.resized(without_the_unseen(image)), self.size), self.order)

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


def ten_crops(image: np.ndarray, size: int) -> list[np.ndarray]:
    """The corners, the centre, and the same of the mirror image: ten views, (size, size, 3), in TenCrop's order."""
    return [crop for view in (image, image[:, ::-1]) for crop in _five_crops(view, size)]


def twelve_crops(image: np.ndarray, size: int) -> list[np.ndarray]:
    """The image as a square of its shorter side: corners, centre and the whole at ``size``, and the same of the mirror
    image: twelve views, (size, size, 3).

    By these the release's networks were tested by others (github.com/soeaver/caffe-model, ``mirror_crop`` of
    ``cls/evaluation_cls.py``; it resizes with OpenCV's bilinear filter, without antialiasing).
    """
    shorter = min(image.shape[:2])
    square = resize(image, shorter, shorter)
    return [crop for view in (square, square[:, ::-1]) for crop in (*_five_crops(view, size), resize(view, size, size))]


def cut_out(image: np.ndarray, side: int, fill: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) → the same with a square of ``side`` pixels around a random point set to ``fill``, (3,); what of it
    lies outside of the image is cut off (Cutout; DeVries and Taylor, arXiv 1708.04552)."""
    top, left = (int(rng.integers(length)) - side // 2 for length in image.shape[:2])
    image = image.copy()
    image[max(top, 0) : top + side, max(left, 0) : left + side] = fill
    return image


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
