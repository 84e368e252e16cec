"""BN-Inception (Ioffe and Szegedy, arXiv 1502.03167, figure 5), with one gate behind the concatenation of each module.

The network is the one of the original SE release, ``SE-BN-Inception.prototxt`` (github.com/hujie-frank/SENet), but for
its gates also pytorchcv's and pretrainedmodels' ``bninception``: two max-pools in the stem, un-padded, with a last
window that may be cut off, as Caffe counts; then ten modules, of which two halve the map. Their convolutions have
biases, which a normalisation behind makes useless; here they have none, as in the release, and a file's biases go into
the running means.

Parameter names are pytorchcv's. Its stages begin with the modules that halve the map, and so do ours:

    ============ ======================= ========== ======
    stage        modules of the paper    channels   stride
    ============ ======================= ========== ======
    conv1        the 7×7 convolution     64         2
    conv2        1×1 and 3×3             192        4
    inception3   3a, 3b                  320        8
    inception4   3c, 4a, 4b, 4c, 4d      608        16
    inception5   4e, 5a, 5b              1024       32
    ============ ======================= ========== ======
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from se_backbones.backbone import Absorber, Backbone, SEOwner
from se_backbones.layers.norm import make_norm
from se_backbones.registry import Spec


@dataclass(frozen=True)
class BNInceptionHyper:
    """What a BN-Inception is, but for its SE: one network.

    Attributes:
        dropout: probability before the classifier.
    """

    dropout: float = 0.0


@dataclass(frozen=True)
class Module:
    """One module of the network.

    Attributes:
        name: the paper's.
        one: channels of the 1×1 branch; 0 where the module halves the map: it has none, and pools with stride 2.
        three: channels of the 3×3 branch: its 1×1 convolution, its 3×3.
        double: channels of the branch with two 3×3 convolutions: its 1×1, both 3×3.
        projection: channels of the 1×1 convolution behind the pooling; 0: none.
        max_pool: it takes the maximum, and not the mean.
    """

    name: str
    one: int
    three: tuple[int, int]
    double: tuple[int, int]
    projection: int
    max_pool: bool = False

    @property
    def halves(self) -> bool:
        return self.one == 0


STAGES = {
    "inception3": (
        Module("3a", 64, (64, 64), (64, 96), 32),
        Module("3b", 64, (64, 96), (64, 96), 64),
    ),
    "inception4": (
        Module("3c", 0, (128, 160), (64, 96), 0, max_pool=True),
        Module("4a", 224, (64, 96), (96, 128), 128),
        Module("4b", 192, (96, 128), (96, 128), 128),
        Module("4c", 160, (128, 160), (128, 160), 128),
        Module("4d", 96, (128, 192), (160, 192), 128),
    ),
    "inception5": (
        Module("4e", 0, (128, 192), (192, 256), 0, max_pool=True),
        Module("5a", 352, (192, 320), (160, 224), 128),
        Module("5b", 352, (192, 320), (192, 224), 128, max_pool=True),
    ),
}


class ConvBlock(nn.Module):
    """A convolution with its normalisation and ReLU, padded so that stride 1 keeps the size."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, norm: str):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        self.bn = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        return self.bn(self.conv(x)).relu_()


class HalvingPool(nn.Module):
    """The un-padded 3×3 max-pool with stride 2 of a module that halves the map, beside convolutions that are padded.

    An odd size is rounded up, as the convolutions do; the published networks cannot take one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H/2, W/2), rounded up."""
        height, width = x.shape[2] % 2, x.shape[3] % 2
        if height or width:
            x = F.pad(x, (0, width, 0, height), value=float("-inf"))
        return ceil_pool(x)


def ceil_pool(x: Tensor) -> Tensor:
    """The 3×3 max-pool with stride 2, un-padded; the last window may be cut off: (N, C, H, W) → (N, C, H/2, W/2),
    rounded down."""
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


