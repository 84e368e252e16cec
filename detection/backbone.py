"""SE backbones of every family in Detectron2's registry.

================================== =====================================================================
MODEL.BACKBONE.NAME                what it is
================================== =====================================================================
build_se_backbone                  the stages named in MODEL.RESNETS.OUT_FEATURES: for C4 (the last but one,
                                   with MODEL.ROI_HEADS.NAME SERes5ROIHeads) and DC5 (the last, with
                                   MODEL.RESNETS.RES5_DILATION 2)
build_se_fpn_backbone              with a feature pyramid, p2 to p6 (Faster and Mask R-CNN)
build_retinanet_se_fpn_backbone    with a feature pyramid, p3 to p7 (RetinaNet)
================================== =====================================================================

Every one builds MODEL.BACKBONE.ARCHITECTURE, plain or SE, with MODEL.SE, MODEL.RESNETS.NORM and
MODEL.BACKBONE.FREEZE_AT (Detectron2's keys keep their names whatever the family). MODEL.FPN.IN_FEATURES names stages;
left empty, they are the last stage of each stride, 4 to 32, or from 8 on for RetinaNet. The names with ``se_resnet`` in
place of ``se`` that earlier configs have mean the same.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.se import se_config
from engine.errors import UserError
from se_backbones import Backbone as Network
from se_backbones import create_backbone, find_spec
from se_backbones.registry import skeleton

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.roi_heads import Res5ROIHeads


class SEBackbone(Backbone):
    """One of our networks as Detectron2 wants a backbone: a dict of maps, and their shapes.

    Attributes:
        net: the network; its weights lie at ``backbone.net`` or ``backbone.bottom_up.net`` of a detector.
    """

    def __init__(self, net: Network):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised → the maps of ``MODEL.RESNETS.OUT_FEATURES``, each (N, C, H/s, W/s)."""
        return self.net.forward_features(image)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=info.channels, stride=info.stride) for name, info in self.net.feature_info.items()
        }


def _create(cfg: CfgNode, out_features: list[str]) -> Network:
    try:
        return create_backbone(
            cfg.MODEL.BACKBONE.ARCHITECTURE,
            num_classes=0,
            se=se_config(cfg),
            norm=cfg.MODEL.RESNETS.NORM,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            out_features=out_features,
            last_dilation=cfg.MODEL.RESNETS.RES5_DILATION,
            recompute=cfg.MODEL.BACKBONE.RECOMPUTE,
            widths=cfg.MODEL.BACKBONE.WIDTHS,
        )
    except ValueError as error:
        raise UserError(f"MODEL.BACKBONE, MODEL.RESNETS: {error}") from error


def pyramid_stages(architecture: str, first_stride: int = 4) -> list[str]:
    """The last stage of each stride from ``first_stride`` on: what a feature pyramid stands on.

    Raises:
        UserError: an unknown architecture, or one without maps of all strides up to 32.
    """
    try:
        infos = skeleton(find_spec(architecture)).feature_info
    except ValueError as error:
        raise UserError(f"MODEL.BACKBONE.ARCHITECTURE: {error}") from error
    by_stride = {info.stride: name for name, info in infos.items()}
    wanted = [stride for stride in (4, 8, 16, 32) if stride >= first_stride]
    if not by_stride.keys() >= set(wanted):
        raise UserError(
            f"MODEL.BACKBONE.ARCHITECTURE: a feature pyramid needs maps of strides {', '.join(map(str, wanted))}, and "
            f"{architecture} has {', '.join(map(str, by_stride))}; take a network for ImageNet"
        )
    return [name for stride, name in by_stride.items() if stride >= first_stride]


def build_se_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SEBackbone:
    """The plain stage outputs."""
    return SEBackbone(_create(cfg, cfg.MODEL.RESNETS.OUT_FEATURES))


def build_se_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """With a feature pyramid, p2 to p6 (Lin et al., arXiv 1612.03144)."""
    return _with_fpn(cfg, 4, lambda bottom_up, stages: LastLevelMaxPool())


def build_retinanet_se_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """With a feature pyramid, p3 to p7 (Lin et al., arXiv 1708.02002): p6 and p7 are computed from the last stage."""

    def top_block(bottom_up: SEBackbone, stages: list[str]) -> nn.Module:
        channels = bottom_up.output_shape()[stages[-1]].channels
        return LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature=stages[-1])

    return _with_fpn(cfg, 8, top_block)


def _with_fpn(cfg: CfgNode, first_stride: int, top_block) -> FPN:
    stages = list(cfg.MODEL.FPN.IN_FEATURES) or pyramid_stages(cfg.MODEL.BACKBONE.ARCHITECTURE, first_stride)
    bottom_up = SEBackbone(_create(cfg, stages))
    shapes = bottom_up.output_shape()
    strides = [shapes[name].stride for name in stages]
    if any(second != 2 * first for first, second in pairwise(strides)):
        raise UserError(
            f"a feature pyramid wants maps of twice the stride of the one before, and {', '.join(stages)} have "
            f"{', '.join(map(str, strides))}: see MODEL.FPN.IN_FEATURES and MODEL.RESNETS.RES5_DILATION"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=stages,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block(bottom_up, stages),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


for _build in (build_se_backbone, build_se_fpn_backbone, build_retinanet_se_fpn_backbone):
    BACKBONE_REGISTRY.register(_build)
    # What earlier configs call it.
    BACKBONE_REGISTRY._do_register(_build.__name__.replace("_se_", "_se_resnet_"), _build)


@ROI_HEADS_REGISTRY.register()
class SERes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 head with the last stage of the configured architecture as the head's own."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode):
        last = skeleton(find_spec(cfg.MODEL.BACKBONE.ARCHITECTURE)).stages[-1]
        net = _create(cfg, [last])
        return net.take_stage(last), net.feature_info[last].channels
