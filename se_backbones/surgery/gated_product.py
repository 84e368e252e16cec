"""A 1×1 convolution, its gate, the sum with another map and the ReLU in one pass: in bf16, on processors with AMX and
a C compiler (``gated_product.c``). There a product of matrices costs so little that each pass over a map counts."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.layers import compiled
from se_backbones.surgery.fused_operations import has_amx

MULTIPLE = 32  # of channels in a tile's row
MOST_INPUTS = 4096  # 32 rows of them are on a thread's stack


def takes(x: Tensor, weight: Tensor, other: Tensor) -> bool:
    """Whether it can convolve a map by weights, (C_out, C_in, 1, 1), and add another map."""
    outputs, inputs = weight.shape[:2]
    return (
        x.dtype == other.dtype == weight.dtype == torch.bfloat16
        and other.shape == (len(x), outputs, *x.shape[2:])
        and inputs % MULTIPLE == outputs % MULTIPLE == 0
        and inputs <= MOST_INPUTS
        and compiled.can_read(x)
        and compiled.can_read(other)
        and _works()
    )


def in_tiles(weight: Tensor) -> Tensor:
    """(C_out, C_in, 1, 1) → (C_out / 16, C_in / 2, 16, 2), as the processor takes it."""
    outputs, inputs = weight.shape[:2]
    return weight.reshape(outputs // 16, 16, inputs // 2, 2).transpose(1, 2).contiguous()


def run(
    x: Tensor, tiles: Tensor, bias: Tensor, gate: Tensor, shortcut: Tensor, relu: bool, out: Tensor | None = None
) -> Tensor:
    """``shortcut + gate * (convolution of x + bias)``, then ReLU where ``relu``; computed in float32.

    Args:
        x: (N, C_in, H, W) and shortcut: (N, C_out, H, W), that ``takes`` said yes to.
        tiles: the weights, by ``in_tiles``.
        bias: (C_out,), float32.
        gate: (N, C_out).
        out: where the result is put; it may be the shortcut.
    """
    (images, inputs, height, width), outputs = x.shape, shortcut.shape[1]
    out = torch.empty_like(shortcut) if out is None else out
    gate = gate.expand(images, outputs).to(torch.float32).contiguous()
    tensors = (one.data_ptr() for one in (out, shortcut, x, tiles, gate, bias))
    _function()(*tensors, relu, images, height * width, inputs, outputs, torch.get_num_threads())
    return out


@functools.cache
def _function() -> ctypes._CFuncPtr:
    """Raises OSError: see ``compiled.load``; or the system does not let this process use AMX."""
    library = compiled.load(Path(__file__).with_suffix(".c"))
    if library.ask_for_tiles() != 0:
        raise OSError("the system does not let this process use AMX, or the compiler does not know it")
    function = library.gated_product
    function.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int] + [ctypes.c_long] * 4 + [ctypes.c_int]
    function.restype = None
    return function


@functools.cache
def _works() -> bool:
    try:
        return has_amx() and _function() is not None
    except OSError:
        return False
