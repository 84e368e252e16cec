"""The contract that every network keeps: stages, maps, blocks, and the sites that can carry a gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from se_backbones.layers.norm import freeze
from se_backbones.layers.recompute import recompute
from se_backbones.se import SEConfig, SEGate


class FeatureInfo(NamedTuple):
    """Channels of a stage's map, and by how much it is smaller than the image."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Absorber:
    """A layer that can take up a constant factor of a gate.

    Attributes:
        module: a normalisation, a convolution or a linear layer.
        gate: the channels of the gate that this layer takes up; None: all.
        own: the layer's own channels that take them up, as many; None: all.
        side: ``output``, the layer before the gate: weight and bias are multiplied; ``input``, the one behind it:
            the weights of those input channels are.
        positive: a ReLU stands between the layer and the gate, which only a factor of 0 or more passes.
        name: what the layer is, for reports: "its branch's last normalisation".
    """

    module: nn.Module
    gate: slice | None = None
    own: slice | None = None
    side: str = "output"
    positive: bool = False
    name: str = "the layer before it"

    @torch.no_grad()
    def multiply(self, factor: Tensor) -> None:
        """Multiplies the layer's channels. ``factor``: (C,), of all the gate's channels. Exact for powers of two."""
        weight = self.module.weight
        factor = factor[self.gate or slice(None)].to(weight.device, weight.dtype)
        own = self.own or slice(None)
        rest = [1] * (weight.dim() - 2)
        if self.side == "output":
            for tensor in (weight, self.module.bias):
                if tensor is not None:
                    tensor[own].mul_(factor.view(-1, *[1] * (tensor.dim() - 1)))
            return
        channels = weight.new_ones(weight.shape[1] * getattr(self.module, "groups", 1))
        channels[own] = factor
        # A group's filters see its own input channels alone: (groups, out / groups, in / groups, …).
        by_group = weight.unflatten(0, (getattr(self.module, "groups", 1), -1))
        by_group.mul_(channels.view(len(by_group), 1, -1, *rest))


class SEOwner(nn.Module):
    """A module that can carry a gate at one place, named by a placement.

    A subclass registers ``se`` where the gate's parameters are to come among its own, in the order of optimizers
    (``self.register_module("se", None)``), computes with ``self.se`` unless it is None, and names its channels and
    absorbers.

    Attributes:
        placements: the placements that it knows.
        se: the gate, or None.
        placement: the gate's placement; None without a gate.
    """

    placements: tuple[str, ...] = ("standard",)
    se: SEGate | None
    placement: str | None = None

    def gate_channels(self, placement: str) -> int:
        """Channels of a gate at this placement."""
        raise NotImplementedError

    def absorbers(self, placement: str) -> tuple[Absorber, ...] | str:
        """The layers that together can take up a constant gate at this placement, or why there are none."""
        raise NotImplementedError


class SESite:
    """A place in a network that can carry a gate.

    Attributes:
        path: in the network, ``layer4.2``.
        stage: its stage's name, ``res5``.
        owner: the module there.
    """

    def __init__(self, network: Backbone, path: str, stage: str, owner: SEOwner):
        self._network = network
        self.path = path
        self.stage = stage
        self.owner = owner

    @property
    def gate(self) -> SEGate | None:
        return self.owner.se

    @property
    def placement(self) -> str | None:
        return self.owner.placement

    def channels(self, placement: str = "standard") -> int:
        """Channels of a gate here."""
        return self._network.gate_channels(self, placement)

    def attach(self, config: SEConfig) -> SEGate:
        """Gives the owner a gate, freshly initialised, with the type and on the device of its weights.

        Raises:
            ValueError: the network has no such placement here.
        """
        if config.placement not in self.owner.placements:
            raise ValueError(
                f"SE placement {config.placement!r}: a {type(self.owner).__name__} ({self.path}) knows "
                f"{', '.join(self.owner.placements)}"
            )
        beside = next(chain(self.owner.parameters(), self._network.parameters()))
        channels = self.channels(config.placement)
        gate = SEGate(channels, config, config.hidden_of(self.path, self.stage, channels))
        self.owner.se = gate.to(beside.device, beside.dtype)
        self.owner.placement = config.placement
        return gate

    def detach(self) -> None:
        """Takes the gate away. What it did to the maps is lost, see fold_constant_gates."""
        self.owner.se = None
        self.owner.placement = None

    def absorbers(self, placement: str | None = None) -> tuple[Absorber, ...] | str:
        """The layers that can take up a constant gate at this placement (the gate's own by default), or why none."""
        return self._network.absorbers(self, placement or self.placement or "standard")


