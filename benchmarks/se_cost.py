"""SE's cost: the time of se_resnet50 over that of resnet50, ours and timm's, all four taking turns."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.measure import Setting, import_peer
from engine.timing import medians, ratio, take_turns
from se_backbones import create_backbone


def cost_of_se(setting: Setting, call_of: Callable[[nn.Module], Callable[[], None]]) -> dict:
    """``call_of``: a network, with its classifier → what is timed of it."""
    timm = import_peer("timm")
    models = {
        "se_resnet50": create_backbone("se_resnet50"),
        "resnet50": create_backbone("resnet50"),
        "timm_seresnet50": timm.create_model("seresnet50"),
        "timm_resnet50": timm.create_model("resnet50"),
    }
    times = take_turns({name: call_of(model) for name, model in models.items()}, setting.rounds, setting.device)
    return {
        "theirs": f"timm {timm.__version__}",
        "seconds": medians(times),
        "se_over_plain": ratio(times, "se_resnet50", "resnet50"),
        "theirs_se_over_plain": ratio(times, "timm_seresnet50", "timm_resnet50"),
    }
