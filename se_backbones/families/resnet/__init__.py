"""ResNet, ResNeXt and SENet-154."""

from se_backbones.families.resnet import family  # noqa: F401
