"""Squeeze-and-Excitation backbones. Needs torch alone."""

from se_backbones import families  # noqa: F401  (registers them)
from se_backbones.backbone import Absorber, Backbone, FeatureInfo, SEOwner, SESite, find_network, sites_of
from se_backbones.layers.norm import FrozenBatchNorm2d
from se_backbones.registry import Family, Spec, create_backbone, find_spec, list_backbones, register, twin_name
from se_backbones.se import SEConfig, SEGate
from se_backbones.surgery.fold import FoldReport, fold_constant_gates
from se_backbones.surgery.insert import insert_se

__all__ = [
    "Absorber",
    "Backbone",
    "Family",
    "FeatureInfo",
    "FoldReport",
    "FrozenBatchNorm2d",
    "SEConfig",
    "SEGate",
    "SEOwner",
    "SESite",
    "Spec",
    "create_backbone",
    "find_network",
    "find_spec",
    "fold_constant_gates",
    "insert_se",
    "list_backbones",
    "register",
    "sites_of",
    "twin_name",
]
