"""The gated sum and its gradients as compiled kernels on processors: each reads a map once (``gated_c.c``)."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.layers import compiled

# Elements of a map in a strip: its maps stay in a core's cache, and there are many more strips than cores.
STRIP = 1 << 15
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# What the functions take ahead of a map's sizes and the number of threads: pointers, and numbers.
TAKES = {"forward": (4, [ctypes.c_int, ctypes.c_int]), "backward": (5, [])}


@functools.cache
def kernels() -> dict[tuple[str, torch.dtype], ctypes._CFuncPtr]:
    """The functions of the library, by name and type.

    Raises:
        OSError: see ``compiled.load``.
    """
    library = compiled.load(Path(__file__).with_name("gated_c.c"))
    found = {}
    for name, (pointers, numbers) in TAKES.items():
        for dtype, called in NAMES.items():
            function = found[name, dtype] = getattr(library, f"{name}_{called}")
            function.argtypes = [ctypes.c_void_p] * pointers + numbers + [ctypes.c_long] * 4 + [ctypes.c_int]
            function.restype = None
    return found


def forward(shortcut: Tensor, branch: Tensor, gate: Tensor, relu: bool, out: Tensor | None = None) -> Tensor:
    """``shortcut + gate * branch``, then ReLU where ``relu``.

    Args:
        shortcut: (N, C, H, W), or (N, C, 1, 1) to be added at every place.
        branch: (N, C, H, W), float32 or bfloat16, channels_last; computed in float32.
        gate: (N, C, 1, 1).
        out: where the result is put; it may be the shortcut or the branch. Of the branch's shape, type and memory
            format.
    """
    each = (*branch.shape[:2], 1, 1)
    broadcast = shortcut.shape != branch.shape
    shortcut = shortcut.expand(each if broadcast else branch.shape).to(branch.dtype)
    shortcut = shortcut.contiguous(memory_format=torch.contiguous_format if broadcast else torch.channels_last)
    gate = gate.expand(each).to(torch.float32).contiguous()
    out = torch.empty_like(branch) if out is None else out
    sizes, _ = _plan(branch.shape)
    maps = (out.data_ptr(), shortcut.data_ptr(), branch.data_ptr(), gate.data_ptr())
    kernels()["forward", branch.dtype](*maps, broadcast, relu, *sizes, torch.get_num_threads())
    return out


def backward(grad: Tensor, branch: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """As ``gated_triton.backward``; branch and out are channels_last."""
    grad = grad.to(branch.dtype).contiguous(memory_format=torch.channels_last)
    d_sum = grad if out is None else torch.empty_like(branch)
    sizes, strips = _plan(branch.shape)
    sums = branch.new_empty((len(branch), strips, branch.shape[1]), dtype=torch.float64)
    maps = (d_sum.data_ptr(), sums.data_ptr(), grad.data_ptr(), branch.data_ptr(), 0 if out is None else out.data_ptr())
    kernels()["backward", branch.dtype](*maps, *sizes, torch.get_num_threads())
    return d_sum, sums.sum(1)[:, :, None, None].to(torch.float32)


@functools.lru_cache(maxsize=1024)
def _plan(shape: torch.Size) -> tuple[tuple[int, int, int, int], int]:
    """Images, places, channels and places in a strip; strips of an image."""
    images, channels, height, width = shape
    in_strip = max(STRIP // channels, 1)
    return (images, height * width, channels, in_strip), -(-height * width // in_strip)
