"""The channels of a network that lie between two layers inside it, found with torch-pruning's dependency graph."""

from __future__ import annotations

import importlib
from copy import deepcopy
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor, nn

from se_backbones.backbone import Backbone, detached_stages, find_network
from se_backbones.layers.norm import BATCH_NORMS
from se_backbones.se import SEGate


@dataclass
class Part:
    """What one layer has of a group of channels.

    Attributes:
        path: the layer's in the network. A stage that lies in a detector's heads has the path that it has in a network.
        layer: itself.
        side: ``output``; ``input``, of a layer behind; ``both``, of a normalisation or a depthwise convolution.
        own: (C,), for each of the group's channels the layer's own.
        site: path of the site whose excitation the layer is of; None: of none.
    """

    path: str
    layer: nn.Module
    side: str
    own: Tensor
    site: str | None = None


@dataclass
class ChannelGroup:
    """Channels that one convolution makes and others take in, and that no map of a stage shows.

    Attributes:
        parts: everything that goes when a channel goes; first the convolution that makes them.
        norm: of these, the normalisation behind that convolution.
        cells: (C,), numbers from 0. The channels of one cell are in one group of each grouped convolution that makes or
            takes them: as many must go from each cell.
    """

    parts: list[Part]
    norm: Part
    cells: Tensor = field(init=False)

    def __post_init__(self):
        columns = [torch.zeros_like(self.maker.own)]
        for part in self.parts:
            if isinstance(part.layer, nn.Conv2d) and part.layer.groups > 1 and part.side != "both":
                channels = part.layer.out_channels if part.side == "output" else part.layer.in_channels
                columns.append(part.own // (channels // part.layer.groups))
        self.cells = torch.stack(columns, 1).unique(dim=0, return_inverse=True)[1]

    @property
    def maker(self) -> Part:
        """The convolution that makes the channels."""
        return self.parts[0]

    @property
    def path(self) -> str:
        """Of that convolution."""
        return self.maker.path

    @property
    def channels(self) -> int:
        """C."""
        return len(self.maker.own)

    @property
    def gate(self) -> Part | None:
        """The layer that gives the gate by which the channels are scaled; None where no gate scales them."""
        return next((part for part in self.parts if part.site and part.side == "output"), None)


def torch_pruning() -> ModuleType:
    """The package, an extra of this one. Raises ModuleNotFoundError, with the command that installs it."""
    try:
        return importlib.import_module("torch_pruning")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('pruning needs torch-pruning: pip install -e ".[pruning]"', name=error.name) from None


def find_groups(model: nn.Module) -> list[ChannelGroup]:
    """The channels of a model's network that can go without a change to the shape of any stage's map, first to last.

    A group is made by one convolution. What several add into (a residual stream) is none, nor is what a stage hands
    out, what an excitation has inside, or what the classifier has behind the last map.

    Args:
        model: a backbone, or a model that contains one, a stage in its heads included. It is left as it is: a copy
            without memory for its tensors is traced.

    Raises:
        ValueError: why the network cannot be cut: it is fused, its normalisation goes over several channels (GN), its
            family says so (``Backbone.fixed_widths``), or it has no such channels.
        ModuleNotFoundError: torch-pruning is not installed.
    """
    network = find_network(model)
    _refuse(network)
    stages = _Stages(model)
    image = torch.empty(1, 3, network.spec.image_size, network.spec.image_size, device="meta")
    stages(image)
    graph = torch_pruning().DependencyGraph()
    graph.build_dependency(stages, (image,), verbose=False)
    groups: dict[str, ChannelGroup] = {}
    fixed: set[nn.Module] = set()
    for node in list(graph.module2node.values()):
        if node.module in fixed:
            continue
        items = _items(stages, graph, node)
        if group := _group(stages, node, items):
            groups[group.path] = group
        else:  # nor is one that another of the convolutions makes that add into them
            fixed.update(layer for layer, side, _ in items if side == "output")
    if not groups:
        raise ValueError(f"{network.spec.name} has no channels between two layers that no stage's map shows")
    return [groups[path] for path, _ in stages.layers.values() if path in groups]


def _refuse(network: Backbone) -> None:
    name = network.spec.name
    if not any(network.stage_paths.values()):
        raise ValueError(f"{name} is fused, and cannot be cut any more: prune the network that it was made of")
    if network.fixed_widths:
        raise ValueError(f"{name} cannot be pruned: it {network.fixed_widths}")
    if any(isinstance(module, nn.GroupNorm) for module in network.modules()):
        raise ValueError(
            f"{name} cannot be pruned with group normalisation (GN), which takes one mean over several channels: "
            "without some of them the others would have another. Prune a network with BatchNorm"
        )


class _Gate(nn.Module):
    """A gate in plain operations, for the tracing."""

    def __init__(self, gate: SEGate):
        super().__init__()
        channels, hidden = gate.fc2.out_channels, gate.fc2.in_channels
        self.fc1 = nn.Conv2d(channels, hidden, 1, device="meta")
        self.fc2 = nn.Conv2d(hidden, channels, 1, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class _Stages(nn.Module):
    """The stages of a model's network, copied to the meta device. Each map is taken in by a 1×1 convolution of its own:
    what reaches one of these reaches a map.

    Attributes:
        layers: a copied module -> its path in the network, and the module that it is the copy of.
        sites: a layer of an excitation -> its site's path.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        network = find_network(model)
        self.layers: dict[nn.Module, tuple[str, nn.Module]] = {}
        self.sites: dict[nn.Module, str] = {}
        self.network = self._copied(network, "")
        self.detached = nn.ModuleList(
            self._copied(stage, f"{stage.network_path}.") for _, stage in detached_stages(model)
        )
        self.taps = nn.ModuleDict()
        self.eval()

    def _copied(self, module: nn.Module, start: str) -> nn.Module:
        # Tensors are copied without their memory; a frozen one would end the tracing.
        memo: dict = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta", dtype=torch.float32)) for p in module.parameters()
        }
        memo |= {id(b): torch.empty_like(b, device="meta", dtype=torch.float32) for b in module.buffers()}
        copy = deepcopy(module, memo)
        for parent in list(copy.modules()):
            for name, child in parent.named_children():
                if isinstance(child, BATCH_NORMS):
                    parent._modules[name] = nn.BatchNorm2d(child.weight.numel(), device="meta")
                elif isinstance(child, SEGate):
                    parent._modules[name] = _Gate(child)
        originals = dict(module.named_modules())
        for path, layer in copy.named_modules():
            self.layers[layer] = (start + path, originals[path])
            if isinstance(layer, _Gate):
                site = (start + path).rpartition(".")[0]
                self.sites |= {layer.fc1: site, layer.fc2: site}
        return copy

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for name in self.network.stages:
            x = self.network.run_stage(name, x)
            found.append(self._tapped(name, x))
        return found + [self._tapped(f"detached {stage.stage}", stage(x)) for stage in self.detached]

    def _tapped(self, name: str, x: Tensor) -> Tensor:
        if name not in self.taps:
            self.taps[name] = nn.Conv2d(x.shape[1], 1, 1, device="meta")
        return self.taps[name](x)


def _items(stages: _Stages, graph, node) -> list[tuple[nn.Module, str, Tensor]]:
    """Of a node's convolution: what has its output channels, first itself: (layer, side, for each channel the layer's
    own; empty where that is not one each). Nothing for other nodes. ``graph``, ``node``: torch-pruning's."""
    conv = node.module
    if not isinstance(conv, nn.Conv2d) or conv not in stages.layers or conv in stages.sites or _depthwise(conv):
        return []
    handler = graph.get_pruner_of_module(conv).prune_out_channels
    items = []
    for item in graph.get_pruning_group(conv, handler, range(conv.out_channels)).items:
        layer = item.dep.target.module
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):  # the others are operations without weights
            side = "input" if item.dep.handler.__name__ == "prune_in_channels" else "output"
            side = "both" if isinstance(layer, nn.BatchNorm2d) or _depthwise(layer) else side
            roots, own = torch.tensor(item.root_idxs), torch.tensor(item.idxs)
            each = sorted(item.root_idxs) == list(range(conv.out_channels))
            items.append((layer, side, own[roots.argsort()] if each else own[:0]))
    return items


def _group(stages: _Stages, node, items: list[tuple[nn.Module, str, Tensor]]) -> ChannelGroup | None:
    """The group that a node's convolution makes, if it is one that can go."""
    parts: dict[nn.Module, Part] = {}
    for layer, side, own in items:
        tap = layer not in stages.layers
        adds = side == "output" and parts and layer not in stages.sites
        if tap or adds or layer in parts or not len(own):
            return None
        path, original = stages.layers[layer]
        parts[layer] = Part(path, original, side, own, stages.sites.get(layer))
    norm = _norm_behind(node)
    return ChannelGroup(list(parts.values()), parts[norm]) if norm in parts else None


def _depthwise(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels == conv.out_channels > 1


def _norm_behind(node) -> nn.Module | None:
    """The first normalisation that takes a convolution's output."""
    near = list(node.outputs)
    while near:
        node = near.pop(0)
        if isinstance(node.module, nn.BatchNorm2d):
            return node.module
        if not isinstance(node.module, nn.Conv2d):
            near += node.outputs
    return None
