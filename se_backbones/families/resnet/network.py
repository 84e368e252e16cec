"""The residual network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from se_backbones.backbone import Backbone
from se_backbones.families.resnet.units import BasicUnit, Bottleneck
from se_backbones.layers.norm import make_norm
from se_backbones.registry import Spec


class ResNet(Backbone):
    """A residual network with the five maps that detectors use: ``stem, res2, res3, res4, res5``."""

    stages = ("stem", "res2", "res3", "res4", "res5")
    can_dilate = True

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        hyper = spec.hyper
        unit = Bottleneck if hyper.bottleneck else BasicUnit
        channels, stride = 128 if hyper.deep_stem else 64, 4
        self.conv1, self.bn1 = _make_stem(hyper.deep_stem, norm)
        self.maxpool = nn.MaxPool2d(3, 2, padding=0 if hyper.ceil_pool else 1, ceil_mode=hyper.ceil_pool)
        self.add_stage("stem", ("conv1", "bn1"), channels, stride)
        for index, name in enumerate(self.stages[1:]):
            planes = 64 * 2**index
            dilation = last_dilation if index == 3 else 1
            first_stride = 1 if index == 0 or dilation > 1 else 2
            units = []
            for number in range(hyper.depths[index]):
                units.append(unit(hyper, channels, planes, 1 if number else first_stride, dilation, norm))
                channels = planes * unit.expansion
            stride *= first_stride
            setattr(self, f"layer{index + 1}", nn.Sequential(*units))
            self.add_stage(name, (f"layer{index + 1}",), channels, stride)
        self.add_head(channels)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        if name == "stem":
            return self.maxpool(self.bn1(self.conv1(x)).relu_())
        return super().run_stage(name, x)


def _make_stem(deep: bool, norm: str) -> tuple[nn.Module, nn.Module]:
    if not deep:
        return nn.Conv2d(3, 64, 7, 2, 3, bias=False), make_norm(norm, 64)
    convs = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1, bias=False),
        make_norm(norm, 64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, 1, 1, bias=False),
        make_norm(norm, 64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 128, 3, 1, 1, bias=False),
    )
    return convs, make_norm(norm, 128)
