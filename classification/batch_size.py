"""A step of a classifier's training, to find out which batch a GPU holds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from classification.config import in_steps
from classification.images.crops import training_sizes
from classification.loss import ClassificationLoss
from classification.model import ImageClassifier, build_network
from engine import compat  # noqa: F401  (before detectron2)
from engine.run.experiment import on_device
from engine.train.batch_size import training_step

from detectron2.config import CfgNode


def classifier_step(cfg: CfgNode, device: torch.device, images: int, classes: int) -> Callable[[int], None]:
    """As ``training_step``, on black images of the largest side.

    Args:
        images, classes: of the training set.
    """
    here = in_steps(on_device(cfg, device), images)
    network, loss, side = build_network(here, classes), ClassificationLoss(here), max(training_sizes(here))
    normalise = ImageClassifier(network, here).normalise

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.zeros(count, 3, side, side, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        return normalise(pixels), torch.zeros(count, dtype=torch.int64, device=device)

    return training_step(network, here, lambda network, batch: loss(network, *batch), batch)
