"""Residual units with SE as an argument, and the residual tail they share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from se_backbones.layers.norm import make_norm
from se_backbones.se import SEConfig, SEGate


@dataclass(frozen=True)
class UnitConfig:
    """What a residual unit is built from.

    Attributes:
        in_channels: channels of the unit's input.
        planes: the width of the stage, 64 for res2 and doubled at each stage.
        stride: 1 or 2.
        dilation: of the 3×3 convolution.
        groups, width_per_group: of the 3×3 convolution in a bottleneck; its width is
            ``planes * width_per_group / 64 * groups`` (32×4d and 64×4d are Xie et al., arXiv 1611.05431).
        stride_in_1x1: the stride is in the first 1×1 convolution, as in the original Caffe ResNets, and not in the 3×3.
        first_1x1_halved: the first 1×1 convolution has half the width of the 3×3 (SENet-154, section 9 of the paper).
        downsample_kernel: 1 or 3, the convolution on a shortcut that changes shape.
        relu_before_se: a ReLU between a basic unit's last normalisation and its gate, as in the SE-ResNet-18 and 34
            that timm publishes in the original release's style.
        norm: a name that ``make_norm`` knows.
        se: the SE settings, or None where this unit has no SE.
        reduction: r for this unit.
    """

    in_channels: int
    planes: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = False
    first_1x1_halved: bool = False
    downsample_kernel: int = 1
    relu_before_se: bool = False
    norm: str = "BN"
    se: SEConfig | None = None
    reduction: int = 16


def residual_tail(branch: Tensor, gate: Tensor | None, shortcut: Tensor) -> Tensor:
    """``relu(shortcut + gate * branch)``, the end of a residual unit; without a gate, ``relu(shortcut + branch)``.

    Scale and add are one multiply-add over the map (the original release fused them as a layer named Axpy), and
    the ReLU works in place, so no map is made beyond the result. torch.compile makes one kernel of all three.

    Args:
        branch, shortcut: (N, C, H, W). Without a gate, ``branch`` is overwritten.
        gate: (N, C, 1, 1) or None.
    """
    out = branch.add_(shortcut) if gate is None else torch.addcmul(shortcut, branch, gate)
    return out.relu_()


class ResidualUnit(nn.Module):
    """A residual unit: ``branch(x)``, which a subclass defines, a shortcut, and SE at one of four placements."""

    expansion: int

    def __init__(self, config: UnitConfig):
        super().__init__()
        out_channels = config.planes * self.expansion
        self.placement = None
        self._build_branch(config, out_channels)
        if config.se:
            self.attach_se(config.se, config.reduction)
        self.downsample = None
        if config.stride != 1 or config.in_channels != out_channels:
            # SENet-154's 3×3 shortcut keeps to 1×1 where the size does not change (the first unit of res2).
            kernel = config.downsample_kernel if config.stride != 1 or config.dilation != 1 else 1
            self.downsample = nn.Sequential(
                nn.Conv2d(config.in_channels, out_channels, kernel, config.stride, kernel // 2, bias=False),
                make_norm(config.norm, out_channels),
            )

    def _build_branch(self, config: UnitConfig, out_channels: int) -> None:
        raise NotImplementedError

    def attach_se(self, config: SEConfig, reduction: int) -> None:
        """Gives the unit a gate, freshly initialised, with the type and on the device of its weights."""
        weight = self.conv1.weight
        channels = weight.shape[1] if config.placement == "pre" else self.last_norm.weight.numel()
        self.se = SEGate(channels, config, reduction).to(weight.device, weight.dtype)
        self.placement = config.placement

    def remove_se(self) -> None:
        """Takes the gate away. What it did to the maps is lost, see fold_constant_gates."""
        del self.se
        self.placement = None

    def branch(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride), before the addition."""
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.Module:
        """The normalisation that ends the branch."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.placement == "pre":
            return residual_tail(self.branch(x * self.se(x)), None, shortcut)
        branch = self.branch(x)
        if self.placement == "standard":
            return residual_tail(branch, self.se(branch), shortcut)
        if self.placement == "identity":
            return residual_tail(shortcut, self.se(shortcut), branch)
        out = residual_tail(branch, None, shortcut)
        return out * self.se(out) if self.placement == "post" else out


class BasicUnit(ResidualUnit):
    """Two 3×3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def _build_branch(self, config: UnitConfig, out_channels: int) -> None:
        d = config.dilation
        self.relu_before_se = config.relu_before_se
        self.conv1 = nn.Conv2d(config.in_channels, config.planes, 3, config.stride, d, dilation=d, bias=False)
        self.bn1 = make_norm(config.norm, config.planes)
        self.conv2 = nn.Conv2d(config.planes, out_channels, 3, 1, d, dilation=d, bias=False)
        self.bn2 = make_norm(config.norm, out_channels)

    def branch(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        return x.relu_() if self.relu_before_se else x

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2


class Bottleneck(ResidualUnit):
    """1×1, 3×3, 1×1 convolutions (ResNet-50 and deeper, ResNeXt, SENet-154)."""

    expansion = 4

    def _build_branch(self, config: UnitConfig, out_channels: int) -> None:
        width = config.planes * config.width_per_group // 64 * config.groups
        first = width // 2 if config.first_1x1_halved else width
        stride1, stride2 = (config.stride, 1) if config.stride_in_1x1 else (1, config.stride)
        d = config.dilation
        self.conv1 = nn.Conv2d(config.in_channels, first, 1, stride1, bias=False)
        self.bn1 = make_norm(config.norm, first)
        self.conv2 = nn.Conv2d(first, width, 3, stride2, d, dilation=d, groups=config.groups, bias=False)
        self.bn2 = make_norm(config.norm, width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = make_norm(config.norm, out_channels)

    def branch(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        return self.bn3(self.conv3(x))

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3
