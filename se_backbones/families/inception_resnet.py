"""Inception-ResNet-v2 (Szegedy et al., arXiv 1602.07261), with SE on each residual branch (figure 3 of the SE paper).

Parameter names are timm's. Its weights were trained by TensorFlow with un-padded convolutions and poolings in the stem
and where the size halves.

    timm       conv2d_1a.conv.weight, mixed_5b.branch1.0.conv.weight, repeat.0.conv2d.weight, classif.weight   ours too
    pytorchcv  features.init_block.conv1.conv.weight, features.stage1.unit1.conv.weight, output.fc.weight

Sources of the facts: timm 1.0 (``default_cfgs``: mean and standard deviation 0.5). pytorchcv 0.0.74 does not tell how
this network's images come.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from se_backbones.backbone import Absorber, Backbone, SEOwner
from se_backbones.layers.norm import make_norm
from se_backbones.layout import Facts, FileSays, Layout, NetworkShape, unchanged
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import Family, Spec, find_spec, register, skeleton
from se_backbones.renaming import by_layer, has_gates, inverse, without_gates
from se_backbones.se import SEConfig

FAMILY_NAME = "inception_resnet"
INCEPTION_RGB = Preprocessing("RGB", 1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class InceptionResNetHyper:
    """What an Inception-ResNet is, but for its SE.

    Attributes:
        depths: residual blocks of 35, 17 and 8 places a side at 299 pixels.
        scales: by what a residual branch is multiplied before the addition, in each of the three (TensorFlow's
            ``inception_resnet_v2.py``). The very last block has 1, and no ReLU.
        dropout: probability before the classifier.
    """

    depths: tuple[int, int, int] = (10, 20, 10)
    scales: tuple[float, float, float] = (0.17, 0.10, 0.20)
    dropout: float = 0.0


class ConvBlock(nn.Module):
    """Convolution, normalisation, ReLU. Padded by ``padding`` places on each side, (rows, columns)."""

    def __init__(self, norm: str, in_channels: int, out_channels: int, kernel, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = make_norm(norm, out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class Branches(nn.Module):
    """Branches over one input whose maps are put behind each other, ``branch0`` to the last."""

    def __init__(self, branches: Sequence[nn.Module]):
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for name, branch in self._modules.items() if name.startswith("branch")], 1)


class ResidualBlock(Branches, SEOwner):
    """Branches, a linear 1×1 convolution, the gate, and the addition: ``relu(x + scale * gate * branch)``."""

    def __init__(self, branches: Sequence[nn.Module], width: int, channels: int, scale: float, relu: bool = True):
        super().__init__(branches)
        self.conv2d = nn.Conv2d(width, channels, 1)
        self.register_module("se", None)
        self.scale = scale
        self.relu = relu

    def gate_channels(self, placement: str) -> int:
        return self.conv2d.out_channels

    def absorbers(self, placement: str) -> tuple[Absorber, ...] | str:
        return (Absorber(self.conv2d, name="its branch's last convolution"),)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2d(super().forward(x))
        # The two factors first: one pass over the map, and exact where the gate is a power of two.
        scale = self.scale if self.se is None else self.se(branch) * self.scale
        out = branch * scale + x
        return out.relu_() if self.relu else out


class InceptionResNet(Backbone):
    """Inception-ResNet-v2 with the maps ``stem`` (stride 4), ``block35``, ``block17`` and ``block8``, named by their
    residual blocks.

    A classifier is un-padded where TensorFlow's is: at 299 pixels the maps have 71, 35, 17 and 8 places a side, fewer
    than the image's size over the stride (75, 38, 19, 10), and an image needs 75 pixels a side. Of an image of 320
    there would be 76, 37, 18 and 8, of which none is twice the next. A network without a classifier therefore pads
    there by 1, so that a feature pyramid can stand on its maps, which then have sizes rounded up and places centred on
    multiples of the stride; the weights are the same. (TensorFlow's detectors pad there too, to the right and below:
    ``align_feature_maps`` in its inception_resnet_v2.)
    """

    stages = ("stem", "block35", "block17", "block8")
    head_path = "classif"
    head_paths = ("classif",)

    def __init__(self, spec: Spec, num_classes: int, *, out_features: Sequence[str], norm: str, last_dilation: int):
        super().__init__(spec, num_classes, out_features)
        hyper = spec.hyper
        p = 0 if num_classes > 0 else 1

        def conv(*arguments) -> ConvBlock:
            return ConvBlock(norm, *arguments)

        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(3, 2, padding=p)

        def chain(*modules: nn.Module) -> nn.Sequential:
            return nn.Sequential(*modules)

        self.conv2d_1a = conv(3, 32, 3, 2, p)
        self.conv2d_2a = conv(32, 32, 3, 1, p)
        self.conv2d_2b = conv(32, 64, 3, 1, 1)
        self.maxpool_3a = pool()
        self.conv2d_3b = conv(64, 80, 1)
        self.conv2d_4a = conv(80, 192, 3, 1, p)
        stem = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a")
        self.add_stage("stem", stem, 192, 4)
        if "block35" in self.stages:
            self.maxpool_5a = pool()
            self.mixed_5b = Branches(
                [
                    conv(192, 96, 1),
                    chain(conv(192, 48, 1), conv(48, 64, 5, 1, 2)),
                    chain(conv(192, 64, 1), conv(64, 96, 3, 1, 1), conv(96, 96, 3, 1, 1)),
                    chain(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), conv(192, 64, 1)),
                ]
            )
            self.repeat = chain(
                *(
                    ResidualBlock(
                        [
                            conv(320, 32, 1),
                            chain(conv(320, 32, 1), conv(32, 32, 3, 1, 1)),
                            chain(conv(320, 32, 1), conv(32, 48, 3, 1, 1), conv(48, 64, 3, 1, 1)),
                        ],
                        128,
                        320,
                        hyper.scales[0],
                    )
                    for _ in range(hyper.depths[0])
                )
            )
            self.add_stage("block35", ("maxpool_5a", "mixed_5b", "repeat"), 320, 8)
        if "block17" in self.stages:
            self.mixed_6a = Branches(
                [
                    conv(320, 384, 3, 2, p),
                    chain(conv(320, 256, 1), conv(256, 256, 3, 1, 1), conv(256, 384, 3, 2, p)),
                    pool(),
                ]
            )
            self.repeat_1 = chain(
                *(
                    ResidualBlock(
                        [
                            conv(1088, 192, 1),
                            chain(
                                conv(1088, 128, 1), conv(128, 160, (1, 7), 1, (0, 3)), conv(160, 192, (7, 1), 1, (3, 0))
                            ),
                        ],
                        384,
                        1088,
                        hyper.scales[1],
                    )
                    for _ in range(hyper.depths[1])
                )
            )
            self.add_stage("block17", ("mixed_6a", "repeat_1"), 1088, 16)
        if "block8" in self.stages:
            self.mixed_7a = Branches(
                [
                    chain(conv(1088, 256, 1), conv(256, 384, 3, 2, p)),
                    chain(conv(1088, 256, 1), conv(256, 288, 3, 2, p)),
                    chain(conv(1088, 256, 1), conv(256, 288, 3, 1, 1), conv(288, 320, 3, 2, p)),
                    pool(),
                ]
            )

            def block8(scale: float, relu: bool = True) -> ResidualBlock:
                three = chain(conv(2080, 192, 1), conv(192, 224, (1, 3), 1, (0, 1)), conv(224, 256, (3, 1), 1, (1, 0)))
                return ResidualBlock([conv(2080, 192, 1), three], 448, 2080, scale, relu)

            self.repeat_2 = chain(*(block8(hyper.scales[2]) for _ in range(hyper.depths[2] - 1)))
            self.block8 = block8(1.0, relu=False)
            self.conv2d_7b = conv(2080, 1536, 1)
            self.add_stage("block8", ("mixed_7a", "repeat_2", "block8", "conv2d_7b"), 1536, 32)
        self.add_head(1536)


# --- the layouts ---


@functools.cache
def _pytorchcv() -> dict[str, str]:
    """The paths of our layers with weights -> pytorchcv's."""
    network = skeleton(find_spec("inception_resnet_v2"))
    stem = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a")
    blocks = {path: f"features.init_block.conv{number}" for number, path in enumerate(stem, 1)}
    blocks["conv2d_7b"] = "features.final_conv"
    units = {"mixed_5b": "features.init_block.block"}
    for stage, before, path in ((1, None, "repeat"), (2, "mixed_6a", "repeat_1"), (3, "mixed_7a", "repeat_2")):
        members = [before] if before else []
        members += [f"{path}.{number}" for number in range(len(network.get_submodule(path)))]
        members += ["block8"] if path == "repeat_2" else []
        units |= {member: f"features.stage{stage}.unit{number}" for number, member in enumerate(members, 1)}
    layers = {"classif": "output.fc"}
    for path, module in network.named_modules():
        unit, inside, place = path.partition(".branch")
        if inside and isinstance(module, ConvBlock):
            branch, _, number = place.partition(".")
            alone = (not number and unit != "mixed_6a") or (unit, branch) == ("mixed_5b", "3")
            inner = "conv" if alone else f"conv_list.conv{int(number or 0) + 1}"
            blocks[path] = f"{units[unit]}.branches.branch{int(branch) + 1}.{inner}"
        elif isinstance(module, ResidualBlock):
            layers[f"{path}.conv2d"] = f"{units[path]}.conv"
    for ours, theirs in blocks.items():
        layers |= {f"{ours}.{layer}": f"{theirs}.{layer}" for layer in ("conv", "bn")}
    return layers


