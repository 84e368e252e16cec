"""ResNets for CIFAR: post-activation, pre-activation, and wide.

A 3×3 convolution and three stages of 16, 32 and 64 channels (times a width; times four outside of bottlenecks), with a
1×1 projection where a unit changes shape. SE-ResNet-110, SE-ResNet-164 and SE-WRN-16-8 of the SE paper's tables 4 and 5
are pre-activation networks: ``se_preresnet110_cifar``, ``se_preresnet164_cifar``, ``se_wrn16_8_cifar``.

Around the units there are three forms of a pre-activation network, which differ by normalisations, and so by tensors:

    preresnet110_cifar               normalised behind the first convolution and before the pooling
    preresnet110_cifar_bare_stem     before the pooling alone: resnet-1k-layers, the pre-activation paper's own code;
                                     pytorchcv's PreResNets; Wide ResNets
    se_preresnet110_cifar_pytorchcv  behind the first convolution alone, and the pooling takes the bare sum: pytorchcv's
                                     SE-PreResNets (``sepreresnet110_cifar10``, 1,744,664 parameters)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from se_backbones.backbone import Backbone
from se_backbones.families.cifar.layouts import RESNET_LAYOUTS
from se_backbones.families.cifar.units import PreActivationBottleneck, PreActivationUnit
from se_backbones.families.resnet.table import ResNetHyper
from se_backbones.families.resnet.units import BasicUnit
from se_backbones.layers.norm import make_norm
from se_backbones.registry import Family, Spec, register
from se_backbones.se import SEConfig

FAMILY_NAME = "cifar_resnet"


@dataclass(frozen=True)
class CifarResNetHyper:
    """What a ResNet for CIFAR is, but for its SE.

    Attributes:
        depths: residual units in stage1, stage2, stage3.
        width: the factor of a Wide ResNet (Zagoruyko and Komodakis, arXiv 1605.07146); the stem keeps 16 channels.
        preactivation: normalisation and ReLU stand before each convolution, and not behind it.
        bottleneck: three convolutions a unit (1×1, 3×3, 1×1), and not two 3×3; with ``preactivation`` alone.
        stem_norm: normalisation and ReLU behind the first convolution.
        end_norm: normalisation and ReLU behind the last unit, which a post-activation network has no need of.
        dropout: probability before the classifier.
    """

    depths: tuple[int, int, int]
    width: int = 1
    preactivation: bool = False
    bottleneck: bool = False
    stem_norm: bool = True
    end_norm: bool = False
    dropout: float = 0.0


class CifarResNet(Backbone):
    """A residual network with the maps ``stem, stage1, stage2, stage3``, of strides 1, 1, 2, 4. What ``end_norm`` says
    is part of stage3, so that its map is what the mean is taken of."""

    stages = ("stem", "stage1", "stage2", "stage3")

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        hyper = spec.hyper
        channels, stride = 16, 1
        self.conv1 = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        self.bn1 = make_norm(norm, channels) if hyper.stem_norm else nn.Identity()
        self.add_stage("stem", ("conv1", "bn1"), channels, stride)
        for index, name in enumerate(self.stages[1:]):
            planes = 16 * hyper.width * 2**index
            units = OrderedDict()
            for number in range(1, hyper.depths[index] + 1):
                step = 2 if index > 0 and number == 1 else 1
                units[f"unit{number}"] = unit = _make_unit(hyper, channels, planes, step, norm)
                channels = planes * unit.expansion
                stride *= step
            self.add_module(name, nn.Sequential(units))
            paths = (name,)
            if hyper.preactivation and index == 2:
                self.bn_last = make_norm(norm, channels) if hyper.end_norm else nn.Identity()
                paths = (name, "bn_last")
            self.add_stage(name, paths, channels, stride)
        self.add_head(channels)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        hyper = self.spec.hyper
        if name == "stem":
            x = self.conv1(x)
            return self.bn1(x).relu_() if hyper.stem_norm else x
        for unit in getattr(self, name):
            x = self.run_block(unit, x)
        return self.bn_last(x).relu_() if name == "stage3" and hyper.end_norm else x


def _make_unit(hyper: CifarResNetHyper, in_channels: int, planes: int, stride: int, norm: str) -> nn.Module:
    if hyper.preactivation:
        unit = PreActivationBottleneck if hyper.bottleneck else PreActivationUnit
        return unit(in_channels, planes, stride, norm)
    # The units are those of the ImageNet ResNets, in their usual form.
    return BasicUnit(ResNetHyper(hyper.depths, bottleneck=False), in_channels, planes, stride, 1, norm)


def rows() -> Iterator[Spec]:
    """All of them; a plain network stands before its twin. Tables 4 and 5 of the paper give errors alone."""
    for depth in (20, 32, 56, 110):
        yield from _twins(f"resnet{depth}_cifar", CifarResNetHyper(((depth - 2) // 6,) * 3))
    for depth in (20, 56, 110, 164):
        bottleneck = depth == 164
        units = (depth - 2) // (9 if bottleneck else 6)
        name = f"preresnet{depth}_cifar"
        hyper = CifarResNetHyper((units,) * 3, preactivation=True, bottleneck=bottleneck, end_norm=True)
        yield from _twins(name, hyper)
        yield from _twins(f"{name}_bare_stem", replace(hyper, stem_norm=False))
        yield _row(f"se_{name}_pytorchcv", replace(hyper, end_norm=False), SEConfig())
    # pytorchcv publishes weights of the plain WRN-16-10 and WRN-28-10.
    for depth, width in ((16, 8), (16, 10), (28, 10)):
        hyper = CifarResNetHyper(((depth - 4) // 6,) * 3, width, preactivation=True, stem_norm=False, end_norm=True)
        yield from _twins(f"wrn{depth}_{width}_cifar", hyper)


def _twins(name: str, hyper: CifarResNetHyper) -> Iterator[Spec]:
    yield _row(name, hyper)
    yield _row(f"se_{name}", hyper, SEConfig())


def _row(name: str, hyper: CifarResNetHyper, se: SEConfig | None = None) -> Spec:
    return Spec(name, FAMILY_NAME, hyper, se, num_classes=10, image_size=32)


register(Family(FAMILY_NAME, tuple(rows()), CifarResNet, RESNET_LAYOUTS))
