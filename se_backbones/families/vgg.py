"""VGG-16 with batch normalisation (Simonyan and Zisserman, arXiv 1409.1556), a gate behind each ReLU (SE paper, 3.3).

Names are torchvision's: ``features.0`` and on, ``classifier.0``, ``classifier.3``, ``classifier.6``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from se_backbones.backbone import Absorber, Backbone, SEOwner, SESite
from se_backbones.layers.norm import make_norm
from se_backbones.layout import Facts, Layout
from se_backbones.preprocessing import IMAGENET_RGB
from se_backbones.registry import Family, Spec, register
from se_backbones.se import SEConfig

_HIDDEN = 4096
_SIDE = 7  # of the map that the classifier takes


@dataclass(frozen=True)
class VGGHyper:
    """What a VGG is, but for its SE.

    Attributes:
        widths: channels of the convolutions of each stage.
        conv_bias: the convolutions have biases, as in torchvision's vgg16_bn, which the normalisations behind make
            superfluous.
        dropout: probability behind each hidden layer of the classifier.
    """

    widths: tuple[tuple[int, ...], ...] = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    conv_bias: bool = False
    dropout: float = 0.5


class GatedReLU(SEOwner):
    """ReLU, and the gate behind it."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.register_module("se", None)

    def gate_channels(self, placement: str) -> int:
        return self.channels

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu_()
        return x if self.se is None else x * self.se(x)


class VGG(Backbone):
    """VGG with the maps ``conv1`` … ``conv5``, each behind its max-pool: strides 2, 4, 8, 16, 32. The pools are
    un-padded and round sizes down, as in the original.

    The classifier is three layers over a map of 7×7, to which other sizes are averaged (torchvision's way); the last
    of them is the ``head``, which a new number of classes replaces.
    """

    stages = ("conv1", "conv2", "conv3", "conv4", "conv5")
    linear_head = False
    head_path = "classifier.6"
    head_paths = ("classifier",)

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        hyper = spec.hyper
        self.features = nn.Sequential()
        channels = 3
        for index, name in enumerate(self.stages):
            begin = len(self.features)
            for width in hyper.widths[index]:
                self.features.append(nn.Conv2d(channels, width, 3, padding=1, bias=hyper.conv_bias))
                self.features.append(make_norm(norm, width))
                self.features.append(GatedReLU(width))
                channels = width
            self.features.append(nn.MaxPool2d(2, 2))
            paths = [f"features.{number}" for number in range(begin, len(self.features))]
            self.add_stage(name, paths, channels, 2 ** (index + 1))
        if num_classes > 0:
            self.classifier = nn.Sequential(
                nn.Linear(channels * _SIDE**2, _HIDDEN),
                nn.ReLU(inplace=True),
                nn.Dropout(hyper.dropout),
                nn.Linear(_HIDDEN, _HIDDEN),
                nn.ReLU(inplace=True),
                nn.Dropout(hyper.dropout),
                nn.Linear(_HIDDEN, num_classes),
            )

    def initialise(self, zero_init_last: bool) -> None:
        super().initialise(zero_init_last)
        for layer in (self.classifier[0], self.classifier[3]) if self.num_classes > 0 else ():
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def absorbers(self, site: SESite, placement: str) -> tuple[Absorber, ...] | str:
        # The normalisation stands right before the ReLU, which passes factors of 0 or more.
        number = int(site.path.rpartition(".")[2])
        return (Absorber(self.features[number - 1], positive=True, name="the normalisation before it"),)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        # Recomputed as a whole: its modules are too small to gain anything by themselves.
        modules = [self.get_submodule(path) for path in self.stage_paths[name]]
        return self.run_block(nn.Sequential(*modules), x) if self.recompute else _chain(modules, x)

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(functional.adaptive_avg_pool2d(x, _SIDE).flatten(1))


def _chain(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


# --- timm's names ---

_TO_TIMM = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2.", "classifier.6.": "head.fc."}


def _renamed(pairs: Sequence[tuple[str, str]], names: Collection[str]) -> dict[str, str]:
    def one(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), name)

    return {name: one(name) for name in names}


def _from_timm_tensor(name: str, tensor: Tensor) -> Tensor:
    """timm keeps the two hidden layers as convolutions of 7×7 and 1×1: (out, in, 7, 7) is (out, in * 49)."""
    return tensor.flatten(1) if re.fullmatch(r"classifier\.[03]\.weight", name) else tensor


def _to_timm_tensor(name: str, tensor: Tensor) -> Tensor:
    if name == "classifier.0.weight":
        return tensor.unflatten(1, (-1, _SIDE, _SIDE))
    return tensor[:, :, None, None] if name == "classifier.3.weight" else tensor


def _facts(file) -> Facts:
    return Facts(preprocessing=IMAGENET_RGB, basis="published")


def _refuse(row: Spec, shape, se) -> str:
    if shape.has_se:
        return "its network has no squeeze-and-excitation; write to ours"
    return "" if row.hyper.conv_bias else f"its convolutions have biases, and those of {row.name} have none"


_TORCHVISION = Layout(
    "torchvision",
    r"^features\.(0\.weight|1\.running_mean|2\.se\.)",
    from_ours=lambda names: {name: name for name in names},
    refuse=_refuse,
    facts=_facts,
)
_TIMM = Layout(
    "timm",
    r"^pre_logits\.fc1\.",
    lambda names: _renamed([(theirs, ours) for ours, theirs in _TO_TIMM.items()], names),
    lambda names: _renamed(list(_TO_TIMM.items()), names),
    refuse=_refuse,
    facts=_facts,
    tensor_to_ours=_from_timm_tensor,
    tensor_from_ours=_to_timm_tensor,
)


def _rows():
    se = SEConfig()
    # Table 2 of the SE paper, thousand millions of multiply-adds.
    yield Spec("vgg16", "vgg", VGGHyper(), paper_gflops=15.47)
    yield Spec("se_vgg16", "vgg", VGGHyper(), se, paper_gflops=15.48)
    # torchvision's vgg16_bn, biases and all; its weights load into vgg16 too.
    yield Spec("vgg16_conv_bias", "vgg", VGGHyper(conv_bias=True))
    yield Spec("se_vgg16_conv_bias", "vgg", VGGHyper(conv_bias=True), se)


def _bias_norms() -> dict[str, str]:
    """features.0.bias -> features.1.running_mean, for every convolution."""
    with torch.device("meta"):
        features = VGG(Spec("", "vgg", VGGHyper()), 0, out_features=VGG.stages, norm="BN", last_dilation=1).features
    convolutions = [number for number, module in enumerate(features) if isinstance(module, nn.Conv2d)]
    return {f"features.{number}.bias": f"features.{number + 1}.running_mean" for number in convolutions}


register(
    Family(
        "vgg",
        tuple(_rows()),
        VGG,
        (_TIMM, _TORCHVISION),
        published={
            "vgg16": "torchvision://vgg16_bn",
            "vgg16_conv_bias": "torchvision://vgg16_bn",
        },
        bias_norms=_bias_norms(),
    )
)
