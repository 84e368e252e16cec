"""Detectors from configs and from checkpoints."""

from __future__ import annotations

import difflib
import types

import torch
from torch import nn

from detection.backbone import SEBackbone
from engine import compat  # noqa: F401  (before detectron2)
from engine.config.rules import check_rules, every, one_of
from engine.device import choose_device
from engine.errors import UserError

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers


def build_detector(cfg: CfgNode) -> nn.Module:
    """The detector a config describes, with random weights, on ``cfg.MODEL.DEVICE``.

    It is Detectron2's own ``build_model``, so that any of its meta-architectures can be named.

    Raises:
        UserError: an unknown backbone, a number of classes that is not set, maps that the backbone has not, or
            settings from which Detectron2 can build nothing.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONE_REGISTRY:
        known = [key for key, _ in BACKBONE_REGISTRY]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
        raise UserError(f"MODEL.BACKBONE.NAME {name!r} is not registered; the nearest names are {', '.join(near)}")
    ours = BACKBONE_REGISTRY.get(name).__module__ == SEBackbone.__module__
    if "fpn" in name and not ours and not cfg.MODEL.FPN.IN_FEATURES:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES is empty, which the SE backbones fill in by themselves and {name} does not: name "
            "the stages that its pyramid stands on"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = str(choose_device(cfg.MODEL.DEVICE))
    try:
        _check_maps(cfg)
        torch.manual_seed(cfg.SEED)  # the same config and seed give the same first weights
        model = build_model(cfg)
    except (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(
            f"Detectron2 cannot build the {cfg.MODEL.META_ARCHITECTURE} that the keys MODEL.… describe "
            f"({type(error).__name__}: {error}); compare them with those of a config in configs/"
        ) from error
    for module in model.modules():
        if isinstance(module, ROIPooler | FastRCNNOutputLayers):
            module.forward = types.MethodType(forward_in_float32, module)
        elif isinstance(module, SEBackbone) and cfg.COMPILE:
            module.compile(dynamic=True)  # in place; a copy of it, for averaged weights, computes eagerly
    if cfg.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    return model


def _check_maps(cfg: CfgNode) -> None:
    """Refuses heads on maps that the backbone does not have."""
    with torch.device("meta"):  # for the names alone
        maps = build_backbone(cfg).output_shape()
    keys = ["RETINANET"] if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else ["RPN", "ROI_HEADS"]
    rule = every(one_of(maps), least=1, what=f"maps of MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}")
    check_rules(cfg, {f"MODEL.{key}.IN_FEATURES": rule for key in keys})


def forward_in_float32(module: nn.Module, *args):
    """A module's forward outside autocast. Box coordinates in half precision are off by whole pixels in a large
    image (bf16 has 8 bits of mantissa), and class scores tie."""
    with torch.autocast(next(iter(_tensors(args))).device.type, enabled=False):
        return type(module).forward(module, *_to_float32(args))


def _to_float32(value):
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    return type(value)(_to_float32(v) for v in value) if isinstance(value, list | tuple) else value


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def with_classes(cfg: CfgNode, num_classes: int, source: str) -> CfgNode:
    """The config with its number of classes filled in from the data.

    Raises:
        UserError: the config names another number, where its META_ARCHITECTURE reads one.
    """
    cfg = cfg.clone()
    cfg.defrost()
    not_read = {"GeneralizedRCNN": "RETINANET", "RetinaNet": "ROI_HEADS"}.get(cfg.MODEL.META_ARCHITECTURE)
    for key in ("ROI_HEADS", "RETINANET"):
        stated = cfg.MODEL[key].NUM_CLASSES
        if key != not_read and stated not in (0, num_classes):
            raise UserError(
                f"MODEL.{key}.NUM_CLASSES is {stated}, but {source} has {num_classes} categories: "
                f"remove the key (the number comes from the data) or give the right file"
            )
        cfg.MODEL[key].NUM_CLASSES = num_classes
    cfg.freeze()
    return cfg
