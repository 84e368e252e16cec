"""What SE costs in training, and how fast a training step is beside timm's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import Setting, faster, import_peer
from benchmarks.se_cost import cost_of_se
from engine.device import autocast
from se_backbones import create_backbone


def training_pass(model: nn.Module, images: Tensor, setting: Setting) -> Callable[[], None]:
    model = model.to(setting.device, memory_format=torch.channels_last).train()

    def call():
        with autocast(setting.device, setting.dtype):
            loss = model(images).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return call


def network(setting: Setting) -> dict:
    """A training step, forward and backward, of se_resnet50 against timm's seresnet50."""
    timm, images = import_peer("timm"), setting.images()
    pair = [create_backbone("se_resnet50"), timm.create_model("seresnet50")]
    calls = [training_pass(model, images, setting) for model in pair]
    return {"theirs": f"timm {timm.__version__} seresnet50", **faster(*calls, setting)}


def training_cost(setting: Setting) -> dict:
    """SE's cost in training: forward and backward of se_resnet50 over resnet50, ours and timm's."""
    images = setting.images()
    return cost_of_se(setting, lambda model: training_pass(model, images, setting))
