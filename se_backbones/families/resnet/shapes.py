"""What residual network a set of tensors is, told from names and shapes alone, and what tells two of them apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from se_backbones.layout import NetworkShape
from se_backbones.registry import Spec


@dataclass(frozen=True)
class ResNetShape(NetworkShape):
    """A residual network as its tensors show it.

    Attributes:
        depths: residual units in res2 … res5; 0 where a stage is missing.
        bottleneck, groups, width_per_group, deep_stem: as in ResNetHyper.
        pooled_shortcut: the shortcut's convolution is its second module: an average-pool comes before it.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    groups: int
    width_per_group: int
    deep_stem: bool
    pooled_shortcut: bool

    def __str__(self) -> str:
        kind = "bottleneck" if self.bottleneck else "basic"
        parts = [f"{kind} units {list(self.depths)}"]
        if self.groups > 1 or self.width_per_group != 64:
            parts.append(f"groups {self.groups} × {self.width_per_group}")
        if self.deep_stem:
            parts.append("a stem of three 3×3 convolutions")
        if self.pooled_shortcut:
            parts.append("an average-pool on the shortcuts")
        if self.has_se:
            parts.append(self.se_text())
        return ", ".join(parts)


def describe(shapes: Mapping[str, tuple[int, ...]]) -> ResNetShape | None:
    """Reads a network's shape from its tensors' shapes under our names.

    Returns:
        None where the names are not those of a residual network.
    """
    first = shapes.get("layer1.0.conv2.weight")
    if first is None or len(first) != 4:
        return None
    units: list[set[int]] = [set() for _ in range(4)]
    for name in shapes:
        if found := re.match(r"layer([1-4])\.(\d+)\.", name):
            units[int(found[1]) - 1].add(int(found[2]))
    bottleneck = "layer1.0.conv3.weight" in shapes
    groups = 1
    if bottleneck:
        # conv2 is (width, width / groups, 3, 3) behind a first 1×1 of `before` channels.
        before = shapes.get("layer1.0.conv1.weight", first)[0]
        groups = max(before // max(first[1], 1), 1)
    hidden, channels, without = [], [], []
    for layer, indices in enumerate(units, 1):
        gates = {index: shapes.get(f"layer{layer}.{index}.se.fc1.weight") for index in sorted(indices)}
        shape = next((shape for shape in gates.values() if shape), None)
        hidden.append(shape[0] if shape else None)
        channels.append(shape[1] if shape else None)
        without += [f"layer{layer}.{index}" for index, gate in gates.items() if shape and not gate]
    has_se = any(hidden)
    fc = shapes.get("fc.weight")
    return ResNetShape(
        complete=all(units),
        depths=tuple(len(indices) for indices in units),
        bottleneck=bottleneck,
        groups=groups,
        width_per_group=first[0] // groups if bottleneck else 64,
        deep_stem="conv1.0.weight" in shapes or "stem.0.weight" in shapes or "stem.conv1_1.weight" in shapes,
        se_hidden=tuple(hidden),
        se_channels=tuple(channels),
        se_bias=any(".se.fc1.bias" in name for name in shapes) if has_se else None,
        pooled_shortcut=len(shapes.get("layer2.0.downsample.1.weight", ())) == 4,
        num_classes=fc[0] if fc else 0,
        se_without=tuple(without),
    )


def same_network(row: Spec, shape: ResNetShape) -> bool:
    """Whether a row of the table has these tensors, as far as they go.

    SE does not count: it may have been put in, or taken out. Nor do stages that were never built.
    """
    hyper = row.hyper
    return (
        all(units in (0, of_row) for units, of_row in zip(shape.depths, hyper.depths, strict=True))
        and hyper.bottleneck == shape.bottleneck
        and hyper.groups == shape.groups
        and (not hyper.bottleneck or hyper.width_per_group == shape.width_per_group)
        and hyper.deep_stem == shape.deep_stem
        and not shape.pooled_shortcut
    )


def rounded_hidden(channels: int, divisor: int = 8) -> int:
    """The SE width C/16 rounded to the nearest multiple of ``divisor``, and at least that, as timm does."""
    return max(divisor, int(channels / 16 + divisor / 2) // divisor * divisor)


def explain(theirs: ResNetShape, ours: ResNetShape) -> Iterator[str]:
    """What tells the file's network and the model's apart."""
    if theirs.has_se and theirs.se_hidden != ours.se_hidden and ours.has_se and theirs.reduction == (8, 16, 16, 16):
        yield "timm rounds the widths of the excitation layers to multiples of 8"
    if theirs.deep_stem != ours.deep_stem:
        yield (
            "the stems differ: one is a 7×7 convolution and the other three 3×3 (timm's d, t, s and c "
            "variants, SENet-154)"
        )
    if theirs.pooled_shortcut:
        yield (
            "the file's shortcuts have an average-pool (timm's d variants), which no network of list_backbones() has"
        )
    for name in ("depths", "bottleneck", "groups", "width_per_group"):
        a, b = getattr(theirs, name), getattr(ours, name)
        if a != b:
            yield f"{name} is {a} in the file and {b} in the model: another network ({theirs})"
