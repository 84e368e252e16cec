"""The table of networks. A family is registered once; ``create_backbone`` is the way to a network of the table."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from se_backbones.backbone import Backbone
from se_backbones.layout import Layout, LookAlike
from se_backbones.se import SEConfig
from se_backbones.widths import Width, narrow


@dataclass(frozen=True)
class Spec:
    """One row of the table: a network, without the choices of the one who uses it (normalisation, freezing).

    Attributes:
        name: its name in ``create_backbone``.
        family: the name of its family.
        hyper: the family's settings, a frozen dataclass with at least ``dropout``, the probability before the
            classifier.
        se: the SE settings; None is the plain network.
        num_classes: of the data set that it was made for, the default of ``create_backbone``.
        image_size: side in pixels of the images at which its cost is quoted.
        paper_gflops: thousand millions of multiply-adds at that size in the paper's table 2, or None.
        paper_parameters: millions, as the paper quotes them, or None.
        widths: layers that have fewer channels than the family gives them, of a pruned network: (path, output channels,
            input channels) of convolutions, linear layers and normalisations. No row of the table has any.
    """

    name: str
    family: str
    hyper: Any
    se: SEConfig | None = None
    num_classes: int = 1000
    image_size: int = 224
    paper_gflops: float | None = None
    paper_parameters: float | None = None
    widths: tuple[Width, ...] = ()

    def with_se(self, se: SEConfig | None) -> Spec:
        """The row with other SE settings, resolved for its network.

        Raises:
            ValueError: stages, sites or reductions that the network does not have.
        """
        return replace(self, se=None if se is None else se.resolved(self.sites()))

    def sites(self) -> tuple[tuple[str, str], ...]:
        """(path, stage) of every place of the whole network that can carry a gate, first to last."""
        return tuple((site.path, site.stage) for site in skeleton(self).se_sites())

    def matches(self, hyper: Any) -> bool:
        """Whether another network's settings are the same but for the dropout, which is no part of a network."""
        return replace(self.hyper, dropout=hyper.dropout) == hyper


@dataclass(frozen=True)
class Family:
    """Networks that are built by one piece of code.

    Attributes:
        name: of the family, as in ``Spec.family``.
        rows: its networks.
        network: the class; called with (spec, num_classes, out_features, norm, last_dilation).
        layouts: the forms in which its weights come. The first that recognises a file is its layout.
        published: a row's name -> the named source of its ImageNet weights.
        unmarked: settings that leave no mark on a tensor -> whether they matter for a row; compared wherever weights
            are taken.
        look_alikes: others' networks under the names and shapes of its rows.
        releases: how the sha256 of released files begin that are known to be of a row -> its name.
        bias_norms: names of convolution biases that a file may have and the network has not -> the name of the
            running mean of the normalisation behind, which takes them up.
        detector_parts: where a stage lies in a detector that keeps it in its heads -> its path in the network.
        describe: tensors' shapes under our names -> the network they are of (``weights.shapes.NetworkShape``), None
            where they are none of this family; None in its place: a row is found by comparing names and shapes.
        same_network: (row, described network) -> whether they are one, for ``describe``.
        explain: (the file's shapes, the model's) -> sentences on what tells them apart, for a load that failed.
    """

    name: str
    rows: tuple[Spec, ...]
    network: type[Backbone]
    layouts: tuple[Layout, ...]
    published: Mapping[str, str] = field(default_factory=dict)
    unmarked: Mapping[str, Callable[[Spec], bool]] = field(default_factory=dict)
    look_alikes: tuple[LookAlike, ...] = ()
    releases: Mapping[str, str] = field(default_factory=dict)
    bias_norms: Mapping[str, str] = field(default_factory=dict)
    detector_parts: Mapping[str, str] = field(default_factory=dict)
    describe: Callable[[Mapping[str, tuple[int, ...]]], Any] | None = None
    same_network: Callable[[Spec, Any], bool] | None = None
    explain: Callable[[Any, Any], Iterator[str]] = lambda theirs, ours: iter(())

    def layout(self, name: str) -> Layout | None:
        """Its layout of this name, or None."""
        return next((layout for layout in self.layouts if layout.name == name), None)


