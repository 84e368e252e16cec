"""Residual networks for the 32×32 images of CIFAR: ResNet, pre-activation ResNet, Wide ResNet, Shake-Shake."""

from se_backbones.families.cifar import resnet, shake  # noqa: F401
