"""The gated sum and its gradients as Triton kernels: each reads a map once.

A map (N, C, H, W) lies in memory as N images of H·W places by C channels, in either order (channels_last, contiguous).
Sums over places are made in two stages without atomic additions, in an order that depends on the shape alone.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # elements of a map that a program holds at a time
STEPS = 4  # tiles that a program of the backward pass adds up at most
WARPS = 8


@triton.jit
def _forward(
    shortcut, branch, gate, bias, out, channels, places, stride_c, stride_p,
    BROADCAST: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2).to(tl.int64)
    p = tl.program_id(0) * PLACES + tl.arange(0, PLACES)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = (p < places) & (c < channels)
    at = image * channels * places + (p * stride_p + c * stride_c)
    g = tl.load(gate + image * channels + c, mask=c < channels, other=0.0).to(tl.float32)
    b = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        b += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    if BROADCAST:
        s = tl.load(shortcut + image * channels + c, mask=c < channels, other=0.0).to(tl.float32)
    else:
        s = tl.load(shortcut + at, mask=inside, other=0.0).to(tl.float32)
    value = s + b * g
    if RELU:
        value = tl.where(value < 0.0, 0.0, value)  # NaN stays NaN, as in torch.relu
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad, branch, out, d_sum, partial, channels, places, stride_c, stride_p,
    RELU: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    strip = tl.program_id(0)
    image = tl.program_id(2).to(tl.int64)
    row = tl.arange(0, PLACES)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    total = tl.zeros((PLACES, CHANNELS), dtype=tl.float32)
    for step in range(STEPS):
        p = (strip * STEPS + step) * PLACES + row
        inside = (p < places) & (c < channels)
        at = image * channels * places + (p * stride_p + c * stride_c)
        d = tl.load(grad + at, mask=inside, other=0.0)
        b = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            o = tl.load(out + at, mask=inside, other=0.0).to(tl.float32)
            d = tl.where(o <= 0.0, 0.0, d.to(tl.float32)).to(d_sum.dtype.element_ty)
            tl.store(d_sum + at, d, mask=inside)
        total += d.to(tl.float32) * b
    sums = tl.sum(total, axis=0)[None, :]
    tl.store(partial + (image * tl.num_programs(0) + strip) * channels + c, sums, mask=c < channels)


def forward(
    shortcut: Tensor, branch: Tensor, gate: Tensor, relu: bool, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """``shortcut + gate * (branch + bias)``, then ReLU where ``relu``.

    Args:
        shortcut: (N, C, H, W), or (N, C, 1, 1) to be added at every place.
        branch: (N, C, H, W), float32, bfloat16 or float16; computed in float32.
        gate: (N, C, 1, 1).
        bias: (C,); None for zero.
        out: where the result is put; it may be the shortcut or the branch. Of the branch's shape, type and memory
            format, without gaps.
    """
    layout = _layout(branch)
    broadcast = shortcut.shape != branch.shape
    branch = branch.contiguous(memory_format=layout)
    shortcut = shortcut.contiguous(memory_format=torch.contiguous_format if broadcast else layout)
    out = torch.empty_like(branch) if out is None else out
    sizes, blocks, tiles = _plan(branch.shape[1], branch.shape[2] * branch.shape[3], layout)
    grid = (tiles, triton.cdiv(branch.shape[1], blocks["CHANNELS"]), branch.shape[0])
    with _on(branch):
        _forward[grid](
            shortcut, branch, gate.contiguous(), branch if bias is None else bias, out, *sizes,
            BROADCAST=broadcast, BIAS=bias is not None, RELU=relu, **blocks,
        )  # fmt: skip
    return out


def backward(grad: Tensor, branch: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradients of the sum, (N, C, H, W), and of the gate, (N, C, 1, 1) in float32.

    Args:
        grad: of the result, (N, C, H, W).
        branch: as ``forward`` was given it.
        out: what ``forward`` gave, whose sign is the ReLU's; None without a ReLU.
    """
    layout = _layout(branch)
    grad, branch = (x.contiguous(memory_format=layout) for x in (grad, branch))
    relu = out is not None
    d_sum = torch.empty_like(branch) if relu else grad
    out = out.contiguous(memory_format=layout) if relu else grad
    sizes, blocks, tiles = _plan(branch.shape[1], branch.shape[2] * branch.shape[3], layout)
    steps = min(tiles, STEPS)
    images, channels = branch.shape[:2]
    grid = (triton.cdiv(tiles, steps), triton.cdiv(channels, blocks["CHANNELS"]), images)
    partial = torch.empty(images, grid[0], channels, dtype=torch.float32, device=branch.device)
    with _on(branch):
        _backward[grid](grad, branch, out, d_sum, partial, *sizes, RELU=relu, STEPS=steps, **blocks)
    return d_sum, partial.sum(1)[:, :, None, None]


def _on(x: Tensor):
    """Triton launches on the current device; to change it costs time, so only where it is another one."""
    other = x.is_cuda and x.device.index != torch.cuda.current_device()
    return torch.cuda.device(x.device) if other else nullcontext()


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@functools.lru_cache(maxsize=1024)
def _plan(channels: int, places: int, layout: torch.memory_format) -> tuple[tuple[int, ...], dict[str, int], int]:
    """Channels, places and their strides inside an image; how many of each a tile has; tiles over an image's places.

    A tile is long in the direction in which the map's elements follow each other.
    """
    if layout == torch.channels_last:
        width = min(triton.next_power_of_2(channels), 128)
        height = min(triton.next_power_of_2(places), TILE // width)
        strides = (1, channels)
    else:
        height = min(triton.next_power_of_2(places), TILE // 4)
        width = min(triton.next_power_of_2(channels), TILE // height)
        strides = (places, 1)
    blocks = {"PLACES": height, "CHANNELS": width, "num_warps": WARPS}
    return (channels, places, *strides), blocks, triton.cdiv(places, height)
