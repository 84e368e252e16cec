"""Squeeze-and-Excitation backbones. Needs torch alone."""

from .architectures import ARCHITECTURES, Architecture, find_architecture
from .fold import FoldReport, fold_constant_gates
from .insert import insert_se
from .norm import FrozenBatchNorm2d
from .resnet import FEATURES, FeatureInfo, ResNet, create_backbone, list_backbones
from .se import SEConfig, SEGate

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
