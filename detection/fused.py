"""Detectors made ready for inference: what stands around the network, too."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from detection.model import forward_in_float32
from detection.roi_align import FastROIAlign, can_be_fast
from engine import compat  # noqa: F401  (before detectron2)
from engine.inference import for_inference
from se_backbones.layers.norm import BATCH_NORMS
from se_backbones.layers.precision import without_autocast
from se_backbones.surgery.fuse import fused_convolution

from detectron2.layers import Conv2d, FrozenBatchNorm2d, ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, StandardROIHeads


def detector_for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a detector that finds what it finds, up to rounding, in less time.

    Its network is fused (``engine.inference.for_inference``), and so are the convolutions of its pyramid and heads,
    with their normalisation and ReLU; on CPUs it has a faster ROIAlign.

    Args:
        dtype: in which it computes, under autocast where it is another than float32.
    """
    fused = for_inference(model, dtype)
    changed = {}
    for parent, child in list(_around_the_network(fused)):
        if isinstance(child, ROIAlign):
            changed[child] = FastROIAlign(child)
        elif isinstance(child, ROIPooler):
            child.forward = types.MethodType(_pool, child)
        elif isinstance(child, StandardROIHeads) and isinstance(child.box_head, FastRCNNConvFCHead):
            _flatten_as_in_memory(child.box_head, math.prod(child.box_pooler.output_size))
        elif type(child) is nn.Linear and not isinstance(parent, FastRCNNOutputLayers):  # that one stays in float32
            child.to(dtype)  # else autocast would convert its weights for every image
        elif _fusible(child):
            changed[child] = _Convolution(child, dtype)
    for module in list(fused.modules()):
        for name, child in module._modules.items():
            module._modules[name] = changed.get(child, child)
        for held in vars(module).values():
            if isinstance(held, list):  # Detectron2's pyramid finds its convolutions in lists
                held[:] = [changed.get(one, one) if isinstance(one, nn.Module) else one for one in held]
    return fused


def _pool(pooler: ROIPooler, maps: list[Tensor], boxes: list) -> Tensor:
    """As Detectron2's, channels_last, in the maps' own type where ``roi_align`` takes them, which leaves the boxes'
    corners in float32."""
    levels = pooler.level_poolers
    if not (can_be_fast(maps[0]) and all(isinstance(level, FastROIAlign) for level in levels)):
        return forward_in_float32(pooler, maps, boxes)
    if len(levels) == 1:
        return ROIPooler.forward(pooler, maps, boxes)
    corners = convert_boxes_to_pooler_format(boxes)
    which = (pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level)
    of_box = assign_boxes_to_levels(boxes, *which)
    found = maps[0].new_empty(len(corners), *pooler.output_size, maps[0].shape[1])
    for number, (level, x) in enumerate(zip(levels, maps, strict=True)):
        rows = (of_box == number).nonzero()[:, 0]
        found.index_copy_(0, rows, level(x, corners[rows]).permute(0, 2, 3, 1))
    return found.permute(0, 3, 1, 2)


def _flatten_as_in_memory(head: FastRCNNConvFCHead, places: int) -> None:
    """Has the first linear layer of a box head, where it has one, take maps as they lie in memory, place by place."""
    if isinstance(getattr(head, "flatten", None), nn.Flatten):
        weight = head.fc1.weight
        head.fc1.weight = nn.Parameter(weight.unflatten(1, (-1, places)).transpose(1, 2).flatten(1), False)
        head.flatten = _Flatten()


class _Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H · W · C)."""
        return x.permute(0, 2, 3, 1).flatten(1)


class _Convolution(nn.Module):
    """A convolution with what comes behind it, in a type of its own, whatever autocast is on outside."""

    def __init__(self, own: nn.Conv2d, dtype: torch.dtype):
        super().__init__()
        self.fused = fused_convolution(own, getattr(own, "norm", None)).to(dtype)
        self.fused.activation = "relu" if _activation(own) else ""
        self.fused.tiled = (torch.float32, torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H', W')."""
        x = x.to(self.fused.weight.dtype).contiguous(memory_format=torch.channels_last)
        with without_autocast(x):
            return self.fused(x)


def _around_the_network(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Parents and children of all that is not fused already."""
    for child in module.children():
        if not isinstance(child, fx.GraphModule | FastROIAlign):
            yield module, child
            yield from _around_the_network(child)


def _fusible(module: nn.Module) -> bool:
    """Whether a module is a convolution, with BatchNorm or nothing and ReLU or nothing behind it."""
    if type(module) not in (nn.Conv2d, Conv2d) or module.padding_mode != "zeros":
        return False
    norm, activation = getattr(module, "norm", None), _activation(module)
    known = norm is None or (isinstance(norm, (*BATCH_NORMS, FrozenBatchNorm2d)) and norm.running_mean is not None)
    return known and (activation is None or activation in (F.relu, torch.relu) or isinstance(activation, nn.ReLU))


def _activation(conv: nn.Conv2d):
    return getattr(conv, "activation", None)
