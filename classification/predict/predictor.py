"""A trained classifier applied to pictures in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classification.cam import ActivationMaps, class_activation_maps
from classification.evaluation.abstention import KEY, stated_threshold
from classification.evaluation.metrics import GUESSES
from classification.exported import ExportedClassifier, load_exported_classifier
from classification.images.transforms import TestTransform
from classification.model import ImageClassifier
from classification.task import CLASS_FOLDERS, ClassificationTask
from classification.trained import load_classifier
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import choose_precision, device_of
from engine.errors import UserError
from engine.export.formats import check_config, check_precision, format_of
from engine.inference import for_inference
from engine.train.checkpoint import load_checkpoint

from detectron2.config import CfgNode


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one picture.

    Attributes:
        classes: (min(5, K),) int, class indices, the likeliest first.
        probabilities: their probabilities, 0..1.
        groups: {name: probability, 0..1} of the groups of classes, see ``ClassGroups``; empty where there are none, or
            the classes do not tell.
        cam: (h, w) float32, the class activation map of the first class, see ``cam.class_activation_maps``.
        crop: (x0, y0, x1, y1), the part of the picture that the network saw, in the picture's pixels.
        cell: width of one cell of `cam` in the picture's pixels.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    groups: dict[str, float]
    cam: np.ndarray
    crop: tuple[float, float, float, float]
    cell: float

    @property
    def group(self) -> str | None:
        """The likeliest group, the first of equals; None where the classes do not tell."""
        return max(self.groups, key=self.groups.get) if self.groups else None

    def activation(self, height: int, width: int, scale: float = 1.0) -> np.ndarray:
        """The class activation map laid over the picture: (height, width) float32, NaN outside of the crop.

        Cell (i, j) is centred on the pixel of the crop that is i cells down and j across, not half a cell further: a
        ResNet's convolutions and poolings of stride 2 are padded so that output i is centred on input 2i. (Stretching
        the map over the crop, as is often done, shows everything half a cell too far down and right.)

        Args:
            height, width: of the picture, as it is shown.
            scale: how much larger it is shown than it was predicted on.
        """
        x0, y0, x1, y1 = (value * scale for value in self.crop)
        cells = self.cam.shape
        down = _interpolation(height, y0, y1, self.cell * scale, cells[0])
        across = _interpolation(width, x0, x1, self.cell * scale, cells[1])
        return down @ self.cam @ across.T


class Predictor:
    """Names the classes of pictures of any size.

    A picture is prepared as in an evaluation with the same config: shorter side to INPUT.TEST_RESIZE, a crop of
    INPUT.TEST_SIZE from the middle (or several, with TEST.CROPS): a file gets the answer that it gets there, up to
    rounding, for here the network is fused (``se_backbones.fuse``). The class
    activation map is of the crop in the middle; what lies outside of it has no part in the map.

    Attributes:
        classes: the class names; device: where the network is; task: what is said of a picture besides its class;
        max_pixels: that a picture file may have (INPUT.MAX_PIXELS); sure_from: the probability of the first class,
        0..1, from which on it counts as sure; None: nothing is said of that.
    """

    def __init__(
        self,
        model: ImageClassifier | ExportedClassifier,
        cfg: CfgNode,
        classes: Sequence[str],
        task: ClassificationTask = CLASS_FOLDERS,
        precision: str = "fp32",
        sure_from: float | None = None,
    ):
        self.sure_from = sure_from
        self.cfg, self.classes, self.task, self.device = cfg, list(classes), task, device_of(model)
        if isinstance(model, ExportedClassifier):
            check_precision(precision, model.session.facts)
            self.model, self._stride = model, model.stride
        else:
            self.model = for_inference(model, choose_precision(precision, self.device))
            self._stride = model.network.feature_info[model.network.stages[-1]].stride
        self.max_pixels = cfg.INPUT.MAX_PIXELS
        self._transform = TestTransform(cfg)
        self._groups = task.groups(self.classes)

    @classmethod
    def from_checkpoint(
        cls,
        weights: str | Path,
        config: str | Path | None = None,
        device: str = "auto",
        task: ClassificationTask = CLASS_FOLDERS,
        precision: str = "fp32",
        sure: int | None = None,
    ):
        """Loads a classifier from a run's checkpoint, which holds its config too; `config` names a YAML file to use
        instead. Or from what ``tools/export.py`` made of one, which has its config and its precision in it. device:
        auto, cpu or cuda. precision: auto, fp32, bf16 or fp16. sure: percent of the answers that are to be right, see
        ``abstention.ACCURACIES``. Raises UserError if the file or the device cannot be used, or does not state how
        probable an answer has to be for that."""

        def stated() -> object:
            if isinstance(loaded[0], ExportedClassifier):
                return loaded[0].session.facts.details.get(KEY)
            return load_checkpoint(Path(weights)).get(KEY)

        if format_of(weights) is None:
            loaded = load_classifier(weights, config, device)
        else:
            check_config(config, weights)
            loaded = load_exported_classifier(weights, device)
        sure_from = None if sure is None else stated_threshold(sure, stated, weights)
        return cls(*loaded, task, precision, sure_from)

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """The classes of each picture of a list; (H, W, 3) RGB uint8, H and W may differ.

        Raises:
            ValueError: something else than such a picture.
            UserError: the network's answer is not finite.
        """
        if not images:
            return []
        crops = np.stack([self._prepare(image) for image in images])  # (N, T, S, S, 3), T crops of each
        count, each = crops.shape[:2]
        pixels = torch.from_numpy(crops).flatten(0, 1).permute(0, 3, 1, 2)
        found = self._activation_maps(pixels)
        probabilities = found.logits.double().softmax(1).unflatten(0, (count, each)).mean(1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise UserError("the network's answer is not finite: its weights or BatchNorm statistics have diverged")
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :GUESSES]
        maps = found.maps[:, 0]
        if each > 1:  # the centre crop alone may have another first class than all of them together
            centres = torch.from_numpy(np.stack([self._transform.centre(image) for image in images]))
            maps = self._activation_maps(centres.permute(0, 3, 1, 2), torch.from_numpy(order.copy())).maps[:, 0]
        return [
            Prediction(
                classes=best,
                probabilities=row[best],
                groups=self._group_probabilities(row),
                cam=cam,
                crop=crop_box(image.shape[0], image.shape[1], self.cfg),
                cell=self._stride * _reduction(image.shape[0], image.shape[1], self.cfg),
            )
            for image, best, row, cam in zip(images, order, probabilities, maps.cpu().numpy(), strict=True)
        ]

    def _activation_maps(self, pixels: Tensor, classes: Tensor | None = None) -> ActivationMaps:
        """classes: (N, C), the likeliest first, of which the first is mapped."""
        if isinstance(self.model, ExportedClassifier):
            return self.model.activation_maps(pixels, classes)
        first = None if classes is None else classes[:, :1]
        return class_activation_maps(self.model.network, self.model.normalise(pixels), first)

    def _group_probabilities(self, row: np.ndarray) -> dict[str, float]:
        if self._groups is None or not self._groups.told_apart:
            return {}
        return dict(zip(self._groups.names, self._groups.probabilities(row[None])[0].tolist(), strict=True))

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        """(T, S, S, 3) uint8 in the channel order of the config."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected a picture (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
        crops = self._transform(image)
        return crops if crops.ndim == 4 else crops[None]


