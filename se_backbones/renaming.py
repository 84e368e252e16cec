"""What the families' layouts are made of: renaming by layers, and what others' networks have no place for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.layout import NetworkShape

Renaming = Callable[[Collection[str]], dict[str, str]]


def each(rename: Callable[[str], str]) -> Renaming:
    """A renaming of all names, from that of one."""
    return lambda names: {name: rename(name) for name in names}


def by_layer(layers: Mapping[str, str]) -> Renaming:
    """Renames layers, what stands before a tensor's own name (``weight``); those that are not named stay."""

    def rename(name: str) -> str:
        layer, dot, tensor = name.rpartition(".")
        return f"{layers.get(layer, layer)}{dot}{tensor}"

    return each(rename)


def inverse(table: Mapping[str, str]) -> dict[str, str]:
    """The table the other way round."""
    return {new: old for old, new in table.items()}


def has_gates(names: Collection[str]) -> bool:
    """Whether a network with SE has these names, ours."""
    return any(".se.fc1." in name for name in names)


def without_gates(network: str, rename: Renaming, write_to: str = "ours") -> Renaming:
    """A renaming into the names of a network without SE.

    Args:
        network: whose it is, ``"timm's VGG"``.
        write_to: the layouts to use in its place.

    Raises:
        WeightsError: when it renames a network with SE.
    """

    def convert(names: Collection[str]) -> dict[str, str]:
        if has_gates(names):
            raise WeightsError(f"{network} has no place for squeeze-and-excitation; write to {write_to}")
        return rename(names)

    return convert


def other_gates(layout: str, shape: NetworkShape, se: Mapping) -> str:
    """Why a layout that knows the paper's form of SE alone cannot hold a network with these settings; empty where it
    can."""
    usual = (("placement", "standard"), ("squeeze", "avg"), ("gate", "sigmoid"))
    odd = [f"{key} {se[key]}" for key, value in usual if se.get(key, value) != value]
    if shape.has_se and odd:
        return f"its SE has {', '.join(odd)}, and {layout} knows the standard form alone"
    return ""


def zero_biases(bias_norms: Mapping[str, str]) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """For ``Layout.added``: the biases that others' convolutions before a normalisation have, zero, by our names.

    Args:
        bias_norms: as in ``Family.bias_norms``.
    """
    return lambda ours: {bias: torch.zeros_like(ours[mean]) for bias, mean in bias_norms.items() if mean in ours}
