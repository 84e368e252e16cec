"""The training loss of a classifier: cross-entropy, on mixed images where the config asks for it."""

from __future__ import annotations

import math

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F


class ClassificationLoss:
    """Cross-entropy with label smoothing, on batches mixed by mixup or CutMix.

    All draws come from PyTorch's global generator, which the training loop seeds at each step.

    Args:
        cfg: INPUT.MIXUP, CUTMIX and MIX_PROBABILITY, SOLVER.LABEL_SMOOTHING.
        weights: (K,) float32, of each class, as of ``class_weights``; None for 1. The loss is the mean over images of
            theirs times the weight of their class (with label smoothing each class's part of it times that class's, as
            PyTorch has it), and not divided by the weights that a batch happens to have: so it is the same whichever
            processes share a batch.
    """

    def __init__(self, cfg: CfgNode, weights: Tensor | None = None):
        self.weights = weights
        self.mixup, self.cutmix, self.probability = cfg.INPUT.MIXUP, cfg.INPUT.CUTMIX, cfg.INPUT.MIX_PROBABILITY
        self.smoothing = cfg.SOLVER.LABEL_SMOOTHING

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Args: images (N, 3, H, W) normalised; labels (N,). Returns ``{"loss_cls": scalar}``."""
        images, partners, share = self.mix(images)
        logits = network(images).float()
        loss = self._cross_entropy(logits, labels)
        if partners is not None:
            loss = share * loss + (1 - share) * self._cross_entropy(logits, labels[partners])
        return {"loss_cls": loss}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        weights = self.weights = self.weights.to(logits.device)
        return F.cross_entropy(logits, labels, weights, label_smoothing=self.smoothing, reduction="none").mean()

    def mix(self, images: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Mixes each image of a batch with another of it.

        Returns:
            the images; for each, the index of the one mixed in (None: nothing was mixed); and the share of the image
            itself, 0..1, the same for the whole batch.
        """
        kinds = [kind for kind in ("mixup", "cutmix") if getattr(self, kind) > 0]
        if not kinds or torch.rand(()).item() >= self.probability:
            return images, None, 1.0
        kind = kinds[int(torch.randint(len(kinds), ()))]
        alpha = float(getattr(self, kind))
        share = torch.distributions.Beta(alpha, alpha).sample().item()
        partners = torch.randperm(len(images)).to(images.device)
        if kind == "mixup":
            return images.lerp(images[partners], 1 - share), partners, share
        height, width = images.shape[2:]
        # A box of (1 - share) of the area around any point of the image; what lies outside the image is cut off.
        half_h, half_w = (round(side * math.sqrt(1 - share) / 2) for side in (height, width))
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        top, bottom = max(y - half_h, 0), min(y + half_h, height)
        left, right = max(x - half_w, 0), min(x + half_w, width)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
        return mixed, partners, 1 - (bottom - top) * (right - left) / (height * width)
