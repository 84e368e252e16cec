"""Shake-Shake networks for CIFAR (Gastaldi, arXiv 1705.07485): two residual branches, mixed at random in training.

``shakeshake26_2x96d_cifar`` and ``shakeeven29_2x4x64d_cifar`` are those of the SE paper's tables 4 (CIFAR-10) and 5
(CIFAR-100), built as in the author's code (github.com/xgastaldi/shake-shake): the first with the ReLU in front of each
branch and one behind the last unit, the second a ResNeXt with the ReLU behind the addition.

The SE paper does not say where the gate sits. ``se_…`` rows have one in each branch, ``se_…_mix`` one behind the mix of
both: half as many. The plain network is the same, so that an ``se_…_mix`` row has no twin by name; plain weights are
put into it with ``load_weights_inserting_se``.

``shakeshake26_2x32d_cifar_pytorchcv`` is what pytorchcv publishes: the tensors of ``shakeshake26_2x32d_cifar``, and
the ReLU behind the addition, on the shortcut too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from se_backbones.backbone import Absorber, Backbone, SEOwner
from se_backbones.families.cifar.layouts import SHAKE_LAYOUTS
from se_backbones.layers.gated import gated_sum
from se_backbones.layers.norm import make_norm
from se_backbones.registry import Family, Spec, register
from se_backbones.se import SEConfig

FAMILY_NAME = "shake_shake"


@dataclass(frozen=True)
class ShakeHyper:
    """What a Shake-Shake network is, but for its SE.

    Attributes:
        depths: residual units in stage1, stage2, stage3.
        width: channels of a branch's 3×3 convolution in stage1, doubled at each stage; for one group.
        bottleneck: a branch is a ResNeXt bottleneck (1×1, grouped 3×3, 1×1) with 256, 512, 1024 channels outside, and
            not two 3×3.
        groups: of the 3×3 convolution in a bottleneck.
        relu_first: the ReLU stands in front of branches and projections, and one behind the last unit; else it stands
            behind each addition. Leaves no mark on tensors.
        shake_backward: the gradient is divided between the branches by random coefficients of its own (Shake-Shake),
            and not by halves (Shake-Even).
        gate_at: ``branch``, a gate at the end of each branch; ``mix``, one behind their mix.
        dropout: probability before the classifier.
    """

    depths: tuple[int, int, int]
    width: int
    bottleneck: bool = False
    groups: int = 1
    relu_first: bool = True
    shake_backward: bool = True
    gate_at: str = "branch"
    dropout: float = 0.0


class Mix(torch.autograd.Function):
    """``alpha * first + (1 - alpha) * second``, whose gradient is divided by ``beta`` in alpha's place.

    Both are (N, 1, 1, 1), drawn before: a forward pass that is computed again has the same, because
    torch.utils.checkpoint puts the generator's state back.
    """

    @staticmethod
    def forward(first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        return alpha * first + (1 - alpha) * second

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[3])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (beta,) = ctx.saved_tensors
        return beta * gradient, (1 - beta) * gradient, None, None


def mix(first: Tensor, second: Tensor, training: bool, shake_backward: bool) -> Tensor:
    """The two branches as one map (N, C, H, W).

    In training each image has its own coefficient, uniform in [0, 1), and for the gradient another one or 0.5
    (section 2 of Gastaldi's paper, "Shake" forward, "Shake" or "Even" backward, image by image). They are drawn from
    torch's generator of the maps' device. Else the mean.
    """
    if not training:
        return (first + second) * 0.5
    alpha = torch.rand(len(first), 1, 1, 1, dtype=first.dtype, device=first.device)
    beta = torch.rand_like(alpha) if shake_backward else torch.full_like(alpha, 0.5)
    return Mix.apply(first, second, alpha, beta)


class Branch(nn.Module):
    """A residual branch: two 3×3 convolutions, or a ResNeXt bottleneck. It ends with a normalisation.

    Args:
        hyper: the network's settings.
        in_channels: channels of the unit's input.
        index: of the stage, from 0.
        stride: 1 or 2, of the first 3×3 convolution.
        norm: a name that ``make_norm`` knows.
    """

    def __init__(self, hyper: ShakeHyper, in_channels: int, index: int, stride: int, norm: str):
        super().__init__()
        width, channels = hyper.groups * hyper.width * 2**index, out_channels(hyper, index)
        convolutions = [(in_channels, width, 3, stride, 1), (width, channels, 3, 1, 1)]
        if hyper.bottleneck:
            inner = (width, width, 3, stride, hyper.groups)
            convolutions = [(in_channels, width, 1, 1, 1), inner, (width, channels, 1, 1, 1)]
        self.depth = len(convolutions)
        for number, (before, behind, kernel, step, groups) in enumerate(convolutions, 1):
            conv = nn.Conv2d(before, behind, kernel, step, kernel // 2, groups=groups, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", make_norm(norm, behind))

    @property
    def last_norm(self) -> nn.Module:
        """The normalisation that ends the branch."""
        return getattr(self, f"bn{self.depth}")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        for number in range(1, self.depth + 1):
            x = x.relu_() if number > 1 else x
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
        return x


class GatedBranch(Branch, SEOwner):
    """A branch that can carry a gate at its end."""

    def __init__(self, hyper: ShakeHyper, in_channels: int, index: int, stride: int, norm: str):
        super().__init__(hyper, in_channels, index, stride, norm)
        self.register_module("se", None)

    def gate_channels(self, placement: str) -> int:
        return self.last_norm.weight.numel()

    def absorbers(self, placement: str) -> tuple[Absorber, ...]:
        return (Absorber(self.last_norm, name="its branch's last normalisation"),)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.se is None else x * self.se(x)


class ShiftedShortcut(nn.Module):
    """Two 1×1 convolutions with half of the channels each, the second on the map moved by one pixel to the right and
    down, so that with stride 2 it sees what the first leaves out; normalised together."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(in_channels, channels // 2, 1, stride, bias=False)
        self.bn = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        moved = F.pad(x, (1, -1, 1, -1))
        return self.bn(torch.cat((self.conv1(x), self.conv2(moved)), 1))


class ShakeUnit(nn.Module):
    """Two branches, their mix, and a shortcut. Gates sit in the branches.

    Args:
        hyper: the network's settings.
        in_channels: channels of the unit's input.
        index: of the stage, from 0.
        stride: 1 or 2.
        norm: a name that ``make_norm`` knows.
    """

    branch = GatedBranch

    def __init__(self, hyper: ShakeHyper, in_channels: int, index: int, stride: int, norm: str):
        super().__init__()
        self.relu_first = hyper.relu_first
        self.shake_backward = hyper.shake_backward
        self.branch1 = self.branch(hyper, in_channels, index, stride, norm)
        self.branch2 = self.branch(hyper, in_channels, index, stride, norm)
        self.downsample = None
        channels = out_channels(hyper, index)
        if in_channels != channels:
            self.downsample = (
                nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), make_norm(norm, channels))
                if hyper.bottleneck
                else ShiftedShortcut(in_channels, channels, stride, norm)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        active = torch.relu(x) if self.relu_first else x
        shortcut = x if self.downsample is None else self.downsample(active)
        mixed = mix(self.branch1(active), self.branch2(active), self.training, self.shake_backward)
        out = self.add(shortcut, mixed)
        return out if self.relu_first else out.relu_()

    def add(self, shortcut: Tensor, mixed: Tensor) -> Tensor:
        """The unit's sum, (N, C, H, W) as both."""
        return mixed + shortcut


