"""What SE costs in training, and how fast a training step is beside timm's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import Setting, faster, import_peer, medians, ratio, take_turns
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
    timm, images = import_peer("timm"), setting.images()
    models = {
        "se_resnet50": create_backbone("se_resnet50"),
        "resnet50": create_backbone("resnet50"),
        "timm_seresnet50": timm.create_model("seresnet50"),
        "timm_resnet50": timm.create_model("resnet50"),
    }
    calls = {name: training_pass(model, images, setting) for name, model in models.items()}
    times = take_turns(calls, setting.rounds, setting.device)
    return {
        "theirs": f"timm {timm.__version__}",
        "seconds": medians(times),
        "se_over_plain": ratio(times, "se_resnet50", "resnet50"),
        "theirs_se_over_plain": ratio(times, "timm_seresnet50", "timm_resnet50"),
    }
