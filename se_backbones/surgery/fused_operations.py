"""Which fused convolutions a device has: oneDNN's on processors, cuDNN's on NVIDIA's GPUs. Each is tried before it is
trusted."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from se_backbones.layers.compiled import transformed

# How oneDNN calls what may follow a convolution.
ACTIVATIONS = {"": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])}


def captured() -> bool:
    """Whether the calls of now make a graph, which is to run anywhere."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def has_onednn(x: Tensor) -> bool:
    """Whether oneDNN's fused convolutions take a map: on a processor, of its type, outside of gradients, backwards or
    forwards, and graphs."""
    return (
        x.device.type == "cpu"
        and not (x.requires_grad and torch.is_grad_enabled())
        and torch.backends.mkldnn.enabled
        and not captured()
        and not transformed()
        and x.numel() > 0
        and _works_with(x.dtype)
    )


def has_cudnn(x: Tensor) -> bool:
    """Whether cuDNN's fused convolutions take a map: on a GPU, of its type, outside of gradients, backwards or
    forwards, and graphs, and where nobody asks for algorithms that are equal bit for bit in two runs, which these do
    not promise."""
    return (
        x.is_cuda
        and not (x.requires_grad and torch.is_grad_enabled())
        and torch.backends.cudnn.enabled
        and not (torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled())
        and not captured()
        and not transformed()
        and x.numel() > 0
        and _works_on(x.device, x.dtype)
    )


@functools.cache
def _works_with(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operations are there and right for a type, by trying each of them."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x, other, weight, bias = _trial(dtype, "cpu")
    how = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
    plain = F.conv2d(x, weight, bias)
    behind = _activated(plain)
    try:
        ops = torch.ops.mkldnn
        packed = ops._reorder_convolution_weight(weight, *how, list(x.shape))
        found = [
            (ops._convolution_pointwise(x, packed, bias, *how, name, numbers, ""), behind[activation])
            for activation, (name, numbers) in ACTIVATIONS.items()
        ]
        binary = ("add", 1.0, "relu", [], "")
        found.append((ops._convolution_pointwise(x, other, packed, bias, *how, *binary), (plain + other).relu()))
        found.append((ops._convolution_pointwise_(other, x, packed, bias, *how, *binary), found[-1][1]))
        return all(torch.allclose(ours, expected, atol=0.02) for ours, expected in found)
    except (RuntimeError, AttributeError):
        return False


def multiplies_faster(x: Tensor) -> bool:
    """Whether a 1×1 convolution of a map takes less time as oneDNN's product of matrices, with the activation, than as
    its convolution, which takes the map: in bf16 on processors with AMX, by a fifth to two fifths; else they are alike.
    """
    return x.dtype == torch.bfloat16 and has_amx() and _multiplies()


@functools.cache
def has_amx() -> bool:
    """Whether the processor multiplies matrices in bf16 by itself: then direct convolutions are faster than tiles."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


@functools.cache
def _multiplies() -> bool:
    """Whether oneDNN's product of matrices is there and right, by trying it."""
    x, _, weight, bias = _trial(torch.bfloat16, "cpu")
    behind = _activated(F.conv2d(x, weight, bias))
    try:
        matrix = packed_matrix(weight)
        return all(
            torch.allclose(product(x, matrix, bias, activation), expected, atol=0.02)
            for activation, expected in behind.items()
        )
    except (RuntimeError, AttributeError):
        return False


def packed_matrix(weight: Tensor) -> Tensor:
    """The weights of a 1×1 convolution, (C_out, C_in, 1, 1), as a matrix in the order that oneDNN's product works in;
    else it would order them at each call."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1))


def product(x: Tensor, matrix: Tensor, bias: Tensor, activation: str, stride: Sequence[int] = (1, 1)) -> Tensor:
    """A 1×1 convolution without padding, and the activation behind it, as oneDNN's product of matrices: of the weights
    and of the map at every ``stride``-th place.

    Args:
        x: (N, C_in, H, W). matrix: by ``packed_matrix``. bias: (C_out,). activation: a key of ACTIVATIONS.

    Returns:
        (N, C_out, H', W'), channels_last.
    """
    places = x.permute(0, 2, 3, 1)[:, :: stride[0], :: stride[1]]
    name, numbers = ACTIVATIONS[activation]
    out = torch.ops.mkldnn._linear_pointwise(places.flatten(0, 2), matrix, bias, name, numbers, "")
    return out.view(*places.shape[:3], -1).permute(0, 3, 1, 2)


@functools.cache
def _works_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN's operations are there and right for a type on a device, by trying both."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16) or not torch.backends.cudnn.is_available():
        return False
    x, other, weight, bias = _trial(dtype, device)
    how = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups
    plain = F.conv2d(x, weight, bias)
    try:
        alone = torch.cudnn_convolution_relu(x, weight, bias, *how)
        summed = torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *how)
        return torch.allclose(alone, plain.relu(), atol=0.02) and torch.allclose(
            summed, (plain + other).relu(), atol=0.02
        )
    except (RuntimeError, AttributeError):  # AMD's PyTorch has them by other names
        return False


def _activated(plain: Tensor) -> dict[str, Tensor]:
    """What each of ACTIVATIONS makes of a map, by PyTorch's own operations."""
    return {"": plain, "relu": plain.relu(), "relu6": plain.clamp(0, 6)}


def _trial(dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two small maps, a weight and a bias."""
    x, other = (torch.arange(n, n + 64.0).view(1, 16, 2, 2).to(device, dtype) / 64 - 0.5 for n in (0, 7))
    x, other = (one.contiguous(memory_format=torch.channels_last) for one in (x, other))
    weight = (torch.eye(16) * 2).view(16, 16, 1, 1).to(device, dtype)
    return x, other, weight, torch.full((16,), 0.25, dtype=dtype, device=device)
