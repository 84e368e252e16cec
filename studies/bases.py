"""The bases that several studies share."""

from studies.lab.study import Base

# SE-ResNet-20 on CIFAR-10, in place of the paper's SE-ResNet-50 on ImageNet. Three seeds of the reference row are the
# yardstick for rows that have one.
CIFAR10 = Base("classification", "configs/studies_cifar10.yaml", yardstick=3)
TINY_IMAGENET = Base("classification", "configs/studies_tinyimagenet20.yaml")
IMAGENET_ABLATION = Base("classification", "configs/class_folders_se_resnet50.yaml")
ABLATION = {"cpu": CIFAR10, "paper": IMAGENET_ABLATION}
