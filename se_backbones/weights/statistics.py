"""A normalisation's statistics, where a file has them otherwise than our network: folded into its weight and bias, or
with a bias before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from se_backbones.weights.weights_file import WeightsFile


def neutral_statistics(weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and variance, on the CPU, of a normalisation that does nothing but its weight and bias: 0, and 1 less
    ``eps``, so that the division by sqrt(variance + eps) is one by 1 exactly."""
    return torch.zeros_like(weight, device="cpu"), torch.ones_like(weight, device="cpu") - eps


def biases_without_place(weights: WeightsFile, has: Callable[[str], bool]) -> Iterator[tuple[str, str, str]]:
    """The biases of convolutions that stand before a normalisation and that the network has not. With ``mean - bias``
    in the normalisation it computes the same.

    Args:
        has: whether the network has a tensor, by its name in the network.

    Returns:
        the file's name, our name, and our name of the running mean.
    """
    for key, name in weights.names.items():
        inner = weights.in_network(name)
        norm = weights.family.bias_norms.get(inner)
        if norm is not None and not has(inner):
            yield key, name, name.removesuffix(inner) + norm
