"""The gated sum that ends a residual unit, with a backward pass of its own."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from se_backbones.layers.compiled import can_read, transformed

# From how many elements of a map on the passes of its own are taken, by device. Measured on a CPU with one thread, for
# training: below, the time of Python's calls weighs more than the passes saved.
FROM_ELEMENTS = {"cpu": 500_000}


def use_gated_kernels(on: bool = True) -> None:
    """Whether training on a GPU takes the gated sum's own backward pass, in Triton: for steps that the GPU limits.
    Evaluation takes the kernel of the forward pass then.

    Off unless it is called. The kernels take less of the GPU's time than autograd's operations, but more of the
    host's: where the host limits a step, as it did on an H200 with a slow processor at 64 images of 224 pixels in
    SE-ResNet-50, a step gets slower. Try it with large batches, and measure.
    """
    if on:
        FROM_ELEMENTS["cuda"] = 1
    else:
        FROM_ELEMENTS.pop("cuda", None)


def gated_sum(shortcut: Tensor, branch: Tensor, se: Callable[[Tensor], Tensor], relu: bool = False) -> Tensor:
    """``shortcut + se(branch) * branch``, then ReLU where ``relu``: (N, C, H, W).

    In training the backward pass is written out (see ``_Sum``) where maps are large enough (``FROM_ELEMENTS``), on GPUs
    where ``use_gated_kernels`` says so: it keeps the branch, the gate and, for the ReLU, the result, and with kernels
    (``kernels_for``) it passes over a map 6 times where autograd's passes 11 times. Its sums over places are made in
    one order, so that two runs are equal bit for bit. Second derivatives are exact. Without gradients such maps take
    the kernels, one pass. Everywhere else, and under torch.compile, export, tracing, torch.func and forward-mode AD, it
    is a multiply-add over the map (the original release fused it as a layer named Axpy) and a ReLU in place.

    Args:
        shortcut, branch: (N, C, H, W), of one type and device.
        se: gives the gate of a map, (N, C, 1, 1) or (N, C, H, W).
    """
    if not _worth_own_passes(shortcut, branch):
        return _multiply_add(shortcut, branch, se(branch), relu)
    squeezed = branch
    if trained := torch.is_grad_enabled() and (branch.requires_grad or shortcut.requires_grad):
        link = _Link()
        branch, squeezed = _Fork.apply(branch, link)
    gate = se(squeezed)
    if gate.shape != (*branch.shape[:2], 1, 1) or torch.promote_types(gate.dtype, branch.dtype) != branch.dtype:
        return _multiply_add(shortcut, branch, gate, relu)
    gate = gate.to(branch.dtype)
    if trained:
        return _Sum.apply(shortcut, branch, gate, relu, link)
    # Where the gate alone is trained, autograd has to see the sum.
    kernels = None if gate.requires_grad and torch.is_grad_enabled() else kernels_for(branch)
    return (kernels.forward if kernels else _multiply_add)(shortcut, branch, gate, relu)


def _multiply_add(shortcut: Tensor, branch: Tensor, gate: Tensor, relu: bool) -> Tensor:
    out = torch.addcmul(shortcut, branch, gate)
    return out.relu_() if relu else out


def _worth_own_passes(shortcut: Tensor, branch: Tensor) -> bool:
    """Whether more than PyTorch's own operations is right for the maps, and worth its calls."""
    return (
        type(branch) is type(shortcut) is Tensor  # no FakeTensor, DTensor or other stand-in
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not transformed()
        and branch.numel() >= FROM_ELEMENTS.get(branch.device.type, math.inf)
        and (branch.dtype, branch.device, branch.shape) == (shortcut.dtype, shortcut.device, shortcut.shape)
    )


class _Link:
    """Carries the gate from the backward pass of a ``_Sum`` to that of its ``_Fork``, which always comes after it."""

    gate: Tensor | None = None
    # False once a backward pass has been made differentiable: then gradients of gradients reach the fork too, which
    # are not to be scaled.
    deferred = True


