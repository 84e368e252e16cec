"""Squeeze-and-Excitation backbones. Needs torch alone."""

from .architectures import ARCHITECTURES, Architecture, find_architecture
from .norm import FrozenBatchNorm2d
from .resnet import FEATURES, FeatureInfo, ResNet, create_backbone, list_backbones
from .se import SEConfig, SEGate

__all__ = [
    "ARCHITECTURES",
    "FEATURES",
    "Architecture",
    "FeatureInfo",
    "FrozenBatchNorm2d",
    "ResNet",
    "SEConfig",
    "SEGate",
    "create_backbone",
    "find_architecture",
    "list_backbones",
]
