"""ShuffleNet v1 (Zhang et al., arXiv 1707.01083): grouped 1×1 convolutions and a shuffle of channels between them.

The gate stands on the residual branch behind the second grouped convolution's normalisation, before the addition or
the concatenation: on all 16 branches, as the SE paper's 2.4 M parameters have it (table 3).

    ours       conv1, bn1, stage2.0.conv1, …, fc               stages by the ShuffleNet paper's numbers
    pytorchcv  features.init_block.conv, features.stage1.unit1.compress_conv1, …, output    pytorchcv's shufflenet_g3_w1

Sources of the facts: pytorchcv 0.0.74 (``shufflenet.py``; README: the usual normalisation for all networks).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from se_backbones.backbone import Absorber, Backbone, SEOwner
from se_backbones.families.resnet.units import residual_tail
from se_backbones.layers.initialise import scale_to_groups
from se_backbones.layers.norm import make_norm
from se_backbones.layout import Facts, Layout
from se_backbones.preprocessing import IMAGENET_RGB
from se_backbones.registry import Family, Spec, register
from se_backbones.renaming import each, without_gates
from se_backbones.se import SEConfig

FAMILY_NAME = "shufflenet_v1"
# Table 1 of the ShuffleNet paper: the units of stages 2, 3 and 4.
UNITS = (4, 8, 4)


@dataclass(frozen=True)
class ShuffleNetHyper:
    """What a ShuffleNet v1 is, but for its SE.

    Attributes:
        groups: of the 1×1 convolutions; the first one of all has a single group (section 3.2 of the paper).
        channels: of stages 2, 3 and 4 (table 1 of the paper).
        dropout: probability before the classifier.
    """

    groups: int = 3
    channels: tuple[int, int, int] = (240, 480, 960)
    dropout: float = 0.0


def shuffled(x: Tensor, groups: int) -> Tensor:
    """(N, C, H, W) with its channels dealt out over the groups: the k-th of each group come next to each other."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(SEOwner):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1, the gate; added to the input, or, with stride 2, put before the
    input's 3×3 average (figure 2 of the paper).

    Args:
        groups: of the 1×1 convolutions; ``first_groups``: of the first of the two.
        in_channels, channels: of the unit's input and output.
        stride: 1, with as many channels in as out, or 2.
        norm: a name that ``make_norm`` knows.
    """

    def __init__(self, groups: int, first_groups: int, in_channels: int, channels: int, stride: int, norm: str):
        super().__init__()
        self.groups, self.stride = groups, stride
        inner = channels // 4
        branch = channels if stride == 1 else channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=first_groups, bias=False)
        self.bn1 = make_norm(norm, inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = make_norm(norm, inner)
        self.conv3 = nn.Conv2d(inner, branch, 1, groups=groups, bias=False)
        self.bn3 = make_norm(norm, branch)
        self.register_module("se", None)

    def gate_channels(self, placement: str) -> int:
        return self.conv3.out_channels

    def absorbers(self, placement: str) -> tuple[Absorber, ...] | str:
        return (Absorber(self.bn3, name="its branch's last normalisation"),)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        branch = shuffled(self.bn1(self.conv1(x)).relu_(), self.groups)
        branch = self.bn3(self.conv3(self.bn2(self.conv2(branch))))
        if self.stride == 1:
            return residual_tail(branch, self.se, x)
        branch = branch if self.se is None else branch * self.se(branch)
        return torch.cat((branch, F.avg_pool2d(x, 3, 2, 1)), 1).relu_()


class ShuffleNet(Backbone):
    """A stem of convolution and max-pool, and stages 2, 3 and 4 of the paper, with strides 4, 8, 16 and 32."""

    stages = ("stem", "stage2", "stage3", "stage4")
    fixed_widths = (
        "shuffles channels between grouped convolutions, and to which group one goes depends on how many there are: "
        "with fewer the others would go elsewhere"
    )

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        hyper = spec.hyper
        channels, stride = 24, 4
        self.conv1 = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = make_norm(norm, channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.add_stage("stem", ("conv1", "bn1"), channels, stride)
        for index, name in enumerate(self.stages[1:]):
            wide, units = hyper.channels[index], []
            for number in range(UNITS[index]):
                first_groups = 1 if index == number == 0 else hyper.groups
                units.append(ShuffleUnit(hyper.groups, first_groups, channels, wide, 1 if number else 2, norm))
                channels = wide
            stride *= 2
            setattr(self, name, nn.Sequential(*units))
            self.add_stage(name, (name,), channels, stride)
        self.add_head(channels)

    def initialise(self, zero_init_last: bool) -> None:
        super().initialise(False)
        scale_to_groups(self)
        for module in self.modules() if zero_init_last else ():
            # A concatenated branch that is zero would be dead: its ReLU has no gradient there.
            if isinstance(module, ShuffleUnit) and module.stride == 1:
                nn.init.zeros_(module.bn3.weight)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        if name == "stem":
            return self.maxpool(self.bn1(self.conv1(x)).relu_())
        return super().run_stage(name, x)


# --- the layouts ---

_PYTORCHCV = (
    ("features.init_block.conv.", "conv1."),
    ("features.init_block.bn.", "bn1."),
    ("output.", "fc."),
)
_IN_THEIRS = {
    "compress_conv1": "conv1",
    "compress_bn1": "bn1",
    "dw_conv2": "conv2",
    "dw_bn2": "bn2",
    "expand_conv3": "conv3",
    "expand_bn3": "bn3",
}
_IN_OURS = {ours: theirs for theirs, ours in _IN_THEIRS.items()}


def _from_pytorchcv(name: str) -> str:
    found = re.match(r"^features\.stage(\d+)\.unit(\d+)\.(\w+)\.(.+)$", name)
    if found and found[3] in _IN_THEIRS:
        return f"stage{int(found[1]) + 1}.{int(found[2]) - 1}.{_IN_THEIRS[found[3]]}.{found[4]}"
    for theirs, ours in _PYTORCHCV:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _to_pytorchcv(name: str) -> str:
    if found := re.match(r"^stage(\d+)\.(\d+)\.(\w+)\.(.+)$", name):
        return f"features.stage{int(found[1]) - 1}.unit{int(found[2]) + 1}.{_IN_OURS[found[3]]}.{found[4]}"
    for theirs, ours in _PYTORCHCV:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


LAYOUTS = (
    Layout(
        "pytorchcv",
        r"^features\.stage\d+\.unit\d+\.compress_conv1\.",
        each(_from_pytorchcv),
        without_gates("pytorchcv's ShuffleNet", each(_to_pytorchcv)),
        facts=lambda file: Facts(preprocessing=IMAGENET_RGB, basis="published"),
    ),
    Layout("ours", r"^stage2\.0\.conv3\.weight$"),
)

HYPER = ShuffleNetHyper()
register(
    Family(
        FAMILY_NAME,
        (
            # Table 3 of the SE paper: 140 and 142 M multiply-adds, 1.8 and 2.4 M parameters. The 140 are the
            # ShuffleNet paper's own; convolutions and fully-connected layers are 137.5.
            Spec("shufflenet_v1_g3", FAMILY_NAME, HYPER, paper_gflops=0.140, paper_parameters=1.8),
            Spec("se_shufflenet_v1_g3", FAMILY_NAME, HYPER, SEConfig(), paper_gflops=0.142, paper_parameters=2.4),
        ),
        ShuffleNet,
        LAYOUTS,
    )
)