def crop_box(height: int, width: int, cfg: CfgNode) -> tuple[float, float, float, float]:
    """Which part of a picture of this size the evaluation's centre crop shows: x0, y0, x1, y1 in its pixels."""
    side = min(cfg.INPUT.TEST_SIZE * _reduction(height, width, cfg), height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _reduction(height: int, width: int, cfg: CfgNode) -> float:
    """How many pixels of the picture one of the crop stands for."""
    shorter = min(height, width)
    return shorter / (cfg.INPUT.TEST_RESIZE or max(cfg.INPUT.TEST_SIZE, shorter))


def _interpolation(length: int, start: float, end: float, cell: float, cells: int) -> np.ndarray:
    """(length, cells) float32: what each cell, centred on `start` + its number times `cell`, contributes to each
    pixel; NaN for pixels outside of start..end. Cubic convolution (Keys 1981, a = -1/2), the border cells repeated."""
    pixels = np.arange(length) + 0.5
    place = (pixels - start) / cell
    first = np.floor(place).astype(int)
    weights = np.zeros((length, cells), np.float32)
    for tap in range(-1, 3):
        distance = np.abs(place - (first + tap))
        near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        np.add.at(weights, (np.arange(length), np.clip(first + tap, 0, cells - 1)), np.where(distance < 1, near, far))
    weights[(pixels < start) | (pixels > end)] = np.nan
    return weights