class MixGatedUnit(ShakeUnit, SEOwner):
    """The same with one gate, behind the mix. Both branches' last normalisations take up a constant one."""

    branch = Branch

    def __init__(self, hyper: ShakeHyper, in_channels: int, index: int, stride: int, norm: str):
        super().__init__(hyper, in_channels, index, stride, norm)
        self.register_module("se", None)

    def gate_channels(self, placement: str) -> int:
        return self.branch1.last_norm.weight.numel()

    def absorbers(self, placement: str) -> tuple[Absorber, ...]:
        name = "each branch's last normalisation"
        return tuple(Absorber(branch.last_norm, name=name) for branch in (self.branch1, self.branch2))

    def add(self, shortcut: Tensor, mixed: Tensor) -> Tensor:
        return super().add(shortcut, mixed) if self.se is None else gated_sum(shortcut, mixed, self.se)


def out_channels(hyper: ShakeHyper, index: int) -> int:
    """Channels of a stage's map, stages counted from 0."""
    return (256 if hyper.bottleneck else hyper.width) * 2**index


class ShakeShake(Backbone):
    """A network of two-branched units with the maps ``stem, stage1, stage2, stage3``, of strides 1, 1, 2, 4.

    With ``relu_first`` the maps of stem, stage1 and stage2 are not rectified; stage3's is, and the mean is taken of it.
    """

    stages = ("stem", "stage1", "stage2", "stage3")

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        hyper = spec.hyper
        unit = MixGatedUnit if hyper.gate_at == "mix" else ShakeUnit
        channels, stride = 64 if hyper.bottleneck else 16, 1
        self.conv1 = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        self.bn1 = make_norm(norm, channels)
        self.add_stage("stem", ("conv1", "bn1"), channels, stride)
        for index, name in enumerate(self.stages[1:]):
            units = OrderedDict()
            for number in range(1, hyper.depths[index] + 1):
                step = 2 if index > 0 and number == 1 else 1
                units[f"unit{number}"] = unit(hyper, channels, index, step, norm)
                channels = out_channels(hyper, index)
                stride *= step
            self.add_module(name, nn.Sequential(units))
            self.add_stage(name, (name,), channels, stride)
        self.add_head(channels)

    def initialise(self, zero_init_last: bool) -> None:
        super().initialise(False)
        for module in self.modules() if zero_init_last else ():
            if isinstance(module, Branch):
                nn.init.zeros_(module.last_norm.weight)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        if name == "stem":
            x = self.bn1(self.conv1(x))
            return x if self.spec.hyper.relu_first else x.relu_()
        x = super().run_stage(name, x)
        return x.relu_() if name == "stage3" and self.spec.hyper.relu_first else x


