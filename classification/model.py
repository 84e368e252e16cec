"""Image classifiers from configs and from checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.se import se_config
from engine.device import choose_device
from engine.errors import UserError
from se_backbones import Backbone, create_backbone

from detectron2.config import CfgNode


def build_network(cfg: CfgNode, num_classes: int) -> Backbone:
    """The network a config describes, with random weights (He initialisation), on ``cfg.MODEL.DEVICE``.

    Raises:
        UserError: a value that ``create_backbone`` refuses.
    """
    torch.manual_seed(cfg.SEED)  # the same config and seed give the same first weights
    backbone = cfg.MODEL.BACKBONE
    try:
        network = create_backbone(
            backbone.ARCHITECTURE,
            num_classes,
            se=se_config(cfg),
            norm=backbone.NORM,
            freeze_at=backbone.FREEZE_AT,
            dropout=backbone.DROPOUT,
            recompute=backbone.RECOMPUTE,
            widths=backbone.WIDTHS,
        )
    except ValueError as error:
        raise UserError(f"MODEL.BACKBONE: {error}") from error
    network = network.to(choose_device(cfg.MODEL.DEVICE))
    return network.to(memory_format=torch.channels_last) if cfg.CHANNELS_LAST else network


class ImageClassifier(nn.Module):
    """A network with its preprocessing: takes images as they are decoded.

    Attributes:
        network: takes normalised images.
    """

    def __init__(self, network: Backbone, cfg: CfgNode):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(cfg.MODEL.PIXEL_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(cfg.MODEL.PIXEL_STD), persistent=False)
        self.to(next(network.parameters()).device)

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8, in the order of INPUT.FORMAT → float32 on the network's device, less the mean and over
        the standard deviation. The bytes travel to the device, a quarter of what numbers would be.

        Batches have their channels last in memory, and so has the result. Whole rows of W * 3 numbers are what a CPU
        computes fast, several times as fast as three at a time.
        """
        rows = images.to(self.mean.device, non_blocking=True).permute(0, 2, 3, 1).flatten(2)
        width = images.shape[3]
        rows = rows.float().sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 → logits, (N, classes) float32."""
        return self.network(self.normalise(images)).float()