class InceptionUnit(SEOwner):
    """Four branches side by side (three where the map is halved), concatenated; then the gate.

    Attributes:
        following: the unit behind one that halves the map, which takes up factors in its place.
    """

    following: tuple[InceptionUnit, ...] = ()  # in a tuple, so that it is no child of this module

    def __init__(self, module: Module, in_channels: int, norm: str):
        super().__init__()
        stride = 2 if module.halves else 1

        def conv_block(before: int, channels: int, kernel: int, stride: int = 1) -> ConvBlock:
            return ConvBlock(before, channels, kernel, stride, norm)

        branches = [] if module.halves else [conv_block(in_channels, module.one, 1)]
        branches.append(_chain(conv_block(in_channels, module.three[0], 1), conv_block(*module.three, 3, stride)))
        first, wide = module.double
        branches.append(
            _chain(conv_block(in_channels, first, 1), conv_block(first, wide, 3), conv_block(wide, wide, 3, stride))
        )
        if module.halves:
            branches.append(HalvingPool())
        else:
            branch = nn.Sequential()
            branch.add_module("pool", nn.MaxPool2d(3, 1, 1) if module.max_pool else nn.AvgPool2d(3, 1, 1))
            branch.add_module("conv", conv_block(in_channels, module.projection, 1))
            branches.append(branch)
        self.branches = nn.ModuleDict({f"branch{number}": branch for number, branch in enumerate(branches, 1)})
        self.register_module("se", None)

    @property
    def channels(self) -> int:
        """Of the unit's output; a branch without a convolution hands on its input."""
        return sum(
            blocks[-1].conv.out_channels if blocks else self.first_convolutions()[0].in_channels
            for branch in self.branches.values()
            for blocks in [_blocks(branch)]
        )

    def gate_channels(self, placement: str) -> int:
        return self.channels

    def absorbers(self, placement: str) -> tuple[Absorber, ...] | str:
        """Each branch's last normalisation takes up its channels of the gate. A bare pooling hands on what other
        branches take in too, so that its channels are taken up behind the gate, by every convolution of the next
        unit (a mean passes any factor on). That is exact as well: the next unit belongs to the same stage, and the
        map in between is handed out nowhere."""
        found, start = [], 0
        for branch in self.branches.values():
            blocks = _blocks(branch)
            end = start + blocks[-1].conv.out_channels if blocks else self.channels
            part = slice(start, end)
            if blocks:
                found.append(Absorber(blocks[-1].bn, part, positive=True, name="the last normalisation of each branch"))
            else:
                found += [
                    Absorber(conv, part, part, "input", name="each of the convolutions behind a pooled branch")
                    for unit in self.following
                    for conv in unit.first_convolutions()
                ]
            start = end
        return tuple(found)

    def first_convolutions(self) -> list[nn.Conv2d]:
        """What takes in the unit's input, one a branch."""
        return [blocks[0].conv for branch in self.branches.values() if (blocks := _blocks(branch))]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H, W), or half of the size, rounded up."""
        x = torch.cat([branch(x) for branch in self.branches.values()], 1)
        return x if self.se is None else x * self.se(x)


def _blocks(branch: nn.Module) -> list[ConvBlock]:
    return [module for module in branch.modules() if isinstance(module, ConvBlock)]


def _chain(*blocks: ConvBlock) -> nn.Sequential:
    chain = nn.Sequential()
    for number, block in enumerate(blocks, 1):
        chain.add_module(f"conv{number}", block)
    return chain


class BNInception(Backbone):
    """Two convolutions and ten modules. The two max-pools before ``conv2`` and before ``inception3`` are un-padded and
    round odd sizes down; the 7×7 convolution and the modules that halve the map round up."""

    stages = ("conv1", "conv2", *STAGES)
    head_path = "output"
    head_paths = ("output",)

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        self.features = nn.Sequential()
        stem = nn.Sequential()
        self.features.add_module("init_block", stem)
        stem.add_module("conv1", ConvBlock(3, 64, 7, 2, norm))
        self.add_stage("conv1", ("features.init_block.conv1",), 64, 2)
        if "conv2" in self.stages:
            stem.add_module("conv2", _chain(ConvBlock(64, 64, 1, 1, norm), ConvBlock(64, 192, 3, 1, norm)))
            self.add_stage("conv2", ("features.init_block.conv2",), 192, 4)
        channels = 192
        for number, name in enumerate(self.stages[2:], 1):
            stage = nn.Sequential()
            for index, module in enumerate(STAGES[name], 1):
                unit = InceptionUnit(module, channels, norm)
                stage.add_module(f"unit{index}", unit)
                channels = unit.channels
            if STAGES[name][0].halves:
                stage[0].following = (stage[1],)
            self.features.add_module(f"stage{number}", stage)
            self.add_stage(name, (f"features.stage{number}",), channels, 4 * 2**number)
        self.add_head(channels)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        return super().run_stage(name, ceil_pool(x) if name in ("conv2", "inception3") else x)
