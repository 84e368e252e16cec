"""A detector out of an exported file, in the place of one out of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.config import config_from_checkpoint
from detection.images import padded_size
from detection.task_info import DETECTION
from detection.thresholds import KEY, Thresholds, parse_threshold
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import choose_device
from engine.errors import UserError
from engine.export.formats import Session, open_exported

from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances


class ExportedDetector(nn.Module):
    """A file's detector: takes images and gives objects as Detectron2's models do, in eval mode.

    Attributes:
        session: the file in its runtime. device: where it runs.
    """

    def __init__(self, session: Session):
        super().__init__()
        self.session, self.device = session, session.device
        self.multiple = session.facts.details["multiple"]
        height, width = (session.facts.fixed("image", axis) for axis in (2, 3))
        self.size = None if height is None or width is None else (height, width)

    def forward(self, batch: Sequence[dict]) -> list[dict]:
        """[{"image": (3, H, W), 0..255, in the order of INPUT.FORMAT, "height", "width"}] → [{"instances"}].

        A file of a fixed size takes smaller images with padding, and larger ones made smaller."""
        results = []
        for entry in batch:
            image, shape = fitted(entry["image"], self.size, self.multiple)
            boxes, scores, classes, *masks = self.session(image=image, size=shape)
            size = tuple(shape.tolist())
            found = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
            if masks:
                found.pred_masks = masks[0][:, None]
            height, width = entry.get("height", size[0]), entry.get("width", size[1])
            results.append({"instances": detector_postprocess(found, height, width)})
        return results


def fitted(image: Tensor, size: tuple[int, int] | None, multiple: int) -> tuple[Tensor, Tensor]:
    """A graph's inputs for an image.

    Args:
        image: (3, H, W), 0..255.
        size: height and width that the graph takes, to which a larger image is made smaller; None: any multiples.
        multiple: of sides.

    Returns:
        (1, 3, H', W') uint8 with the image in its upper left corner, and the image's height and width there.
    """
    image = image[None].float()
    height, width = image.shape[2:]
    if size is not None and (height > size[0] or width > size[1]):
        scale = min(size[0] / height, size[1] / width)
        height, width = max(int(height * scale), 1), max(int(width * scale), 1)
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    rows, columns = size or padded_size((height, width), multiple)
    pixels = image.round().clamp(0, 255).to(torch.uint8)
    return F.pad(pixels, (0, columns - width, 0, rows - height)), torch.tensor([height, width])


def load_exported_detector(
    path: str | Path, device: str, threshold: float | str | Path | Thresholds
) -> tuple[ExportedDetector, CfgNode, list[str], list[int], Thresholds]:
    """A detector that ``tools/export.py`` wrote.

    Args:
        device: see ``engine.device.choose_device``.
        threshold: which scores count, see ``detection.thresholds.parse_threshold``.

    Returns:
        it, the config of its run, the class names, the data set's category id of each class, and the thresholds.

    Raises:
        UserError: the file cannot be used, or leaves out objects of such scores.
    """
    session = open_exported(path, choose_device(device), (DETECTION.name,))
    facts = session.facts
    least = facts.details["score_threshold"]
    thresholds = parse_threshold(threshold, lambda: facts.details.get(KEY), path)
    if thresholds.lowest() < least:
        raise UserError(
            f"--threshold {threshold}: {path} leaves out objects below {least}; export it with a lower "
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST (or MODEL.RETINANET.…)"
        )
    cfg = config_from_checkpoint({"task": facts.task, "config": facts.config})
    return ExportedDetector(session), cfg, list(facts.classes), list(facts.details["category_ids"]), thresholds
