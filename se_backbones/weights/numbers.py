"""Whether tensors hold numbers that a network can have."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from se_backbones.errors import WeightsError

_VARIANCES = ("running_var", "_riv", "bn_running_var")


def check_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises WeightsError for a tensor without numbers of its own (sparse, quantised, meta, packed), for one with a
    number that is not finite, and for a negative variance; names some of them."""
    for name, tensor in tensors.items():
        if form := _other_form(tensor):
            raise WeightsError(f"{where}: {name} is {form}; write it as a plain tensor of floating-point numbers")
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _sound(name, tensor)]
    if bad:
        raise WeightsError(
            f"{where}: {len(bad)} tensors hold numbers that are not finite, or a negative variance: "
            f"{', '.join(bad[:5])}. The file is damaged, or its training diverged"
        )


def _other_form(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "a meta tensor, a shape without numbers"
    if tensor.layout != torch.strided:
        return "a sparse tensor"
    if tensor.is_quantized or tensor.dtype == getattr(torch, "float4_e2m1fn_x2", None):
        return f"quantised ({str(tensor.dtype).removeprefix('torch.')})"
    return ""


def _sound(name: str, tensor: Tensor) -> bool:
    if not tensor.numel():
        return True
    # The extremes are finite only if all are: no copy of the tensor is made.
    low, high = torch.aminmax(tensor.float() if tensor.element_size() < 4 else tensor)
    return math.isfinite(low) and math.isfinite(high) and not (name.endswith(_VARIANCES) and low < 0)
