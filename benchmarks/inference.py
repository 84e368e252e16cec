"""What SE costs in inference, fused and not, and how fast that is beside timm and OpenVINO."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import Setting, import_peer
from benchmarks.se_cost import cost_of_se
from engine.export.openvino_file import openvino_model
from engine.export.program import Graph, capture
from engine.timing import medians, ratio, take_turns
from se_backbones import Backbone, create_backbone, fuse


class LastMap(nn.Module):
    """A network's last map, which is what all of them are asked for."""

    def __init__(self, network: Backbone):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.forward_features(x)[self.network.stages[-1]]


def forward_pass(model: nn.Module, setting: Setting, dtype: torch.dtype | None = None) -> Callable[[], None]:
    """Weights and images in one type: under autocast each call would convert the weights again."""
    dtype = dtype or setting.dtype
    model = copy.deepcopy(model).to(setting.device, dtype, memory_format=torch.channels_last).eval()
    return _call_of(model, setting.images().to(dtype))


def fused_pass(network: Backbone, setting: Setting) -> Callable[[], None]:
    fast = fuse(network.to(setting.device), setting.dtype)
    return _call_of(LastMap(fast), setting.images().to(setting.dtype))


def _call_of(model: nn.Module, images: Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def call():
        model(images)

    return call


def fused_cost(setting: Setting) -> dict:
    """SE's cost in inference, fused: forward of se_resnet50 over resnet50."""
    calls = {name: fused_pass(create_backbone(name), setting) for name in ("se_resnet50", "resnet50")}
    times = take_turns(calls, setting.rounds, setting.device)
    return {"seconds": medians(times), "se_over_plain": ratio(times, "se_resnet50", "resnet50")}


def inference_cost(setting: Setting) -> dict:
    """SE's cost in inference: forward of se_resnet50 over resnet50, ours and timm's, nothing fused."""
    return cost_of_se(setting, lambda model: forward_pass(model, setting))


def fused(setting: Setting) -> dict:
    """se_resnet50 fused against itself as it is, and timm's seresnet50 in fp32 and in this precision."""
    timm = import_peer("timm")
    ours, theirs = create_backbone("se_resnet50"), timm.create_model("seresnet50", num_classes=0, global_pool="")
    calls = {
        "fused": fused_pass(ours, setting),
        "eager": forward_pass(LastMap(ours), setting),
        "timm": forward_pass(theirs, setting),
        "timm_fp32": forward_pass(theirs, setting, torch.float32),
    }
    times = take_turns(calls, setting.rounds, setting.device)
    return {
        "theirs": f"timm {timm.__version__} seresnet50",
        "seconds": medians(times),
        **{f"times_as_fast_as_{name}": ratio(times, name, "fused") for name in ("eager", "timm", "timm_fp32")},
    }


def openvino(setting: Setting) -> dict:
    """se_resnet50 fused, in PyTorch, against the same graph in OpenVINO, on a CPU, in the same precision."""
    ov = import_peer("openvino")
    network = create_backbone("se_resnet50")
    images = setting.images()
    program = capture(Graph(LastMap(fuse(network)).eval(), {"images": images.contiguous()}, ("map",)))
    graph = openvino_model(program, {"images": list(images.shape)}, ["map"])
    compiled = ov.Core().compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if setting.dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request, pixels = compiled.create_infer_request(), images.contiguous().numpy()
    calls = {"fused": fused_pass(network, setting), "openvino": lambda: request.infer({0: pixels}, share_inputs=True)}
    times = take_turns(calls, setting.rounds, setting.device)
    return {
        "theirs": f"OpenVINO {ov.__version__.partition('-')[0]}",
        "seconds": medians(times),
        "over_openvino": ratio(times, "fused", "openvino"),
    }
