"""The bases that several studies share."""

from studies.lab.study import Base

# In place of the paper's ImageNet, on CPUs: SE-ResNet-20 on CIFAR-10. Three seeds of the reference row are the
# yardstick for rows that have one.
CIFAR10 = Base("classification", "configs/studies_cifar10.yaml", yardstick=3)
# SE-ResNet-50 on 20 classes at 64 pixels.
TINY_IMAGENET = Base("classification", "configs/studies_tinyimagenet20.yaml")

IMAGENET = Base("classification", "configs/imagenet/se_resnet50.yaml")
ABLATION = {"cpu": CIFAR10, "paper": Base("classification", "configs/ablations/se_resnet50.yaml")}
