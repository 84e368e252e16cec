"""The network, and the one way to it: ``create_backbone``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from se_backbones.families.resnet.table import ARCHITECTURES, Architecture, find_architecture
from se_backbones.families.resnet.units import BasicUnit, Bottleneck, UnitConfig
from se_backbones.layers.norm import freeze, make_norm
from se_backbones.layers.recompute import recompute
from se_backbones.se import SEConfig

FEATURES = ("stem", "res2", "res3", "res4", "res5")
_KEEP = object()


class FeatureInfo(NamedTuple):
    """Channels of a stage's map, and by how much it is smaller than the image."""

    channels: int
    stride: int


class ResNet(nn.Module):
    """A residual network with the five maps that detectors use, and a classifier where there are classes.

    Built by ``create_backbone``, which documents the arguments.

    Attributes:
        config: the row of the table it was built from, with the SE settings in force.
        feature_info: for each name in ``out_features``, its channels and stride.
    """

    def __init__(
        self,
        config: Architecture,
        num_classes: int,
        *,
        norm: str,
        freeze_at: int,
        out_features: Sequence[str],
        res5_dilation: int,
        zero_init_last: bool,
    ):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        self.recompute_stages = False
        unit = Bottleneck if config.bottleneck else BasicUnit
        stem_channels = 128 if config.deep_stem else 64
        self.conv1, self.bn1 = _make_stem(config.deep_stem, norm)
        self.maxpool = nn.MaxPool2d(3, 2, padding=0 if config.ceil_pool else 1, ceil_mode=config.ceil_pool)
        infos = {"stem": FeatureInfo(stem_channels, 4)}
        channels, stride = stem_channels, 4
        if config.se:
            config.se.check_units(config.depths)
        last = max(FEATURES.index(name) for name in self.out_features)
        self.stage_names = []
        for stage in range(2, last + 2):  # stages behind the last one asked for are not built
            planes = 64 * 2 ** (stage - 2)
            dilation = res5_dilation if stage == 5 else 1
            first_stride = 1 if stage == 2 or dilation > 1 else 2
            common = UnitConfig(
                in_channels=channels,
                planes=planes,
                stride=first_stride,
                dilation=dilation,
                groups=config.groups,
                width_per_group=config.width_per_group,
                stride_in_1x1=config.stride_in_1x1,
                relu_before_se=config.relu_before_se,
                first_1x1_halved=config.first_1x1_halved,
                downsample_kernel=config.downsample_kernel,
                norm=norm,
                reduction=config.se.reduction_of(stage) if config.se else 1,
            )
            channels, stride = planes * unit.expansion, stride * first_stride
            rest = replace(common, in_channels=channels, stride=1)
            units = []
            for index in range(config.depths[stage - 2]):
                se = config.se if config.se and config.se.at(stage, index) else None
                units.append(unit(replace(rest if index else common, se=se)))
            setattr(self, f"layer{stage - 1}", nn.Sequential(*units))
            self.stage_names.append(f"res{stage}")
            infos[f"res{stage}"] = FeatureInfo(channels, stride)
        self.feature_info = {name: infos[name] for name in self.out_features}
        if num_classes > 0:
            self.dropout = nn.Dropout(config.dropout)
            self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init_last)
        self._freeze(freeze_at)

    def _initialise(self, zero_init_last: bool) -> None:
        # He et al., arXiv 1502.01852, fan-out; the excitation layers initialise themselves.
        gates = {fc for unit in self.units() if hasattr(unit, "se") for fc in (unit.se.fc1, unit.se.fc2)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in gates:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.num_classes > 0:  # Goyal et al., arXiv 1706.02677, section 5.1
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)
        if zero_init_last:
            for unit in self.units():
                nn.init.zeros_(unit.last_norm.weight)

    def _freeze(self, freeze_at: int) -> None:
        if freeze_at >= 1:
            self.conv1, self.bn1 = freeze(self.conv1), freeze(self.bn1)
        for name in self.stage_names[: max(freeze_at - 1, 0)]:
            freeze(self.stage(name))

    def stage(self, name: str) -> nn.Sequential:
        """The residual units of ``res2`` … ``res5``."""
        return getattr(self, f"layer{FEATURES.index(name)}")

    def units(self):
        """All residual units, first to last."""
        for name in self.stage_names:
            yield from self.stage(name)

    def named_units(self):
        """All residual units with their names, ``("layer1.0", unit)``, first to last."""
        for name in self.stage_names:
            for index, unit in enumerate(self.stage(name)):
                yield f"layer{FEATURES.index(name)}.{index}", unit

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """The stages' maps.

        Args:
            x: (N, 3, H, W), normalised as the weights want it.

        Returns:
            for each name in ``out_features`` (all five by default) a map (N, C, H/s, W/s) with C and s from
            ``feature_info``, sizes rounded up.
        """
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        features = {"stem": x} if "stem" in self.out_features else {}
        for name in self.stage_names:
            for unit in self.stage(name):
                x = recompute(unit, x) if self.recompute_stages and self.training else unit(x)
            if name in self.out_features:
                features[name] = x
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → logits, (N, num_classes).

        Raises:
            ValueError: the network was built without classes, or without res5.
        """
        if self.num_classes < 1 or "res5" not in self.out_features:
            raise ValueError("this network was built as a feature extractor: call forward_features, or give it classes")
        return self.classify(self.forward_features(x)["res5"])

    def classify(self, res5: Tensor) -> Tensor:
        """res5, (N, C, h, w) → logits, (N, num_classes): global average pooling, dropout, the linear layer."""
        return self.fc(self.dropout(res5.mean((2, 3))))


def _make_stem(deep: bool, norm: str) -> tuple[nn.Module, nn.Module]:
    if not deep:
        return nn.Conv2d(3, 64, 7, 2, 3, bias=False), make_norm(norm, 64)
    convs = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1, bias=False),
        make_norm(norm, 64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, 1, 1, bias=False),
        make_norm(norm, 64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 128, 3, 1, 1, bias=False),
    )
    return convs, make_norm(norm, 128)


def list_backbones() -> list[str]:
    """The names that ``create_backbone`` knows."""
    return list(ARCHITECTURES)


def create_backbone(
    name: str,
    num_classes: int = 1000,
    *,
    se: SEConfig | None = _KEEP,
    norm: str = "BN",
    freeze_at: int = 0,
    out_features: Sequence[str] = FEATURES,
    res5_dilation: int = 1,
    dropout: float | None = None,
    zero_init_last: bool = False,
    recompute_stages: bool = False,
) -> ResNet:
    """Builds a network of the table.

    Args:
        name: one of ``list_backbones()``.
        num_classes: of the classifier; 0 builds none.
        se: SE settings in place of the row's own; None makes the plain network. Given to a plain row, it makes
            its SE twin.
        norm: ``BN``, ``FrozenBN``, ``SyncBN`` or ``GN``.
        freeze_at: how many leading stages are fixed: 0 none, 1 the stem, 2 the stem and res2, … 5 all. A fixed
            BatchNorm becomes a FrozenBatchNorm2d.
        out_features: the maps ``forward_features`` returns, of ``stem, res2, res3, res4, res5``. Stages behind
            the last of them are not built.
        res5_dilation: 1, or 2 for the dilated form (DC5): res5 keeps stride 16.
        dropout: probability before the classifier, in place of the row's own.
        zero_init_last: each residual branch starts at zero (Goyal et al., arXiv 1706.02677, section 5.1).
        recompute_stages: gradient checkpointing: units are computed again in the backward pass and
            need not keep their inner maps. Can be set on the network later.

    Raises:
        ValueError: an unknown name (the message gives the nearest ones) or a value outside those above.
    """
    config = find_architecture(name)
    if not out_features or not set(out_features) <= set(FEATURES):
        raise ValueError(f"out_features must be some of {', '.join(FEATURES)}; got {tuple(out_features)!r}")
    if num_classes > 0 and "res5" not in out_features:
        raise ValueError("a classifier needs res5 among out_features; build with num_classes=0 for features alone")
    if freeze_at not in range(6):
        raise ValueError(f"freeze_at must be 0 (nothing) to 5 (all stages); got {freeze_at!r}")
    if res5_dilation not in (1, 2):
        raise ValueError(f"res5_dilation must be 1 or 2; got {res5_dilation!r}")
    if se is not _KEEP:
        config = replace(config, se=se)
    if dropout is not None:
        config = replace(config, dropout=dropout)
    model = ResNet(
        config,
        num_classes,
        norm=norm,
        freeze_at=freeze_at,
        out_features=out_features,
        res5_dilation=res5_dilation,
        zero_init_last=zero_init_last,
    )
    model.recompute_stages = recompute_stages
    return model