def _refuse(row: Spec, shape: NetworkShape, se: Mapping) -> str:
    return "it has squeeze-and-excitation, for which there is no place" if shape.has_se else ""


def _timm_facts(file: FileSays) -> Facts:
    # timm has none with SE: such a file is one of our own, without word of its images.
    return Facts() if has_gates(file.names) else Facts(preprocessing=INCEPTION_RGB, basis="published")


LAYOUTS = (
    Layout(
        "timm",
        r"^mixed_5b\.branch0\.conv\.",
        from_ours=without_gates("timm's Inception-ResNet", unchanged),
        refuse=_refuse,
        facts=_timm_facts,
    ),
    Layout(
        "pytorchcv",
        r"^features\.init_block\.block\.branches\.",
        lambda names: by_layer(inverse(_pytorchcv()))(names),
        without_gates("pytorchcv's Inception-ResNet", lambda names: by_layer(_pytorchcv())(names)),
        refuse=_refuse,
    ),
)


# --- the rows ---

# Table 2 of the SE paper, thousand millions of multiply-adds at 299 pixels. 48 variants of the stem, the depths, the
# last convolution and the padding were counted: none gives these figures.
ROWS = (
    Spec("inception_resnet_v2", FAMILY_NAME, InceptionResNetHyper(), image_size=299, paper_gflops=11.75),
    Spec("se_inception_resnet_v2", FAMILY_NAME, InceptionResNetHyper(), SEConfig(), image_size=299, paper_gflops=11.76),
)

register(
    Family(
        FAMILY_NAME,
        ROWS,
        InceptionResNet,
        LAYOUTS,
        published={"inception_resnet_v2": "timm://inception_resnet_v2.tf_in1k"},
    )
)
