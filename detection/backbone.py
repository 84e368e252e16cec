"""SE backbones in Detectron2's registry.

======================================= ==================================================================
MODEL.BACKBONE.NAME                     what it is
======================================= ==================================================================
build_se_resnet_backbone                the stages named in MODEL.RESNETS.OUT_FEATURES: for C4 (``res4``, with
                                        MODEL.ROI_HEADS.NAME SERes5ROIHeads) and DC5 (``res5``, with
                                        MODEL.RESNETS.RES5_DILATION 2)
build_se_resnet_fpn_backbone            with a feature pyramid, p2 to p6 (Faster and Mask R-CNN)
build_retinanet_se_resnet_fpn_backbone  with a feature pyramid, p3 to p7 (RetinaNet)
======================================= ==================================================================

Every one builds MODEL.BACKBONE.ARCHITECTURE, plain or SE, with MODEL.SE, MODEL.RESNETS.NORM and
MODEL.BACKBONE.FREEZE_AT.
"""

from __future__ import annotations

from torch import Tensor, nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.se import se_config
from engine.errors import UserError
from se_backbones import ResNet, create_backbone

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

    def __init__(self, net: ResNet):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised → the maps of ``MODEL.RESNETS.OUT_FEATURES``, each (N, C, H/s, W/s)."""
        return self.net.forward_features(image)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=info.channels, stride=info.stride) for name, info in self.net.feature_info.items()
        }


def _create(cfg: CfgNode, out_features: list[str]) -> ResNet:
    try:
        return create_backbone(
            cfg.MODEL.BACKBONE.ARCHITECTURE,
            num_classes=0,
            se=se_config(cfg),
            norm=cfg.MODEL.RESNETS.NORM,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            out_features=out_features,
            res5_dilation=cfg.MODEL.RESNETS.RES5_DILATION,
            recompute_stages=cfg.MODEL.BACKBONE.RECOMPUTE,
        )
    except ValueError as error:
        raise UserError(f"MODEL.BACKBONE, MODEL.RESNETS: {error}") from error


@BACKBONE_REGISTRY.register()
def build_se_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SEBackbone:
    """The plain stage outputs."""
    return SEBackbone(_create(cfg, cfg.MODEL.RESNETS.OUT_FEATURES))


@BACKBONE_REGISTRY.register()
def build_se_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """With a feature pyramid, p2 to p6 (Lin et al., arXiv 1612.03144)."""
    return _with_fpn(cfg, SEBackbone(_create(cfg, cfg.MODEL.FPN.IN_FEATURES)), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_se_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """With a feature pyramid, p3 to p7 (Lin et al., arXiv 1708.02002): p6 and p7 are computed from res5."""
    bottom_up = SEBackbone(_create(cfg, cfg.MODEL.FPN.IN_FEATURES))
    p6p7 = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _with_fpn(cfg, bottom_up, p6p7)


def _with_fpn(cfg: CfgNode, bottom_up: SEBackbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@ROI_HEADS_REGISTRY.register()
class SERes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 head with res5 of the configured architecture as the head's own stage."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode):
        net = _create(cfg, ["res5"])
        return net.stage("res5"), net.feature_info["res5"].channels
