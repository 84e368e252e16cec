"""MobileNet v1 (Howard et al., arXiv 1704.04861): depthwise separable convolutions, one gate behind each.

The gate stands behind the pointwise convolution, its normalisation and activation, at the end of each block: the one
place that gives the SE paper's figures (table 3: 572 M multiply-adds, 4.7 M parameters).

Two kinds of network have the same tensors: ``mobilenet_v1…`` with ReLU6, which timm publishes, and
``mobilenet_v1…_relu`` with plain ReLU, which pytorchcv publishes. Parameter names are timm's.

    timm       conv_stem, bn1, blocks.0.0.conv_dw, …, classifier             timm's mobilenetv1_100; ours, with SE too
    pytorchcv  features.init_block.conv, features.stage1.unit1.dw_conv, …    pytorchcv's mobilenet_w1, w3d4, wd2

Sources of the facts: timm 1.0 (``_gen_mobilenet_v1``: ReLU6; ``default_cfgs`` of all its MobileNets v1: mean and
standard deviation 0.5), pytorchcv 0.0.74 (``mobilenet.py``: ReLU; README: the usual normalisation for all networks).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from se_backbones.backbone import Absorber, Backbone, SEOwner, SESite
from se_backbones.layers.initialise import scale_to_groups
from se_backbones.layers.norm import make_norm
from se_backbones.layout import Facts, FileSays, Layout, NetworkShape, unchanged
from se_backbones.preprocessing import IMAGENET_RGB, Preprocessing
from se_backbones.registry import Family, Spec, register
from se_backbones.renaming import each, has_gates, without_gates
from se_backbones.se import SEConfig

FAMILY_NAME = "mobilenet_v1"
# Table 1 of the MobileNet paper: the output channels of each block; all stages but the first begin with stride 2.
CHANNELS = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))
_CLIPPED = "before it is a ReLU6, which clips, so that no weight there could take up the mean"


@dataclass(frozen=True)
class MobileNetHyper:
    """What a MobileNet v1 is, but for its SE.

    Attributes:
        width: the paper's multiplier of all channels.
        relu6: activations are clipped at 6.
        dropout: probability before the classifier.
    """

    width: float = 1.0
    relu6: bool = True
    dropout: float = 0.0


class SeparableBlock(SEOwner):
    """A depthwise 3×3 and a pointwise 1×1 convolution, each with normalisation and activation; then the gate."""

    def __init__(self, hyper: MobileNetHyper, in_channels: int, channels: int, stride: int, dilation: int, norm: str):
        super().__init__()
        self.relu6 = hyper.relu6
        self.conv_dw = nn.Conv2d(
            in_channels, in_channels, 3, stride, dilation, dilation=dilation, groups=in_channels, bias=False
        )
        self.bn1 = make_norm(norm, in_channels)
        self.conv_pw = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = make_norm(norm, channels)
        self.register_module("se", None)

    def gate_channels(self, placement: str) -> int:
        return self.conv_pw.out_channels

    def absorbers(self, placement: str) -> tuple[Absorber, ...] | str:
        if self.relu6:
            return f"stands before no layer of the network; {_CLIPPED}"
        return (Absorber(self.bn2, positive=True, name="its block's last normalisation"),)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H/stride, W/stride)."""
        x = activated(self.bn1(self.conv_dw(x)), self.relu6)
        x = activated(self.bn2(self.conv_pw(x)), self.relu6)
        return x if self.se is None else x * self.se(x)


def activated(x: Tensor, relu6: bool) -> Tensor:
    """ReLU6 or ReLU, in place."""
    return F.relu6(x, inplace=True) if relu6 else x.relu_()


class MobileNet(Backbone):
    """Thirteen separable blocks behind a 3×3 convolution. Stages are named as ResNet's by their strides: ``stage1`` has
    stride 2, as the stem, ``stage2`` 4, …, ``stage5`` 32."""

    stages = ("stem", "stage1", "stage2", "stage3", "stage4", "stage5")
    can_dilate = True
    head_path = "classifier"
    head_paths = ("classifier",)

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        hyper = spec.hyper
        channels, stride = scaled(32, hyper.width), 2
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = make_norm(norm, channels)
        self.add_stage("stem", ("conv_stem", "bn1"), channels, stride)
        self.blocks = nn.Sequential()
        for index, name in enumerate(self.stages[1:]):
            dilation = last_dilation if index == len(CHANNELS) - 1 else 1
            first_stride = 1 if index == 0 or dilation > 1 else 2
            blocks = []
            for number, wide in enumerate(CHANNELS[index]):
                out_channels = scaled(wide, hyper.width)
                block_stride = 1 if number else first_stride
                blocks.append(SeparableBlock(hyper, channels, out_channels, block_stride, dilation, norm))
                channels = out_channels
            stride *= first_stride
            self.blocks.append(nn.Sequential(*blocks))
            self.add_stage(name, (f"blocks.{index}",), channels, stride)
        self.add_head(channels)

    def initialise(self, zero_init_last: bool) -> None:
        super().initialise(zero_init_last)
        scale_to_groups(self)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        if name == "stem":
            return activated(self.bn1(self.conv_stem(x)), self.spec.hyper.relu6)
        return super().run_stage(name, x)

    def absorbers(self, site: SESite, placement: str) -> tuple[Absorber, ...] | str:
        """The normalisation before the gate; behind a ReLU6, which clips, what the gated map goes into: the next
        block's depthwise convolution, or the classifier, through the mean.

        The logits then stay as they are, and the maps handed out do not. A network without a classifier is there for
        its maps, so that the gate at the end of a stage whose map it hands out has no absorber.
        """
        if not self.spec.hyper.relu6:
            return super().absorbers(site, placement)
        blocks = [block for _, block in self.named_blocks() if isinstance(block, SeparableBlock)]
        if site.owner not in blocks:
            return super().absorbers(site, placement)  # of a stage that is kept outside the network
        ends = [self.get_submodule(self.stage_paths[name][-1])[-1] for name in self.out_features if name != "stem"]
        if self.num_classes < 1 and site.owner in ends:
            return f"scales a map that is handed out; {_CLIPPED}"
        following = blocks[blocks.index(site.owner) + 1 :]
        if following:
            return (Absorber(following[0].conv_dw, side="input", name="the next block's depthwise convolution"),)
        return (Absorber(self.head, side="input", name="the classifier"),)