class _Fork(torch.autograd.Function):
    """The branch twice: for the sum and for the squeeze.

    Where the link holds the gate, the gradient that comes from the sum is not yet scaled by it: that is done here, in
    the same pass that adds the gradient of the squeeze, a broadcast view. The scaled gradient alone is never written.
    """

    # The older form, with ctx: for a setup_context of its own PyTorch inspects the signature at every call, which
    # takes longer than all the rest here.
    @staticmethod
    def forward(ctx, branch, link):
        ctx.link = link
        ctx.set_materialize_grads(False)
        return branch.view_as(branch), branch.view_as(branch)

    @staticmethod
    def backward(ctx, d_sum, d_squeezed):
        gate, ctx.link.gate = ctx.link.gate, None
        if d_sum is None or d_squeezed is None:
            return (d_squeezed if d_sum is None else d_sum if gate is None else d_sum * gate), None
        if gate is None:
            return d_sum + d_squeezed, None
        kernels = None if torch.is_grad_enabled() else kernels_for(d_sum)
        if kernels and d_squeezed.stride()[2:] == (0, 0):
            return kernels.forward(d_squeezed[:, :, :1, :1], d_sum, gate, False), None
        # Without a place to put it, the result would take the memory format of d_squeezed, and all behind it, too.
        out = None if torch.is_grad_enabled() else torch.empty_like(d_sum)
        return torch.addcmul(d_squeezed, d_sum, gate, out=out), None


class _Sum(torch.autograd.Function):
    """``shortcut + gate * branch`` and ReLU. With ``d_sum = grad * (out > 0)``: ``d_shortcut = d_sum``, ``d_gate`` is
    the sum over places of ``d_sum * branch``, and ``d_branch = d_sum * gate``, whose product is left to ``_Fork``."""

    @staticmethod
    def forward(ctx, shortcut, branch, gate, relu, link):
        kernels = kernels_for(branch)
        out = (kernels.forward if kernels else _multiply_add)(shortcut, branch, gate, relu)
        ctx.link = link
        ctx.save_for_backward(branch, gate, out if relu else None)
        return out

    @staticmethod
    def backward(ctx, grad):
        branch, gate, out = ctx.saved_tensors
        # For a second derivative the gradients are made of differentiable operations.
        kernels = None if torch.is_grad_enabled() else kernels_for(branch)
        d_sum, d_gate = (kernels.backward if kernels else _gradients)(grad, branch, out)
        ctx.link.deferred &= not torch.is_grad_enabled()
        ctx.link.gate = gate if ctx.link.deferred else None
        d_branch = d_sum if ctx.link.deferred else d_sum * gate
        return d_sum, d_branch, d_gate.to(gate.dtype), None, None


def _gradients(grad: Tensor, branch: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """``d_sum`` and ``d_gate`` (N, C, 1, 1) with plain operations; ``out`` is the ReLU's result."""
    d_sum = grad if out is None else torch.ops.aten.threshold_backward(grad, out, 0)
    return d_sum, (d_sum * branch).sum((2, 3), keepdim=True)


def kernels_for(x: Tensor) -> ModuleType | None:
    """The kernels that can work on a map: on GPUs Triton's (``gated_triton``), on processors those in C
    (``gated_cpu``). None elsewhere."""
    if x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16):
        # A grid has 65,535 blocks in two of its directions; inside an image the kernels count in 32 bits.
        return _triton(x.device) if max(x.shape[:2]) <= 65535 and x[0].numel() < 2**31 else None
    if x.dtype in (torch.float32, torch.bfloat16) and can_read(x) and x.numel() > 0:
        return _compiled()
    return None


@functools.cache
def _triton(device: torch.device) -> ModuleType | None:
    """The kernels, once they have run on a device: Triton may be missing, or the C compiler that it calls."""
    if torch.cuda.get_device_capability(device) < (8, 0):  # before Ampere, no bf16
        return None
    try:
        from se_backbones.layers import gated_triton
    except ImportError:
        return None
    try:
        one = torch.ones(1, 1, 1, 1, device=device)
        gated_triton.forward(one, one, one, True)
    except Exception as error:  # whatever a compiler can raise
        warnings.warn(
            f"SE's Triton kernels do not run on {device}; PyTorch's operations do their work: {error}",
            stacklevel=2,
        )
        return None
    return gated_triton


@functools.cache
def _compiled() -> ModuleType | None:
    """The kernels for this processor, where the system has a C compiler that makes them."""
    try:
        from se_backbones.layers import gated_cpu

        gated_cpu.kernels()
    except OSError:
        return None
    return gated_cpu
