"""Squeeze-and-Excitation backbones. Needs torch alone."""

from se_backbones.families.resnet.network import FEATURES, FeatureInfo, ResNet, create_backbone, list_backbones
from se_backbones.families.resnet.table import ARCHITECTURES, Architecture, find_architecture
from se_backbones.layers.norm import FrozenBatchNorm2d
from se_backbones.se import SEConfig, SEGate
from se_backbones.surgery.fold import FoldReport, fold_constant_gates
from se_backbones.surgery.insert import insert_se

__all__ = [
    "ARCHITECTURES",
    "FEATURES",
    "Architecture",
    "FeatureInfo",
    "FoldReport",
    "FrozenBatchNorm2d",
    "ResNet",
    "SEConfig",
    "SEGate",
    "create_backbone",
    "find_architecture",
    "fold_constant_gates",
    "insert_se",
    "list_backbones",
]
