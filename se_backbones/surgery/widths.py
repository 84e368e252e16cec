"""What a network has become whose layers were cut."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from se_backbones.backbone import detached_stages, find_network, sites_of
from se_backbones.registry import Spec, skeleton
from se_backbones.widths import LAYERS, Width, checked_widths, width_of


def cut_spec(model: nn.Module) -> Spec:
    """The row of a model's network as its layers are now: with the ``widths`` of those that are narrower than the
    family builds them, and the channels between the excitation layers where they are not C / r. Built anew from it,
    ``create_backbone(spec.name, se=spec.se, widths=spec.widths)``, the network takes the weights."""
    network = find_network(model)
    spec = replace(network.spec, widths=widths_of(model))
    if spec.se is None:
        return spec
    plain, hidden = replace(spec.se, hidden=()), []
    for site in sites_of(model):
        if site.gate is not None:
            width = site.gate.fc1.out_channels
            usual = plain.hidden_of(site.path, site.stage, site.gate.fc1.in_channels)
            hidden += [(site.path, width)] if width != usual else []
    return replace(spec, se=replace(plain, hidden=tuple(hidden)))


def widths_of(model: nn.Module) -> tuple[Width, ...]:
    """The layers of a model's network that are narrower than its family builds them, a stage's that lies elsewhere in
    the model included."""
    network = find_network(model)
    usual = {
        path: width_of(layer) for path, layer in skeleton(network.spec).named_modules() if isinstance(layer, LAYERS)
    }
    there = dict(network.named_modules())
    for _, stage in detached_stages(model):
        there |= {f"{stage.network_path}.{path}": layer for path, layer in stage.named_modules()}
    found = [
        (path, *width_of(there[path]))
        for path, width in usual.items()
        if path in there and path != network.head_path and width_of(there[path]) != width
    ]
    return checked_widths(found)
