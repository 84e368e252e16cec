"""VGG-16 with batch normalisation (Simonyan and Zisserman, arXiv 1409.1556), a gate behind each ReLU (SE paper, 3.3).

In front of a normalisation a convolution's bias changes nothing, and the SE paper's figures tell nothing of it: there
are rows without and with. Those without take the weights of a network with biases too, which go into the running means.
Parameter names are torchvision's.

    torchvision  features.0.weight, features.1.running_mean, classifier.0.weight  vgg16_bn; ours, with SE too
    timm         the same features, pre_logits.fc1.weight, head.fc.weight         vgg16_bn
    pytorchcv    features.stage1.unit1.conv.weight, output.fc1.fc.weight          bn_vgg16, without biases; bn_vgg16b

timm runs the classifier over every 7×7 places of a larger map and takes the mean of the logits; here, as in
torchvision, a map of another size is averaged to 7×7 places first. At 224 pixels both are the same.

Sources of the facts: torchvision 0.29 (transforms of VGG16_BN_Weights), timm 1.0 (``default_cfgs`` of vgg16_bn),
pytorchcv 0.0.74 (README: the usual normalisation for all networks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from se_backbones.backbone import Absorber, Backbone, SEOwner, SESite
from se_backbones.layers.norm import make_norm
from se_backbones.layout import Facts, FileSays, Layout, NetworkShape, unchanged
from se_backbones.preprocessing import IMAGENET_RGB
from se_backbones.registry import Family, Spec, register
from se_backbones.renaming import by_layer, has_gates, inverse, without_gates, zero_biases
from se_backbones.se import SEConfig

FAMILY_NAME = "vgg"
_SIDE = 7  # of the map that the classifier takes


@dataclass(frozen=True)
class VGGHyper:
    """What a VGG is, but for its SE.

    Attributes:
        widths: channels of the convolutions of each stage.
        conv_bias: the convolutions have biases, as in torchvision's vgg16_bn, which the normalisations behind make
            superfluous.
        hidden: channels of the classifier's two hidden layers.
        dropout: probability behind each of them. The VGG paper trains with 0.5 (section 3.1).
    """

    widths: tuple[tuple[int, ...], ...] = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    conv_bias: bool = False
    hidden: int = 4096
    dropout: float = 0.5


class GatedReLU(SEOwner):
    """ReLU, and the gate behind it."""

    def __init__(self):
        super().__init__()
        self.register_module("se", None)

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
                self.features.append(GatedReLU())
                channels = width
            self.features.append(nn.MaxPool2d(2, 2))
            paths = [f"features.{number}" for number in range(begin, len(self.features))]
            self.add_stage(name, paths, channels, 2 ** (index + 1))
        if num_classes > 0:
            self.avgpool = nn.AdaptiveAvgPool2d(_SIDE)
            self.classifier = nn.Sequential(
                nn.Linear(channels * _SIDE**2, hyper.hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(hyper.dropout),
                nn.Linear(hyper.hidden, hyper.hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(hyper.dropout),
                nn.Linear(hyper.hidden, num_classes),
            )

    def initialise(self, zero_init_last: bool) -> None:
        super().initialise(zero_init_last)
        if self.num_classes == 0 or self.head.weight.is_meta:
            return
        for layer in (self.classifier[0], self.classifier[3]):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def gate_channels(self, site: SESite, placement: str) -> int:
        return self._norm_before(site).weight.numel()

    def absorbers(self, site: SESite, placement: str) -> tuple[Absorber, ...] | str:
        # The ReLU behind the normalisation passes factors of 0 or more.
        return (Absorber(self._norm_before(site), positive=True, name="the normalisation before it"),)

    def _norm_before(self, site: SESite) -> nn.Module:
        """The normalisation right before a site's ReLU."""
        return self.features[int(site.path.rpartition(".")[2]) - 1]

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        # Recomputed as a whole: its modules are too small to gain anything by themselves.
        modules = [self.get_submodule(path) for path in self.stage_paths[name]]
        return self.run_block(nn.Sequential(*modules), x) if self.recompute else _chain(modules, x)

    def pool(self, x: Tensor) -> Tensor:
        """The last map (N, 512, h, w) → what the classifier's first layer takes, (N, 512 * 7 * 7)."""
        return self.avgpool(x).flatten(1)

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(x))


