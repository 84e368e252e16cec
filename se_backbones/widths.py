"""Networks with fewer channels inside than their family builds: what a pruned network is, as a value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy

import torch
from torch import nn

from se_backbones.backbone import Backbone
from se_backbones.layers.norm import BATCH_NORMS, make_norm
from se_backbones.se import natural_key

# Path of a layer, its output channels, its input channels (a normalisation's are its channels, twice).
Width = tuple[str, int, int]
LAYERS = (nn.Conv2d, nn.Linear, *BATCH_NORMS, nn.GroupNorm)


def checked_widths(value: Iterable[Sequence]) -> tuple[Width, ...]:
    """Widths in their one form: a tuple of (path, output, input), by path.

    Raises:
        ValueError: something else, or a layer named twice.
    """
    try:
        found = [(path, out, into) for path, out, into in value]
        right = all(isinstance(path, str) and path and type(out) is type(into) is int for path, out, into in found)
    except (TypeError, ValueError):
        right = False
    if not right or any(min(out, into) < 1 for _, out, into in found):
        raise ValueError(
            "widths must be triples of a layer's path, its output channels and its input channels, each 1 or more, as "
            f"in ('layer1.0.conv2', 32, 32); got {value!r}"
        )
    paths = [path for path, *_ in found]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"widths name {twice[0]} twice")
    return tuple(sorted(found, key=lambda width: natural_key(width[0])))


def width_of(layer: nn.Module) -> tuple[int, int]:
    """The output and input channels of a convolution, linear layer or normalisation."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return (layer.weight.numel(),) * 2


def narrow(network: Backbone, widths: Sequence[Width], whole: Backbone) -> None:
    """Makes the layers of a freshly built network, without gates, as narrow as is said. Their weights are new.

    Args:
        whole: the same network with all its stages, on the meta device; layers of stages that ``network`` does not have
            are passed over.

    Raises:
        ValueError: a layer that the network does not have, or that is none of these; more channels than it has; layers
            that do not fit each other; or another number of channels in a stage's map: those stay as they are, so that
            whatever stands on the network fits.
    """
    check_widths(widths, whole)
    _cut(network, widths, check=False)


def check_widths(widths: Sequence[Width], whole: Backbone) -> None:
    """Raises ValueError where ``narrow`` would. ``whole``: as there; it is left as it is."""
    if widths:
        _cut(deepcopy(whole), widths, check=True)


def _cut(network: Backbone, widths: Sequence[Width], check: bool) -> None:
    layers = {path: module for path, module in network.named_modules() if isinstance(module, LAYERS)}
    for path, out, into in widths:
        if path not in layers:
            if not check:
                continue
            near = difflib.get_close_matches(path, layers, n=3)
            raise ValueError(f"widths: there is no layer {path}; the nearest are {', '.join(near) or 'none'}")
        layer = layers[path]
        if check and (out > width_of(layer)[0] or into > width_of(layer)[1]):
            raise ValueError(f"widths: {path} has {width_of(layer)} channels, out and in; {(out, into)} are more")
        parent, _, name = path.rpartition(".")
        network.get_submodule(parent)._modules[name] = _layer(path, layer, out, into)
    if check:
        _check(network)


def _layer(path: str, layer: nn.Module, out: int, into: int) -> nn.Module:
    """A new layer of its kind."""
    with torch.device(layer.weight.device):
        if isinstance(layer, nn.Conv2d):
            # Each channel by itself, or as many groups as before.
            groups = into if layer.groups == layer.in_channels else layer.groups
            if out % groups or into % groups:
                raise ValueError(f"widths: {path} has {groups} groups, which do not divide {out} and {into} channels")
            return type(layer)(
                into,
                out,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                groups,
                layer.bias is not None,
            )
        if isinstance(layer, nn.Linear):
            return nn.Linear(into, out, layer.bias is not None)
        if out != into:
            raise ValueError(f"widths: {path} is a normalisation, whose output and input are one; got {out} and {into}")
        if isinstance(layer, nn.GroupNorm):
            return make_norm("GN", out, layer.eps)
        return type(layer)(out, eps=layer.eps)


@torch.no_grad()
def _check(network: Backbone) -> None:
    """Whether the layers fit each other, by the shapes of an image's maps."""

    def look(path: str):
        def hook(layer: nn.Module, inputs: tuple) -> None:
            channels = inputs[0].shape[1]
            if channels != width_of(layer)[1]:
                raise ValueError(f"widths: {path} takes {width_of(layer)[1]} channels, and is given {channels}")

        return hook

    for path, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_pre_hook(look(path))
    network.eval()
    side = network.spec.image_size if network.num_classes > 0 else 64
    try:
        maps = network.forward_features(torch.empty(1, 3, side, side, device="meta"))
    except RuntimeError as error:  # an addition of maps with unlike channels
        text = re.sub(r"\s+", " ", str(error))
        raise ValueError(f"widths: two maps that are added have other channels each ({text})") from error
    for name, (channels, _) in network.feature_info.items():
        if maps[name].shape[1] != channels:
            raise ValueError(f"widths: the map of {name} must keep its {channels} channels; got {maps[name].shape[1]}")
    if network.num_classes > 0:
        network.classify(maps[network.stages[-1]])
