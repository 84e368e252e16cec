"""ResNet, ResNeXt and SENet-154."""
