"""Residual units that can carry a gate at any of five placements, and the residual tail they share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from se_backbones.backbone import Absorber, SEOwner
from se_backbones.families.resnet.table import ResNetHyper
from se_backbones.layers.gated import gated_sum
from se_backbones.layers.norm import make_norm

# Why gates at two placements of any residual unit have no absorber.
UNIT_OUTPUT = "scales the unit's output, behind the addition: no weight before it could take up the mean"
BARE_SHORTCUT = "scales a bare shortcut, which has no weight that could take up the mean"


def residual_tail(branch: Tensor, se: Callable[[Tensor], Tensor] | None, shortcut: Tensor) -> Tensor:
    """``relu(shortcut + se(branch) * branch)``, the end of a residual unit; without SE, ``relu(shortcut + branch)``.

    No map is made beyond the result. torch.compile makes one kernel of scale, add and ReLU.

    Args:
        branch, shortcut: (N, C, H, W). Without SE, ``branch`` is overwritten.
        se: gives the gate of a map, (N, C, 1, 1) or (N, C, H, W); or None.
    """
    if se is None:
        return branch.add_(shortcut).relu_()
    return gated_sum(shortcut, branch, se, relu=True)


class ResidualUnit(SEOwner):
    """A residual unit: a branch, which a subclass defines, and a shortcut.

    Args:
        hyper: the network's settings.
        in_channels: channels of the unit's input.
        planes: the width of the stage, 64 for res2 and doubled at each stage.
        stride: 1 or 2.
        dilation: of the 3×3 convolutions.
        norm: a name that ``make_norm`` knows.
    """

    placements = ("standard", "pre", "post", "identity", "inside")
    expansion: int

    def __init__(self, hyper: ResNetHyper, in_channels: int, planes: int, stride: int, dilation: int, norm: str):
        super().__init__()
        out_channels = planes * self.expansion
        self._build_branch(hyper, in_channels, planes, stride, dilation, norm)
        self.register_module("se", None)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            # SENet-154's 3×3 shortcut keeps to 1×1 where the size does not change (the first unit of res2).
            kernel = hyper.downsample_kernel if stride != 1 or dilation != 1 else 1
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
                make_norm(norm, out_channels),
            )

    def _build_branch(self, hyper, in_channels, planes, stride, dilation, norm) -> None:
        raise NotImplementedError

    def branch(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride), before the addition; a gate ``inside`` has acted."""
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.Module:
        """The normalisation that ends the branch."""
        raise NotImplementedError

    @property
    def inner_norm(self) -> nn.Module:
        """The normalisation of the 3×3 convolution that ``inside`` stands behind."""
        raise NotImplementedError

    relu_before_se = False

    def gate_channels(self, placement: str) -> int:
        if placement == "pre":
            return self.conv1.weight.shape[1]
        return (self.inner_norm if placement == "inside" else self.last_norm).weight.numel()

    def absorbers(self, placement: str) -> tuple[Absorber, ...] | str:
        if placement == "standard":
            name = "its branch's last normalisation"
            return (Absorber(self.last_norm, positive=self.relu_before_se, name=name),)
        if placement == "inside":
            return (Absorber(self.inner_norm, positive=True, name="the normalisation before it"),)
        if placement == "pre":
            return (Absorber(self.conv1, side="input", name="its branch's first convolution"),)
        if placement == "post":
            return UNIT_OUTPUT
        if self.downsample is None:
            return BARE_SHORTCUT
        return (Absorber(self.downsample[1], name="its shortcut's normalisation"),)

    def _gated_inside(self, x: Tensor) -> Tensor:
        return x * self.se(x) if self.placement == "inside" else x

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.placement == "pre":
            return residual_tail(self.branch(x * self.se(x)), None, shortcut)
        branch = self.branch(x)
        if self.placement == "standard":
            return residual_tail(branch, self.se, shortcut)
        if self.placement == "identity":
            return residual_tail(shortcut, self.se, branch)
        out = residual_tail(branch, None, shortcut)
        return out * self.se(out) if self.placement == "post" else out


class BasicUnit(ResidualUnit):
    """Two 3×3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def _build_branch(self, hyper, in_channels, planes, stride, dilation, norm) -> None:
        self.relu_before_se = hyper.relu_before_se
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, dilation, dilation=dilation, bias=False)
        self.bn1 = make_norm(norm, planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation=dilation, bias=False)
        self.bn2 = make_norm(norm, planes)

    def branch(self, x: Tensor) -> Tensor:
        x = self._gated_inside(self.bn1(self.conv1(x)).relu_())
        x = self.bn2(self.conv2(x))
        return x.relu_() if self.relu_before_se else x

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    @property
    def inner_norm(self) -> nn.Module:
        return self.bn1


class Bottleneck(ResidualUnit):
    """1×1, 3×3, 1×1 convolutions (ResNet-50 and deeper, ResNeXt, SENet-154)."""

    expansion = 4

    def _build_branch(self, hyper, in_channels, planes, stride, dilation, norm) -> None:
        groups = hyper.groups
        width = planes * hyper.width_per_group // 64 * groups
        first = width // 2 if hyper.first_1x1_halved else width
        stride1, stride2 = (stride, 1) if hyper.stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, first, 1, stride1, bias=False)
        self.bn1 = make_norm(norm, first)
        self.conv2 = nn.Conv2d(first, width, 3, stride2, dilation, dilation=dilation, groups=groups, bias=False)
        self.bn2 = make_norm(norm, width)
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1, bias=False)
        self.bn3 = make_norm(norm, planes * self.expansion)

    def branch(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu_()
        x = self._gated_inside(self.bn2(self.conv2(x)).relu_())
        return self.bn3(self.conv3(x))

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    @property
    def inner_norm(self) -> nn.Module:
        return self.bn2
