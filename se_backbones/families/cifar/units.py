"""Pre-activation residual units: normalisation and ReLU before each convolution (He et al., arXiv 1603.05027)."""

from __future__ import annotations

from torch import Tensor, nn

from se_backbones.backbone import Absorber, SEOwner
from se_backbones.families.resnet.units import BARE_SHORTCUT, UNIT_OUTPUT
from se_backbones.layers.gated import gated_sum
from se_backbones.layers.norm import make_norm


class PreActivationUnit(SEOwner):
    """Two 3×3 convolutions and a shortcut, with nothing behind the addition.

    Where the unit changes shape, the shortcut is a 1×1 convolution of the activated input, which the branch starts
    from too; else it is the input itself. The branch ends with a convolution, so that a gate at ``standard`` scales
    that convolution's output, and ``pre`` stands behind the first normalisation and ReLU, on what the branch alone
    takes. ``post`` is the sum as it is.

    Args:
        in_channels: channels of the unit's input.
        planes: the width of the 3×3 convolutions.
        stride: 1 or 2, of the first 3×3.
        norm: a name that ``make_norm`` knows.
    """

    placements = ("standard", "pre", "post", "identity", "inside")
    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int, norm: str):
        super().__init__()
        convolutions = self._convolutions(in_channels, planes, stride)
        self.depth = len(convolutions)
        for number, (channels_in, channels_out, kernel, step) in enumerate(convolutions, 1):
            conv = nn.Conv2d(channels_in, channels_out, kernel, step, kernel // 2, bias=False)
            self.add_module(f"bn{number}", make_norm(norm, channels_in))
            self.add_module(f"conv{number}", conv)
        self.register_module("se", None)
        self.downsample = None
        channels = planes * self.expansion
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    @staticmethod
    def _convolutions(in_channels: int, planes: int, stride: int) -> tuple[tuple[int, int, int, int], ...]:
        """(channels in, channels out, kernel, stride) of each."""
        return (in_channels, planes, 3, stride), (planes, planes, 3, 1)

    @property
    def last_conv(self) -> nn.Conv2d:
        """The convolution that ends the branch."""
        return getattr(self, f"conv{self.depth}")

    @property
    def inner_norm(self) -> nn.Module:
        """The normalisation of the 3×3 convolution that ``inside`` stands behind."""
        return getattr(self, f"bn{self.depth}")

    def gate_channels(self, placement: str) -> int:
        if placement == "pre":
            return self.conv1.in_channels
        return self.last_conv.in_channels if placement == "inside" else self.last_conv.out_channels

    def absorbers(self, placement: str) -> tuple[Absorber, ...] | str:
        if placement == "standard":
            return (Absorber(self.last_conv, name="its branch's last convolution"),)
        if placement == "inside":
            return (Absorber(self.inner_norm, positive=True, name="the normalisation before it"),)
        if placement == "pre":
            return (Absorber(self.conv1, side="input", name="its branch's first convolution"),)
        if placement == "post":
            return UNIT_OUTPUT
        if self.downsample is None:
            return BARE_SHORTCUT
        return (Absorber(self.downsample, name="its shortcut's convolution"),)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        active = self.bn1(x).relu_()
        shortcut = x if self.downsample is None else self.downsample(active)
        branch = self.branch(active * self.se(active) if self.placement == "pre" else active)
        if self.placement == "standard":
            return gated_sum(shortcut, branch, self.se)
        if self.placement == "identity":
            return gated_sum(branch, shortcut, self.se)
        out = branch.add_(shortcut)
        return out * self.se(out) if self.placement == "post" else out

    def branch(self, active: Tensor) -> Tensor:
        """The activated input (N, C_in, H, W) → (N, C_out, H/stride, W/stride), before the addition; a gate
        ``inside`` has acted."""
        x = self.conv1(active)
        for number in range(2, self.depth + 1):
            x = getattr(self, f"bn{number}")(x).relu_()
            if number == self.depth and self.placement == "inside":
                x = x * self.se(x)
            x = getattr(self, f"conv{number}")(x)
        return x


class PreActivationBottleneck(PreActivationUnit):
    """1×1, 3×3, 1×1 convolutions, four times as wide outside as inside; the stride is in the 3×3."""

    expansion = 4

    @staticmethod
    def _convolutions(in_channels: int, planes: int, stride: int) -> tuple[tuple[int, int, int, int], ...]:
        return (in_channels, planes, 1, 1), (planes, planes, 3, stride), (planes, 4 * planes, 1, 1)
