"""What network a set of tensors is, told from names and shapes alone."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.layout import NetworkShape
from se_backbones.registry import Family, Spec, find_spec, shapes_of, skeleton
from se_backbones.weights.layouts import GATE_TENSOR, recognise

# A normalisation may have them or not: GroupNorm and folded files have none.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class RowShape(NetworkShape):
    """A network whose family describes it by nothing but its rows.

    Attributes:
        rows: the names of the rows whose tensors these are, as far as they go.
    """

    rows: tuple[str, ...]

    def __str__(self) -> str:
        se = f" with {self.se_text()}" if self.has_se else ""
        alike = [name for name in self.rows if bool(find_spec(name).se) == self.has_se]
        return f"the tensors of {' or '.join(alike or self.rows)}{se}"


def describe(state_dict: Mapping[str, Tensor], family: Family | None = None) -> NetworkShape | None:
    """Reads a network's shape from tensors under our names (a backbone, not a detector).

    Args:
        family: whose network it is; found by the names where it is not given.

    Returns:
        None where the tensors are not those of a family's network.
    """
    if family is None:
        try:
            family, _ = recognise(state_dict)
        except WeightsError:
            return None
    shapes = shapes_of(state_dict)
    return family.describe(shapes) if family.describe else _by_rows(shapes, family)


def same_network(row: Spec, shape: NetworkShape | None, family: Family) -> bool:
    """Whether a row of the table has these tensors, as far as they go.

    SE does not count: it may have been put in, or taken out. Nor do stages that were never built.
    """
    if shape is None:
        return False
    return family.same_network(row, shape) if family.same_network else row.name in shape.rows


def _by_rows(shapes: Shapes, family: Family) -> RowShape | None:
    fitting = [row for row in family.rows if _fits(row, shapes, family)]
    if not fitting:
        return None
    network = skeleton(fitting[0])
    present = {network.stage_of(name) for name in shapes}
    stages = list(dict.fromkeys(site.stage for site in network.se_sites()))
    hidden: dict[str, int] = {}
    channels: dict[str, int] = {}
    without = []
    for site in network.se_sites():
        if gate := shapes.get(f"{site.path}.se.fc1.weight"):
            hidden.setdefault(site.stage, gate[0])
            channels.setdefault(site.stage, gate[1])
        elif site.stage in present:
            without.append(site)
    head = shapes.get(f"{network.head_path}.weight")
    return RowShape(
        se_hidden=tuple(hidden.get(stage) for stage in stages),
        se_channels=tuple(channels.get(stage) for stage in stages),
        se_bias=any(name.endswith(".se.fc1.bias") for name in shapes) if hidden else None,
        se_without=tuple(site.path for site in without if site.stage in hidden),
        num_classes=head[0] if head else 0,
        complete=present >= set(network.stages),
        rows=tuple(row.name for row in fitting),
    )


def _fits(row: Spec, shapes: Shapes, family: Family) -> bool:
    """Whether the tensors of the stages that are there are the row's, all of them and no others, and the gates stand
    where the row has sites. Biases that the family puts into a normalisation may be there too."""
    network, ours = skeleton(row), _weights_of(row)
    present = set()
    for name, shape in shapes.items():
        if gate := GATE_TENSOR.match(name):
            if (gate[1] or "") not in ours.sites:
                return False
        elif name in ours.shapes:
            if shape != ours.shapes[name]:
                return False
            present.add(ours.stages[name])
        elif network.stage_of(name) and not name.endswith(_STATISTICS) and name not in family.bias_norms:
            return False
    return bool(present) and all(name in shapes for name, stage in ours.stages.items() if stage in present)


@dataclass(frozen=True)
class _Weights:
    """A plain network's tensors but for statistics and what is behind its last map: shapes and stages by name; and the
    paths of its sites."""

    shapes: dict[str, tuple[int, ...]]
    stages: dict[str, str]
    sites: frozenset[str]


@functools.lru_cache(maxsize=256)
def _weights_of(row: Spec) -> _Weights:
    network = skeleton(row)
    shapes = {n: shape for n, shape in shapes_of(network.state_dict()).items() if not n.endswith(_STATISTICS)}
    stages = {name: stage for name in shapes if (stage := network.stage_of(name))}
    return _Weights(
        {name: shapes[name] for name in stages}, stages, frozenset(site.path for site in network.se_sites())
    )


def candidates(state_dict: Mapping[str, Tensor], family: Family, known: Mapping[str, Any] | None) -> list[Spec]:
    """The rows whose tensors these are, SE or plain as the tensors are, that agree with what is known beside them.

    Args:
        known: values of the settings that tensors do not show, as in ``Facts.hyper``; None: each at its default.
    """
    shape = describe(state_dict, family)
    return [row for row in _of_this_shape(shape, family) if _agrees(row, family, known)]


def _of_this_shape(shape: NetworkShape | None, family: Family) -> list[Spec]:
    if shape is None or not shape.complete:
        return []
    return [row for row in family.rows if same_network(row, shape, family) and bool(row.se) == shape.has_se]


def _agrees(row: Spec, family: Family, known: Mapping[str, Any] | None) -> bool:
    if known is None:
        known = {f.name: f.default for f in fields(row.hyper) if f.default is not MISSING}
    return all(
        known.get(name) is None or known[name] == getattr(row.hyper, name)
        for name, matters in family.unmarked.items()
        if matters(row)
    )


def _nearest(names: Collection[str], rows: list[Spec]) -> list[str]:
    """Of rows that could all take the tensors, those with a place for most of them: biases that one has, and another
    puts into a normalisation."""
    places = {row.name: len(skeleton(row).state_dict().keys() & names) for row in rows}
    return [name for name, held in places.items() if held == max(places.values())]


def guess_architecture(
    state_dict: Mapping[str, Tensor], known: Mapping[str, Any] | None = None, family: Family | None = None
) -> str:
    """The name in ``list_backbones()`` of the network whose tensors these are.

    Tensors do not show everything (where a stride is, how a stem pools); the layout does (``Facts``).

    Args:
        state_dict: under our names.
        known: what is known beside the tensors, as in ``Facts.hyper``; None: every such setting has its usual value.
        family: whose network it is; found by the names where it is not given.

    Raises:
        WeightsError: no row of the table has this shape, or several do and what would decide is unknown.
    """
    if family is None:
        family, _ = recognise(state_dict)
    shape = describe(state_dict, family)
    if shape is None:
        raise WeightsError(f"these tensors are not those of a network of the family {family.name}")
    rows = _of_this_shape(shape, family)
    if not rows:
        raise WeightsError(f"no network of list_backbones() has this shape: {shape}")
    fitting = _nearest(state_dict, [row for row in rows if _agrees(row, family, known)])
    if len(fitting) == 1:
        return fitting[0]
    settings = ", ".join(family.unmarked)
    if fitting:
        raise WeightsError(
            f"these tensors fit {' and '.join(fitting)}, which differ in what tensors do not show ({settings}): the "
            "architecture must be named"
        )
    stated = ", ".join(f"{name}={value}" for name, value in (known or {}).items())
    raise WeightsError(
        f"these tensors have the shape of {' and '.join(row.name for row in rows)}, but their layout is "
        f"that of a network with {stated}, which the table does not have"
    )
