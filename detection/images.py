"""From a picture file to what a detector sees of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from engine import compat  # noqa: F401  (before detectron2)
from engine.images.reading import read_image

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as d2_utils
from detectron2.data import transforms as T


def in_order(image: np.ndarray, cfg: CfgNode) -> np.ndarray:
    """(H, W, 3) RGB → the same in the order of INPUT.FORMAT, RGB or BGR."""
    return image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image


def read_checked(record: dict, cfg: CfgNode) -> np.ndarray:
    """The picture of a record in Detectron2's form: (H, W, 3) uint8 in the order of INPUT.FORMAT.

    Raises:
        UnreadableImage: as ``read_image``.
        SizeMismatchError: it has another size than the record says.
    """
    image = read_image(record["file_name"], cfg.INPUT.MAX_PIXELS)
    d2_utils.check_image_size(record, image)
    return in_order(image, cfg)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, with one pixel a side at least: it makes a picture of 5000 x 1 one of 1333 x 0."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
        return transform


class RandomCrop(T.RandomCrop):
    """Detectron2's, with one pixel a side at least: a third of one pixel is none."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = super().get_crop_size(image_size)
        return max(height, 1), max(width, 1)


class TrainingMapper(DatasetMapper):
    """Detectron2's mapper of a record to a training example, but for the reader, which is that of all pictures here:
    Detectron2's own takes 16-bit files for white, shows what transparency hides, and takes damaged PNG files.

    Args:
        cfg: INPUT.*, MODEL.MASK_ON.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg, is_train=True)
        self._cfg = cfg

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        arguments, given = super().from_config(cfg, is_train), cfg.INPUT
        ours = {
            T.ResizeShortestEdge: lambda: ResizeShortestEdge(
                given.MIN_SIZE_TRAIN, given.MAX_SIZE_TRAIN, given.MIN_SIZE_TRAIN_SAMPLING
            ),
            T.RandomCrop: lambda: RandomCrop(given.CROP.TYPE, given.CROP.SIZE),
        }
        arguments["augmentations"] = [ours.get(type(a), lambda a=a: a)() for a in arguments["augmentations"]]
        return arguments

    def __call__(self, record: dict) -> dict:
        record = copy.deepcopy(record)
        seen = T.AugInput(read_checked(record, self._cfg))
        transforms = self.augmentations(seen)
        record["image"] = channels_first(seen.image)
        self._transform_annotations(record, transforms, seen.image.shape[:2])
        return record


def resize_for_test(image: np.ndarray, cfg: CfgNode) -> np.ndarray:
    """(H, W, 3) uint8 → the size at which a detector sees it: INPUT.MIN_SIZE_TEST, at most MAX_SIZE_TEST."""
    size = cfg.INPUT.MIN_SIZE_TEST
    if size == 0:
        return image
    resize = ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
    return resize.get_transform(image).apply_image(image)


def test_input(image: np.ndarray, cfg: CfgNode) -> dict:
    """A picture, (H, W, 3) RGB uint8, as a detector takes it: {"image": (3, H', W') uint8, "height": H, "width": W}."""
    pixels = in_order(resize_for_test(image, cfg), cfg)
    return {"image": channels_first(pixels), "height": image.shape[0], "width": image.shape[1]}


def channels_first(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) → (3, H, W), in one piece."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def padded_size(size: Sequence[int], multiple: int) -> tuple[int, int]:
    """Height and width, each up to the next multiple."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width
