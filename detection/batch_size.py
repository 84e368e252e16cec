"""A step of a detector's training, to find out which batch a GPU holds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from detection.data import DetectionData, TrainingSet, to_learn_from
from detection.model import build_detector
from engine import compat  # noqa: F401  (before detectron2)
from engine.run.experiment import on_device
from engine.train.batch_size import training_step

from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage


def detector_step(cfg: CfgNode, device: torch.device, data: DetectionData) -> Callable[[int], None]:
    """As ``training_step``, on the set's largest images at the largest training size: the widest and the highest in
    turn, as a batch of both is padded to the width of the one and the height of the other.

    Args:
        cfg: with the number of classes.
    """
    largest = cfg.clone()
    largest.defrost()
    given = largest.INPUT
    given.MIN_SIZE_TRAIN, given.MIN_SIZE_TRAIN_SAMPLING = (max(given.MIN_SIZE_TRAIN),), "choice"
    given.CROP.ENABLED = False
    records = to_learn_from(data, largest)
    both = [max(records, key=lambda r: r[a] / r[b]) for a, b in (("width", "height"), ("height", "width"))]
    if largest.INPUT.MIN_SIZE_TRAIN == (0,):  # as they are
        both = [max(records, key=lambda r: r[side]) for side in ("width", "height")]
    entries = [TrainingSet([record], largest)[(0, 0)] for record in both]
    model = build_detector(on_device(cfg, device))

    def losses(model: torch.nn.Module, batch: list[dict]) -> dict:
        with EventStorage(1):
            return model(batch)

    return training_step(model, cfg, losses, lambda count: [entries[index % 2] for index in range(count)])