def rows() -> Iterator[Spec]:
    """All of them. Tables 4 and 5 of the SE paper give errors alone."""
    narrow = ShakeHyper((4, 4, 4), 32)
    shake = ShakeHyper((4, 4, 4), 96)
    even = ShakeHyper((3, 3, 3), 64, bottleneck=True, groups=4, relu_first=False, shake_backward=False)
    for name, hyper, classes in (
        ("shakeshake26_2x32d_cifar", narrow, 10),
        ("shakeshake26_2x96d_cifar", shake, 10),
        ("shakeeven29_2x4x64d_cifar", even, 100),
    ):
        yield _row(name, hyper, None, classes)
        yield _row(f"se_{name}", hyper, SEConfig(), classes)
        yield _row(f"se_{name}_mix", replace(hyper, gate_at="mix"), SEConfig(), classes)
    theirs = replace(narrow, relu_first=False)
    yield _row("shakeshake26_2x32d_cifar_pytorchcv", theirs, None, 10)
    yield _row("se_shakeshake26_2x32d_cifar_pytorchcv", theirs, SEConfig(), 10)


def _row(name: str, hyper: ShakeHyper, se: SEConfig | None, classes: int) -> Spec:
    return Spec(name, FAMILY_NAME, hyper, se, num_classes=classes, image_size=32)


register(
    Family(
        FAMILY_NAME,
        tuple(rows()),
        ShakeShake,
        SHAKE_LAYOUTS,
        unmarked={"relu_first": lambda spec: not spec.hyper.bottleneck},
    )
)
