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

Detectron2's own loop and predictor take them too: ``add_se_config`` adds what they read to anybody's config, and a
LazyConfig names ``SEBackbone`` (``docs/in_your_detectron2_project.md``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import pairwise

from torch import Tensor, nn

from detection.initial_weights import load_weights
from engine import compat  # noqa: F401  (before detectron2)
from engine.config.se import add_se_defaults, se_config
from engine.errors import UserError
from se_backbones import Backbone as Network
from se_backbones import create_backbone, find_spec, list_backbones
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import skeleton
from se_backbones.weights import LoadReport, WeightsError

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.roi_heads import Res5ROIHeads

logger = logging.getLogger(__name__)


def add_se_config(cfg: CfgNode) -> None:
    """Adds the keys that the builders here read to Detectron2's config: MODEL.BACKBONE.ARCHITECTURE, RECOMPUTE and
    WIDTHS, and MODEL.SE, the fields of ``SEConfig`` in capitals and INSERT. Keys that Detectron2 has keep their values.

    To be called before a file is merged that has these keys. The numbers of MODEL.SE are lists: ``REDUCTION: [8]``.

    Args:
        cfg: what ``detectron2.config.get_cfg()`` gives, or one with more keys; it is changed.
    """
    cfg.MODEL.BACKBONE.ARCHITECTURE = "se_resnet50"  # any of se_backbones.list_backbones()
    cfg.MODEL.BACKBONE.RECOMPUTE = False  # gradient checkpointing: less memory, more time
    add_se_defaults(cfg)


def _check_keys(cfg: CfgNode) -> None:
    """Refuses a config that ``add_se_config`` has not seen."""
    ours = CfgNode({"MODEL": {"BACKBONE": {}}})
    add_se_config(ours)
    if missing := list(_missing(ours, cfg)):
        raise UserError(
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} reads keys that this config has not: {', '.join(missing)}. "
            "Add them, before a file is merged: from detection import add_se_config; add_se_config(cfg)"
        )


def _missing(wanted: CfgNode, found: CfgNode, prefix: str = "") -> Iterator[str]:
    """The keys that ``found`` lacks; of a whole block that it lacks, the block."""
    for key, value in wanted.items():
        if key not in found:
            yield f"{prefix}{key}"
        elif isinstance(value, CfgNode):
            yield from _missing(value, found[key], f"{prefix}{key}.")


class SEBackbone(Backbone):
    """One of our networks as Detectron2 wants a backbone: a dict of maps, and their shapes.

    Args:
        net: the network.
        weights: what it starts from, as ``detection.load_weights`` takes it: ``pretrained``, a file, a detector's too,
            or a named source. Empty: as it is, with the weights that ``create_backbone(pretrained=…)`` gave it, if
            any. For LazyConfigs, whose ``train.init_checkpoint`` knows none of them.
        insert_se: what it starts from are a plain network's weights, into which SE is put (MODEL.SE.INSERT).
        preprocessing: what it is fed, to be compared with what its weights want, whichever way they came:
            ``channel_order, scale, mean, std``.

    Attributes:
        net: the network; its weights lie at ``backbone.net`` or ``backbone.bottom_up.net`` of a detector.
        insert_se: as above, for ``load_weights``.

    Raises:
        WeightsError: as ``load_weights``; or the network has weights, and ``weights`` are to take their place.
    """

    def __init__(self, net: Network, weights: str = "", insert_se: bool = False, preprocessing: Mapping | None = None):
        super().__init__()
        self.net = net
        self.insert_se = insert_se
        report = net.weights_report
        if weights and report is not None:
            raise WeightsError(
                f"weights {weights!r}: the network was created with weights already ({report.source}); give either "
                "SEBackbone's weights or create_backbone's pretrained"
            )
        if weights:
            load_weights(self, weights, preprocessing=preprocessing)
        elif report is not None and preprocessing is not None:
            _check_input(report, Preprocessing.of(preprocessing))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised → the maps of ``MODEL.RESNETS.OUT_FEATURES``, each (N, C, H/s, W/s)."""
        return self.net.forward_features(image)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=info.channels, stride=info.stride) for name, info in self.net.feature_info.items()
        }


def _check_input(report: LoadReport, given: Preprocessing) -> None:
    """As ``load_weights`` compares."""
    if report.preprocessing is None or (wanted := Preprocessing.of(report.preprocessing)).same_as(given):
        return
    text = (
        f"{report.source}: the weights want images as {wanted} ({report.preprocessing_basis}), and they come as {given}"
    )
    if report.preprocessing_basis != "usual":
        raise WeightsError(text)
    logger.warning("%s", text)


def _create(cfg: CfgNode, out_features: list[str]) -> Network:
    _check_keys(cfg)
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
    return SEBackbone(_create(cfg, cfg.MODEL.RESNETS.OUT_FEATURES), insert_se=cfg.MODEL.SE.INSERT)


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
    _check_keys(cfg)
    architecture = cfg.MODEL.BACKBONE.ARCHITECTURE
    stages = list(cfg.MODEL.FPN.IN_FEATURES) or pyramid_stages(architecture, first_stride)
    if architecture in list_backbones() and (absent := set(stages) - set(skeleton(find_spec(architecture)).stages)):
        fitting = ", ".join(pyramid_stages(architecture, first_stride))
        raise UserError(
            f"MODEL.FPN.IN_FEATURES: {architecture} has no {', '.join(sorted(absent))}. Left empty ([]) it stands for "
            f"{fitting}"
        )
    bottom_up = SEBackbone(_create(cfg, stages), insert_se=cfg.MODEL.SE.INSERT)
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
        _check_keys(cfg)
        last = skeleton(find_spec(cfg.MODEL.BACKBONE.ARCHITECTURE)).stages[-1]
        net = _create(cfg, [last])
        return net.take_stage(last), net.feature_info[last].channels
