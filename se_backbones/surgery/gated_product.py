"""Squeeze, excitation, the 1×1 convolution that they gate, the sum with another map and the ReLU as one operation: in
bf16, on processors with AMX and a C compiler (``gated_product.c``). There a product of matrices costs so little that
each pass over a map counts, and each start of threads."""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from se_backbones.layers import compiled
from se_backbones.se import GATES
from se_backbones.surgery.fused_operations import has_amx

LANES = 16  # numbers of float32 in a register
CHUNK = 64  # places that are summed at a time, and then their sums: for any number of threads in the same order
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


class Excitation(NamedTuple):
    """The two layers of a gate as the processor takes them, of the mean of the convolution's input."""

    first: Tensor  # (hidden / 16, C_in, 16), like all of them float32
    shift1: Tensor  # (hidden,), filled up to a multiple of 16
    second: Tensor  # (C_out / 16, hidden, 16)
    shift2: Tensor  # (C_out,)


def in_lanes(first: Tensor, shift1: Tensor, second: Tensor, shift2: Tensor) -> Excitation:
    """Of weights (hidden, C_in) and (C_out, hidden), each with its bias."""
    more = -len(first) % LANES
    weights = (F.pad(first, (0, 0, 0, more)), F.pad(second, (0, more)))
    first, second = (one.float().unflatten(0, (-1, LANES)).transpose(1, 2).contiguous() for one in weights)
    return Excitation(first, F.pad(shift1, (0, more)).float(), second, shift2.float())


def run(
    x: Tensor,
    tiles: Tensor,
    bias: Tensor,
    excitation: Excitation,
    gate: str,
    factor: float,
    shortcut: Tensor,
    relu: bool,
    out: Tensor | None = None,
) -> Tensor:
    """``shortcut + factor * gate * (convolution of x + bias)``, then ReLU where ``relu``; computed in float32.

    Args:
        x: (N, C_in, H, W) and shortcut: (N, C_out, H, W), that ``takes`` said yes to.
        tiles: the weights, by ``in_tiles``.
        bias: (C_out,), float32.
        gate: one of GATES.
        out: where the result is put; it may be the shortcut.
    """
    (images, inputs, height, width), outputs = x.shape, shortcut.shape[1]
    out = torch.empty_like(shortcut) if out is None else out
    places, hidden = height * width, len(excitation.shift1)
    work = torch.empty(images * ((math.ceil(places / CHUNK) + 1) * inputs + hidden + outputs), dtype=torch.float32)
    _function()(
        *(one.data_ptr() for one in (out, shortcut, x, tiles, bias)),
        relu,
        *(one.data_ptr() for one in excitation),
        GATES.index(gate),
        factor,
        work.data_ptr(),
        CHUNK,
        images,
        places,
        inputs,
        hidden,
        outputs,
        torch.get_num_threads(),
    )
    return out


@functools.cache
def _function() -> ctypes._CFuncPtr:
    """Raises OSError: see ``compiled.load``; or the system does not let this process use AMX."""
    library = compiled.load(Path(__file__).with_suffix(".c"))
    if library.ask_for_tiles() != 0:
        raise OSError("the system does not let this process use AMX, or the compiler does not know it")
    function = library.gated_product
    function.argtypes = [
        *[ctypes.c_void_p] * 5,
        ctypes.c_int,
        *[ctypes.c_void_p] * 4,
        ctypes.c_int,
        ctypes.c_float,
        ctypes.c_void_p,
        *[ctypes.c_long] * 6,
        ctypes.c_int,
    ]
    function.restype = None
    return function


@functools.cache
def _works() -> bool:
    try:
        return has_amx() and _function() is not None
    except OSError:
        return False
