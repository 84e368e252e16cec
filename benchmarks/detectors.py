"""Detectors in inference, against Detectron2's own with the same weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.measure import Setting, faster
from detection.config import load_config
from detection.fused import detector_for_inference
from detection.model import build_detector
from detection.roi_align import FastROIAlign
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import autocast
from engine.timing import medians, ratio, take_turns
from se_backbones.weights import convert_file

from detectron2.config import get_cfg
from detectron2.layers import ROIAlign
from detectron2.modeling import build_model

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HEIGHT, WIDTH = 480, 640


def detector(setting: Setting) -> dict:
    """Faster R-CNN with a feature pyramid on ResNet-50, and on SE-ResNet-50, fused, on one image of 480 by 640, against
    Detectron2's own on ResNet-50 with the same weights in fp32; 80 classes, random weights."""
    models = {name: _ours(f"faster_rcnn_{name}", setting.device) for name in ("r50", "se_r50")}
    own = _detectron2s_own(models["r50"], setting.device)
    image = {"image": torch.randint(0, 256, (3, HEIGHT, WIDTH)).float(), "height": HEIGHT, "width": WIDTH}

    def call(model: nn.Module, dtype: torch.dtype) -> Callable[[], None]:
        @torch.inference_mode()
        def run():
            with autocast(setting.device, dtype):
                return model([image])[0]["instances"]

        return run

    calls = {name: call(detector_for_inference(model, setting.dtype), setting.dtype) for name, model in models.items()}
    calls["detectron2"] = call(own, torch.float32)
    times = take_turns(calls, setting.rounds, setting.device)
    return {
        "theirs": f"Detectron2 {version('pb1-detectron2')}",
        "seconds": medians(times),
        "times_as_fast": ratio(times, "detectron2", "r50"),
        "se_times_as_fast": ratio(times, "detectron2", "se_r50"),
        "se_over_plain": ratio(times, "se_r50", "r50"),
        "objects": {name: len(run()) for name, run in calls.items()},
    }


def roi_align(setting: Setting) -> dict:
    """ROIAlign of 1,000 boxes of 8 to 120 pixels on one map of 256 channels, a quarter of 480 by 640, to 7 by 7,
    against torchvision's in fp32."""
    x = torch.randn(1, 256, HEIGHT // 4, WIDTH // 4, device=setting.device).to(memory_format=torch.channels_last)
    corner = torch.rand(1000, 2) * torch.tensor([WIDTH, HEIGHT]) - 20
    side = torch.rand(1000, 2) * 112 + 8
    boxes = torch.cat((torch.zeros(1000, 1), corner, corner + side), 1).to(setting.device)
    own = ROIAlign((7, 7), 0.25, 0, True)
    mine, ours = FastROIAlign(own), x.to(setting.dtype)

    @torch.inference_mode()
    def call(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return module(x, boxes)

    difference = (call(mine, ours).float() - call(own, x)).abs().max()
    return {
        "theirs": f"torchvision {version('torchvision')}",
        **faster(lambda: call(mine, ours), lambda: call(own, x), setting),
        "largest_difference": float(f"{difference:.2g}"),
    }


def _ours(name: str, device: torch.device) -> nn.Module:
    words = ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "80"]
    model = build_detector(load_config(CONFIGS / f"{name}.yaml", words)).eval()
    return model.to(memory_format=torch.channels_last)


def _detectron2s_own(ours: nn.Module, device: torch.device) -> nn.Module:
    """Faster R-CNN R50-FPN as Detectron2's Base-RCNN-FPN.yaml describes it, with our weights, and the stride in the 3×3
    of a unit as in ours."""
    stages = list(ours.backbone.bottom_up.output_shape())  # they have the same names there
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "MODEL.DEVICE", str(device), "MODEL.META_ARCHITECTURE", "GeneralizedRCNN",
            "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 50,
            "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.OUT_FEATURES", stages, "MODEL.FPN.IN_FEATURES", stages,
            "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]],
            "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.RPN.PRE_NMS_TOPK_TEST", 1000,
            "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
            "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 2,
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7,
            "MODEL.PIXEL_MEAN", ours.pixel_mean.flatten().tolist(),
            "MODEL.PIXEL_STD", ours.pixel_std.flatten().tolist(),
        ]
    )  # fmt: skip
    model = build_model(cfg).eval()
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "ours.pth", Path(folder) / "theirs.safetensors"
        torch.save({"model": ours.state_dict()}, source)
        convert_file(source, out, "detectron2", architecture="resnet50")
        model.load_state_dict(load_file(out))
    return model