def _chain(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


# --- the layouts ---


def _convolutions() -> Iterator[tuple[int, int, int]]:
    """(stage and unit, from 1 on, index in ``features``) of each convolution, first to last."""
    index = 0
    for stage, widths in enumerate(VGGHyper.widths, 1):
        for unit in range(1, len(widths) + 1):
            yield stage, unit, index
            index += 3
        index += 1


BIASES = {f"features.{index}.bias": f"features.{index + 1}.running_mean" for _, _, index in _convolutions()}
_HIDDEN_WEIGHTS = ("classifier.0.weight", "classifier.3.weight")
_TIMM = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
_PYTORCHCV = {"output.fc1.fc": "classifier.0", "output.fc2.fc": "classifier.3", "output.fc3": "classifier.6"}
for _stage, _unit, _index in _convolutions():
    _PYTORCHCV[f"features.stage{_stage}.unit{_unit}.conv"] = f"features.{_index}"
    _PYTORCHCV[f"features.stage{_stage}.unit{_unit}.bn"] = f"features.{_index + 1}"


def _refuse(row: Spec, shape: NetworkShape, se: Mapping) -> str:
    return "it has squeeze-and-excitation, for which there is no place" if shape.has_se else ""


def _facts(file: FileSays) -> Facts:
    # With gates, or without biases, it is one of our own networks, without word of its images.
    published = BIASES.keys() & set(file.shapes) and not has_gates(file.names)
    return Facts(preprocessing=IMAGENET_RGB, basis="published") if published else Facts()


def _timm_tensor(name: str, tensor: Tensor) -> Tensor:
    """timm keeps the hidden layers as convolutions: 7×7, and 1×1."""
    if name == "classifier.0.weight":
        return tensor.unflatten(1, (-1, _SIDE, _SIDE))
    return tensor[:, :, None, None] if name == "classifier.3.weight" else tensor


LAYOUTS = (
    Layout(
        "timm",
        r"^pre_logits\.fc1\.",
        by_layer(_TIMM),
        without_gates("timm's VGG", by_layer(inverse(_TIMM))),
        refuse=_refuse,
        facts=_facts,
        tensor_to_ours=lambda name, tensor: tensor.flatten(1) if name in _HIDDEN_WEIGHTS else tensor,
        tensor_from_ours=_timm_tensor,
        added=zero_biases(BIASES),
    ),
    Layout(
        "pytorchcv",
        r"^features\.stage1\.unit1\.conv\.weight$",
        by_layer(_PYTORCHCV),
        without_gates("pytorchcv's VGG", by_layer(inverse(_PYTORCHCV))),
        refuse=_refuse,
        facts=lambda file: Facts(preprocessing=IMAGENET_RGB, basis="published"),
    ),
    Layout(
        "torchvision",
        r"^features\.1\.weight$",
        from_ours=without_gates("torchvision's VGG", unchanged),
        refuse=_refuse,
        facts=_facts,
        added=zero_biases(BIASES),
    ),
)


# --- the rows ---


def rows() -> Iterator[Spec]:
    """Without and with biases; a plain network stands before its twin."""
    for name, hyper in (("vgg16", VGGHyper()), ("vgg16_conv_bias", VGGHyper(conv_bias=True))):
        # Table 2 of the SE paper, thousand millions of multiply-adds. A bias adds none.
        yield Spec(name, FAMILY_NAME, hyper, paper_gflops=15.47)
        yield Spec(f"se_{name}", FAMILY_NAME, hyper, SEConfig(), paper_gflops=15.48)


register(
    Family(
        FAMILY_NAME,
        tuple(rows()),
        VGG,
        LAYOUTS,
        # One network for both: a bias in front of a normalisation changes nothing.
        published={"vgg16": "torchvision://vgg16_bn", "vgg16_conv_bias": "torchvision://vgg16_bn"},
        bias_norms=BIASES,
    )
)
