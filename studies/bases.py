"""The bases that several studies share."""

from studies.lab.study import Base

# In place of the paper's ImageNet, on CPUs: SE-ResNet-20 on CIFAR-10. Three seeds of the reference row are the
# yardstick for rows that have one.
CIFAR10 = Base("classification", "configs/studies_cifar10.yaml", yardstick=3)
# SE-ResNet-50 on 20 classes at 64 pixels.
TINY_IMAGENET = Base("classification", "configs/studies_tinyimagenet20.yaml")

IMAGENET = Base("classification", "configs/imagenet/se_resnet50.yaml")
ABLATION = {"cpu": CIFAR10, "paper": Base("classification", "configs/ablations/se_resnet50.yaml")}

# A recipe that goes on with trained weights: the learning rate falls from its first value to 0, the classifier stays.
GOING_ON = (
    "MODEL.HEAD", "keep", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.STEP_EPOCHS", "[]",
    "SOLVER.WARMUP_EPOCHS", "0",
)  # fmt: skip


def trained_with(*words: str) -> dict[str, Base]:
    """CIFAR-10 and ImageNet as bases of which some settings are others."""
    bases = {"cpu": CIFAR10, "paper": IMAGENET}
    return {scale: Base(base.task, base.config, words=words) for scale, base in bases.items()}
