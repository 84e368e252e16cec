"""What network a set of tensors is, told from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from se_backbones.families.resnet.table import ARCHITECTURES, Architecture
from se_backbones.weights.errors import WeightsError


@dataclass(frozen=True)
class NetworkShape:
    """A residual network as its tensors show it.

    Attributes:
        depths: residual units in res2 … res5; 0 where a stage is missing.
        bottleneck, groups, width_per_group, deep_stem: as in Architecture.
        se_hidden: channels between the two excitation layers, for res2 … res5; None where the stage has no
            SE.
        se_channels: channels of the gate, for res2 … res5; None where the stage has no SE.
        se_without: the units without SE of the stages that have it, ``layer4.2``, as in SEConfig.without.
        se_bias: whether the excitation layers have biases; None without SE.
        pooled_shortcut: the shortcut's convolution is its second module: an average-pool comes before it.
        num_classes: outputs of ``fc``; 0 where there is none.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    groups: int
    width_per_group: int
    deep_stem: bool
    se_hidden: tuple[int | None, ...]
    se_channels: tuple[int | None, ...]
    se_bias: bool | None
    pooled_shortcut: bool
    num_classes: int
    se_without: tuple[str, ...] = ()

    @property
    def has_se(self) -> bool:
        return any(self.se_hidden)

    @property
    def reduction(self) -> int | tuple[int, ...] | None:
        """The SEConfig.reduction that gives these widths: one integer, or one a stage; None without SE."""
        ratios = [c // h if h else None for c, h in zip(self.se_channels, self.se_hidden, strict=True)]
        known = [ratio for ratio in ratios if ratio]
        if not known:
            return None
        if len(set(known)) == 1:
            return known[0]
        return tuple(ratio or 16 for ratio in ratios)

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
            bias = "" if self.se_bias else ", bias=False"
            without = f", without={self.se_without}" if self.se_without else ""
            parts.append(f"SEConfig(reduction={self.reduction}{bias}{without})")
        return ", ".join(parts)


def describe(state_dict: Mapping[str, Tensor]) -> NetworkShape | None:
    """Reads a network's shape from tensors under our names (a backbone, not a detector).

    Returns:
        None where the names are not those of a residual network.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
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
    return NetworkShape(
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


def same_network(row: Architecture, shape: NetworkShape | None) -> bool:
    """Whether a row of the table has these tensors, as far as they go.

    SE does not count: it may have been put in, or taken out. Nor do stages that were never built.
    """
    return shape is not None and (
        all(units in (0, of_row) for units, of_row in zip(shape.depths, row.depths, strict=True))
        and row.bottleneck == shape.bottleneck
        and row.groups == shape.groups
        and (not row.bottleneck or row.width_per_group == shape.width_per_group)
        and row.deep_stem == shape.deep_stem
        and not shape.pooled_shortcut
    )


def _fits(row: Architecture, shape: NetworkShape) -> bool:
    return same_network(row, shape) and row.depths == shape.depths and bool(row.se) == shape.has_se


def guess_architecture(
    state_dict: Mapping[str, Tensor], *, stride_in_1x1: bool | None = False, ceil_pool: bool | None = False
) -> str:
    """The name in ``list_backbones()`` of the network whose tensors these are.

    Tensors show neither where a stride is nor how the stem pools; those come from the layout (``facts.py``).

    Args:
        state_dict: under our names.
        stride_in_1x1, ceil_pool: what is known about the network; None where nothing is. For networks of
            basic units the first makes no difference.

    Raises:
        WeightsError: no row of the table has this shape, or several do and what would decide is unknown.
    """
    shape = describe(state_dict)
    if shape is None:
        raise WeightsError("these tensors are not those of a residual network")
    rows = [row for row in ARCHITECTURES.values() if _fits(row, shape)]
    if not rows:
        raise WeightsError(f"no network of list_backbones() has this shape: {shape}")
    fitting = [
        row.name
        for row in rows
        if (not row.bottleneck or stride_in_1x1 is None or row.stride_in_1x1 == stride_in_1x1)
        and (ceil_pool is None or row.ceil_pool == ceil_pool)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise WeightsError(
            f"these tensors fit {' and '.join(fitting)}, which differ in what tensors do not show (where "
            "the stride is, how the stem pools): the architecture must be named"
        )
    raise WeightsError(
        f"these tensors have the shape of {' and '.join(row.name for row in rows)}, but their layout is "
        f"that of a network with stride_in_1x1={stride_in_1x1}, ceil_pool={ceil_pool}, which the table "
        "does not have"
    )


def rounded_hidden(channels: int, divisor: int = 8) -> int:
    """The SE width C/16 rounded to the nearest multiple of ``divisor``, and at least that, as timm does."""
    return max(divisor, int(channels / 16 + divisor / 2) // divisor * divisor)
