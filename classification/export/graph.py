"""A classifier as one function of tensors: what a file for another runtime holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classification.evaluation.metrics import GUESSES
from classification.model import ImageClassifier


class ClassifierGraph(nn.Module):
    """Pixels to logits, and to the class activation maps of the likeliest classes.

    Args:
        model: with a fused network, on the CPU.
    """

    def __init__(self, model: ImageClassifier):
        super().__init__()
        self.network = model.network
        self.register_buffer("mean", model.mean.view(1, 3, 1, 1))
        self.register_buffer("std", model.std.view(1, 3, 1, 1))

    @property
    def outputs(self) -> tuple[str, ...]:
        """``logits`` and, where the classifier is linear, ``activation_maps``."""
        return ("logits", "activation_maps")[: 1 + self.network.linear_head]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) uint8, in the order of INPUT.FORMAT → (N, K) float32, and (N, min(5, K), h, w) float32: see
        ``classification.cam.class_activation_maps``, for the likeliest classes, the first of them first."""
        last = self.network.forward_features((images.float() - self.mean) / self.std)[self.network.stages[-1]].float()
        logits = self.network.classify(last).float()
        if not self.network.linear_head:
            return (logits,)
        best = logits.topk(min(GUESSES, self.network.num_classes)).indices
        weights = self.network.head.weight.float()[best]
        return logits, torch.matmul(weights, last.flatten(2)).unflatten(2, last.shape[2:])