_FAMILIES: dict[str, Family] = {}
_SPECS: dict[str, Spec] = {}


def register(family: Family) -> None:
    """Makes a family's networks known. Raises ValueError where a name is taken."""
    _register_own()
    if family.name in _FAMILIES:
        raise ValueError(f"a family {family.name!r} is registered already")
    for row in family.rows:
        if row.name in _SPECS:
            raise ValueError(f"a backbone {row.name!r} is registered already, by {_SPECS[row.name].family}")
        if row.family != family.name:
            raise ValueError(f"the row {row.name} says that its family is {row.family}, and not {family.name}")
    _FAMILIES[family.name] = family
    _SPECS.update((row.name, row) for row in family.rows)


def families() -> tuple[Family, ...]:
    """All families, as they were registered."""
    _register_own()
    return tuple(_FAMILIES.values())


def family_of(spec: Spec) -> Family:
    """The family of a row."""
    _register_own()
    return _FAMILIES[spec.family]


def list_backbones(pretrained: bool = False) -> list[str]:
    """The names that ``create_backbone`` knows; with ``pretrained`` those whose ImageNet weights are published."""
    _register_own()
    return [name for name, spec in _SPECS.items() if not pretrained or name in _FAMILIES[spec.family].published]


def find_spec(name: str) -> Spec:
    """The row of a name. Raises ValueError for an unknown one, with the nearest names."""
    _register_own()
    if name not in _SPECS:
        near = difflib.get_close_matches(name, _SPECS, n=3, cutoff=0.4)
        hint = f"the nearest names are {', '.join(near)}" if near else "list_backbones() names them"
        raise ValueError(f"no backbone is called {name!r}; {hint}")
    return _SPECS[name]


def _register_own() -> None:
    """The package's own families register themselves when they are imported."""
    importlib.import_module("se_backbones.families")


def twin_name(spec: Spec, se: bool) -> str | None:
    """The name of the row that is the same network with SE, or without it; None where the table has none.

    ``se_resnet50`` is the twin of ``resnet50``; ``resnet50_msra`` and ``se_resnet50_caffe`` have none.
    """
    for row in family_of(spec).rows:
        if bool(row.se) == se and row.matches(spec.hyper):
            return row.name
    return None


def skeleton(spec: Spec) -> Backbone:
    """The whole plain network of a row, as wide as the family builds it, with its classifier and without memory for its
    tensors: for shapes, sites and stages. Not to be changed: it is kept."""
    return _skeleton(spec.family, spec.hyper, spec.num_classes)


@functools.lru_cache(maxsize=256)
def _skeleton(family: str, hyper: Any, num_classes: int) -> Backbone:
    spec = Spec("", family, hyper)
    network = _FAMILIES[family].network
    with torch.device("meta"):
        return network(spec, num_classes, out_features=network.stages, norm="BN", last_dilation=1)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def build(
    spec: Spec,
    num_classes: int,
    *,
    out_features: Sequence[str],
    norm: str,
    last_dilation: int = 1,
    zero_init_last: bool = False,
) -> Backbone:
    """The network of a row, with the SE settings and widths in it, freshly initialised.

    It checks nothing: ``create_backbone`` is what users call, and says what the arguments are. ``spec.se`` must be
    ``resolved``.

    Raises:
        ValueError: widths or SE settings that the network cannot have.
    """
    network_class = family_of(spec).network
    network = network_class(spec, num_classes, out_features=out_features, norm=norm, last_dilation=last_dilation)
    if spec.widths:
        narrow(network, spec.widths, skeleton(spec))
    network.initialise(zero_init_last)
    for site in network.se_sites() if spec.se else ():
        if spec.se.at(site.path, site.stage):
            site.attach(spec.se)
    return network