def scaled(channels: int, width: float) -> int:
    """Channels times the width multiplier. timm's rounding to multiples of 8 changes none of 1, 0.75 and 0.5."""
    return int(channels * width)


# --- the layouts ---

# timm 1.0's mobilenetv1_100, 100h and 125.
HALF_RGB = Preprocessing("RGB", 1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_PYTORCHCV = (
    ("features.init_block.conv.", "conv_stem."),
    ("features.init_block.bn.", "bn1."),
    ("output.", "classifier."),
)
_IN_UNIT = {"dw_conv.conv": "conv_dw", "dw_conv.bn": "bn1", "pw_conv.conv": "conv_pw", "pw_conv.bn": "bn2"}
_IN_BLOCK = {ours: theirs for theirs, ours in _IN_UNIT.items()}


def _from_pytorchcv(name: str) -> str:
    if found := re.match(r"^features\.stage(\d+)\.unit(\d+)\.([dp]w_conv\.(?:conv|bn))\.(.+)$", name):
        return f"blocks.{int(found[1]) - 1}.{int(found[2]) - 1}.{_IN_UNIT[found[3]]}.{found[4]}"
    for theirs, ours in _PYTORCHCV:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _to_pytorchcv(name: str) -> str:
    if found := re.match(r"^blocks\.(\d+)\.(\d+)\.(\w+)\.(.+)$", name):
        return f"features.stage{int(found[1]) + 1}.unit{int(found[2]) + 1}.{_IN_BLOCK[found[3]]}.{found[4]}"
    for theirs, ours in _PYTORCHCV:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _refuse_timm(row: Spec, shape: NetworkShape, se: Mapping) -> str:
    if not row.hyper.relu6:
        return f"timm's MobileNet v1 has ReLU6, and {row.name} ReLU: the names fit and the outputs would not"
    return "" if row.hyper.width == 1 else f"timm has no MobileNet v1 of width {row.hyper.width}"


def _refuse_pytorchcv(row: Spec, shape: NetworkShape, se: Mapping) -> str:
    if row.hyper.relu6:
        return f"pytorchcv's MobileNet has ReLU, and {row.name} ReLU6: the names fit and the outputs would not"
    return ""


def _timm_facts(file: FileSays) -> Facts:
    # timm has no MobileNet v1 with SE: such a file is one of our own, without word of its images.
    return Facts({"relu6": True}) if has_gates(file.names) else Facts({"relu6": True}, HALF_RGB, "published")


LAYOUTS = (
    Layout(
        "pytorchcv",
        r"^features\.stage\d+\.unit\d+\.dw_conv\.conv\.",
        each(_from_pytorchcv),
        without_gates("pytorchcv's MobileNet v1", each(_to_pytorchcv)),
        refuse=_refuse_pytorchcv,
        facts=lambda file: Facts({"relu6": False}, IMAGENET_RGB, "published"),
    ),
    Layout(
        "timm",
        r"^blocks\.0\.0\.conv_dw\.",
        from_ours=without_gates("timm's MobileNet v1", unchanged),
        refuse=_refuse_timm,
        facts=_timm_facts,
    ),
)


# --- the rows ---


def rows() -> Iterator[Spec]:
    """Widths 1, 0.75 and 0.5, with ReLU6 and with ReLU; a plain network stands before its twin."""
    for relu6 in (True, False):
        for width, suffix in ((1.0, ""), (0.75, "_075"), (0.5, "_050")):
            name = f"mobilenet_v1{suffix}" + ("" if relu6 else "_relu")
            hyper = MobileNetHyper(width, relu6)
            # Table 3 of the SE paper, for width 1: 569 and 572 M multiply-adds, 4.2 and 4.7 M parameters. The
            # activation, which it does not name, changes neither.
            plain, se = ((0.569, 4.2), (0.572, 4.7)) if width == 1 else ((None, None), (None, None))
            yield Spec(name, FAMILY_NAME, hyper, paper_gflops=plain[0], paper_parameters=plain[1])
            yield Spec(f"se_{name}", FAMILY_NAME, hyper, SEConfig(), paper_gflops=se[0], paper_parameters=se[1])


register(
    Family(
        FAMILY_NAME,
        tuple(rows()),
        MobileNet,
        LAYOUTS,
        published={"mobilenet_v1": "timm://mobilenetv1_100.ra4_e3600_r224_in1k"},
        unmarked={"relu6": lambda spec: True},
    )
)