class Backbone(nn.Module):
    """A network of named stages, with a classifier where there are classes. Built by ``create_backbone``.

    A family's network gives ``stages``, builds in its constructor the stages up to the last one asked for, calling
    ``add_stage`` for each, and ends with ``add_head``. What is done with stages, blocks and sites is written here.

    Attributes:
        spec: its row, with the SE settings in force.
        num_classes: of the classifier; 0: there is none.
        stages: the names of the stages that are built, first to last.
        out_features: those whose maps ``forward_features`` returns.
        feature_info: for each of ``out_features`` its channels and stride.
        stage_paths: for each stage the paths of its modules.
        recompute: gradient checkpointing: a stage's blocks are computed again in the backward pass.
        weights_report: the ``LoadReport`` of the weights that it was created with, their preprocessing and classes in
            it; None where it was created without.
    """

    stages: tuple[str, ...]
    weights_report = None
    can_dilate = False  # whether the last stage can keep the stride of the one before
    fixed_widths = ""  # why its inner channels cannot be fewer, behind "it"; empty: they can
    linear_head = True  # the classifier is one linear layer behind the mean over the last map
    head_path = "fc"  # of the layer that gives the logits
    head_paths: tuple[str, ...] = ("fc",)  # of everything behind the last map that has weights

    def __init__(self, spec, num_classes: int, out_features: Sequence[str]):
        super().__init__()
        self.spec = spec
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        self.recompute = False
        last = max(type(self).stages.index(name) for name in self.out_features)
        self.stages = type(self).stages[: last + 1]  # stages behind the last one asked for are not built
        self.stage_paths: dict[str, tuple[str, ...]] = {}
        self.feature_info: dict[str, FeatureInfo] = {}

    # --- what a family's constructor calls ---

    def add_stage(self, name: str, paths: Sequence[str], channels: int, stride: int) -> None:
        """Says where a stage's modules lie, and what its map is."""
        self.stage_paths[name] = tuple(paths)
        if name in self.out_features:
            self.feature_info[name] = FeatureInfo(channels, stride)

    def add_head(self, channels: int) -> None:
        """The classifier: dropout and a linear layer at ``head_path``."""
        if self.num_classes > 0:
            self.dropout = nn.Dropout(self.spec.hyper.dropout)
            self.set_head(nn.Linear(channels, self.num_classes))

    # --- what a family may do otherwise ---

    def initialise(self, zero_init_last: bool) -> None:
        """He initialisation of the convolutions by their fan-out (arXiv 1502.01852); the classifier's weights are
        small (Goyal et al., arXiv 1706.02677, section 5.1). ``zero_init_last``: every residual branch starts at zero,
        as there.

        Raises:
            ValueError: zero_init_last, and the network's blocks end with no normalisation of their own.
        """
        for module in self.modules():
            # Without memory there is nothing to be set, and saying so takes more time than building the layers.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.num_classes > 0 and not self.head.weight.is_meta:
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)
        if zero_init_last:
            for _, owner, _ in self._owners():
                if getattr(owner, "last_norm", None) is None:
                    raise ValueError(f"zero_init_last: {self.spec.name} has no residual branch that ends in a "
                                     "normalisation")  # fmt: skip
                nn.init.zeros_(owner.last_norm.weight)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """One stage: its blocks one after the other."""
        for _, block in self._stage_blocks(name):
            x = self.run_block(block, x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """The last map (N, C, h, w) → what the classifier's layer takes, (N, C): the mean over the map."""
        return x.mean((2, 3))

    def gate_channels(self, site: SESite, placement: str) -> int:
        """Channels of a gate at a site, as the layers around it are."""
        return site.owner.gate_channels(placement)

    def absorbers(self, site: SESite, placement: str) -> tuple[Absorber, ...] | str:
        """The layers that can take up a constant gate at a site, or why there are none."""
        return site.owner.absorbers(placement)

    # --- written once ---

    @property
    def head(self) -> nn.Module | None:
        """The layer that gives the logits; None where there is none."""
        module = self
        for name in self.head_path.split("."):  # not get_submodule, which would ask for an attribute called head
            module = None if module is None else module._modules.get(name)
        return module

    def set_head(self, module: nn.Module | None) -> None:
        """Replaces the layer that gives the logits, or takes it out. A linear layer's outputs are ``num_classes``."""
        parent, _, name = self.head_path.rpartition(".")
        owner = self.get_submodule(parent)
        if name not in owner._modules:
            owner.register_module(name, module)
        owner._modules[name] = module
        if isinstance(module, nn.Linear):
            self.num_classes = module.out_features

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block, recomputed in the backward pass where that is asked for."""
        return recompute(block, x) if self.recompute and self.training else block(x)

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """The stages' maps.

        Args:
            x: (N, 3, H, W), normalised as the weights want it.

        Returns:
            for each name in ``out_features`` (all by default) a map (N, C, H/s, W/s) with C and s from
            ``feature_info``; sizes are rounded up where the family does not say otherwise.
        """
        features = {}
        for name in self.stages:
            x = self.run_stage(name, x)
            if name in self.out_features:
                features[name] = x
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → logits, (N, num_classes).

        Raises:
            ValueError: the network was built without classes.
        """
        if self.num_classes < 1:
            raise ValueError(
                "this network was built as a feature extractor: call forward_features (pool makes a vector of its last "
                "map), or give it classes"
            )
        return self.classify(self.forward_features(x)[self.stages[-1]])

    def classify(self, x: Tensor) -> Tensor:
        """The last stage's map, (N, C, h, w) → logits, (N, num_classes)."""
        return self.head(self.dropout(self.pool(x)))

    def _stage_blocks(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        for path in self.stage_paths[name]:
            module = self.get_submodule(path)
            if isinstance(module, nn.Sequential):
                yield from ((f"{path}.{child}", block) for child, block in module.named_children())
            else:
                yield path, module

    def named_blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """(path, module) of every block, first to last: a stage's modules, and the children of those that are
        sequences."""
        for name in self.stages:
            yield from self._stage_blocks(name)

    def stage_of(self, path: str) -> str | None:
        """The stage that a module or tensor of this path belongs to; None for the classifier's."""
        for name, paths in self.stage_paths.items():
            if any(path == own or path.startswith(f"{own}.") for own in paths):
                return name
        return None

    def _owners(self) -> Iterator[tuple[str, SEOwner, str]]:
        for name in self.stages:
            for path in self.stage_paths[name]:
                for inner, module in self.get_submodule(path).named_modules():
                    if isinstance(module, SEOwner):
                        yield f"{path}.{inner}" if inner else path, module, name

    def se_sites(self) -> list[SESite]:
        """Every place that can carry a gate, first to last, with a gate or without."""
        return [SESite(self, path, stage, owner) for path, owner, stage in self._owners()]

    def freeze_stages(self, count: int) -> None:
        """Fixes the first ``count`` stages; a fixed BatchNorm becomes a FrozenBatchNorm2d."""
        for name in self.stages[:count]:
            for path in self.stage_paths[name]:
                parent, _, own = path.rpartition(".")
                self.get_submodule(parent)._modules[own] = freeze(self.get_submodule(path))

    def take_stage(self, name: str) -> nn.Module:
        """A stage's module by itself, to be kept elsewhere (a detector's head). It remembers its ``network_path`` and
        ``stage``, so that weights, insertion and folding find it in a model that holds the network too.

        Raises:
            ValueError: the stage is not one module.
        """
        paths = self.stage_paths[name]
        if len(paths) != 1:
            raise ValueError(f"{self.spec.name}: stage {name} is {len(paths)} modules and cannot be taken as one")
        module = self.get_submodule(paths[0])
        module.network_path, module.stage = paths[0], name
        return module


def find_network(model: nn.Module) -> Backbone:
    """The one network in a model. Raises ValueError where there is none, or several."""
    networks = [module for module in model.modules() if isinstance(module, Backbone)]
    if len(networks) != 1:
        found = len(networks) or "none"
        raise ValueError(f"the model must contain one backbone of this package; {type(model).__name__} has {found}")
    return networks[0]


def detached_stages(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path in the model, module) of stages that lie outside the network they belong to (``take_stage``)."""
    for path, module in model.named_modules():
        if hasattr(module, "network_path"):
            yield path, module


def sites_of(model: nn.Module) -> list[SESite]:
    """The sites of a model's network, first to last, those of a stage kept elsewhere in the model included. Their
    paths are the network's own."""
    network = find_network(model)
    sites = network.se_sites()
    known = {site.owner for site in sites}
    for _, stage in detached_stages(model):
        for inner, module in stage.named_modules():
            if isinstance(module, SEOwner) and module not in known:
                path = f"{stage.network_path}.{inner}" if inner else stage.network_path
                sites.append(SESite(network, path, stage.stage, module))
    return sites
