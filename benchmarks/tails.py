"""The gated sum that ends a residual unit: its speed, and whether its kernels are right."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import torch

from benchmarks.measure import Setting, faster
from se_backbones import SEConfig, SEGate
from se_backbones.families.resnet.units import residual_tail
from se_backbones.layers import gated


def maps_of(setting: Setting, channels: int, stride: int):
    """Branch, shortcut and the result's gradient at one stage of a ResNet-50."""
    side = -(-setting.size // stride)
    shape = (setting.batch, channels, side, side)
    maps = (torch.randn(shape, device=setting.device, dtype=setting.dtype) for _ in range(3))
    branch, shortcut, grad = (x.to(memory_format=torch.channels_last) for x in maps)
    return branch.requires_grad_(), shortcut.requires_grad_(), grad


def kernels_of(x: torch.Tensor) -> str | None:
    """The name of the module whose kernels work on a map."""
    kernels = gated.kernels_for(x)
    return kernels and kernels.__name__.rpartition(".")[2]


def tail(setting: Setting) -> dict:
    """Scale, add and ReLU of one unit of res2, forward and backward: residual_tail against three operations."""
    branch, shortcut, grad = maps_of(setting, 256, 4)
    gate = torch.rand(setting.batch, 256, 1, 1, device=setting.device, dtype=setting.dtype).requires_grad_()

    def three():
        torch.autograd.grad(torch.relu(branch * gate + shortcut), (branch, gate, shortcut), grad)

    def one():
        torch.autograd.grad(residual_tail(branch, lambda _: gate, shortcut), (branch, gate, shortcut), grad)

    return {"theirs": "relu(branch * gate + shortcut)", **faster(one, three, setting)}


def tail_calls(setting: Setting) -> Callable[[], None]:
    """The tails of res2 to res5 with their squeeze, forward and backward."""
    units = []
    for channels, stride in ((256, 4), (512, 8), (1024, 16), (2048, 32)):
        se = SEGate(channels, SEConfig(), channels // 16).to(setting.device, setting.dtype)
        units.append((se, *maps_of(setting, channels, stride)))

    def call():
        for se, branch, shortcut, grad in units:
            torch.autograd.grad(residual_tail(branch, se, shortcut), (branch, shortcut, *se.parameters()), grad)

    return call


def own_backward(setting: Setting) -> dict:
    """A tail with its squeeze in each of res2 to res5, forward and backward: the backward pass of its own against
    autograd's."""
    call = tail_calls(setting)

    def on(devices):
        def switched():
            kept, gated.FROM_ELEMENTS = gated.FROM_ELEMENTS, devices
            call()
            gated.FROM_ELEMENTS = kept

        return switched

    return {
        "theirs": "the same forward through autograd",
        "kernels": kernels_of(torch.ones(1, 1, 1, 1, device=setting.device, dtype=setting.dtype)),
        **faster(on({setting.device.type: 1}), on({}), setting),
    }


def kernels(setting: Setting) -> dict:
    """Result and gradients of the tail with its squeeze against the plain formula in float64: largest errors, its own
    backward pass beside autograd's, in each type and memory format; and whether a second run is equal bit for bit."""

    def run(devices, se, maps, grad):
        kept, gated.FROM_ELEMENTS = gated.FROM_ELEMENTS, devices
        maps = [x.detach().requires_grad_() for x in maps]
        out = residual_tail(maps[0], se, maps[1])
        grads = torch.autograd.grad(out, [*maps, *se.parameters()], grad)
        gated.FROM_ELEMENTS = kept
        return [out.detach(), *grads]

    types = (torch.float32, torch.bfloat16) + ((torch.float16,) if setting.device.type == "cuda" else ())
    names = ("out", "d_branch", "d_shortcut", "d_fc1", "d_fc1_bias", "d_fc2", "d_fc2_bias")
    rows = []
    for dtype in types:
        for layout in (torch.channels_last, torch.contiguous_format):
            for channels, height, width in ((256, 56, 56), (2048, 7, 7), (40, 19, 23)):
                shape = (min(setting.batch, 8), channels, height, width)
                maps = [torch.randn(shape, device=setting.device).to(dtype).to(memory_format=layout) for _ in range(3)]
                grad = maps.pop()
                se = SEGate(channels, SEConfig(), channels // 16).to(setting.device, dtype)
                # The same gate in float64, from the same rounded weights; the sign of a sum near 0 is a matter of
                # rounding, so the gradient is 0 there.
                exact = copy.deepcopy(se).double()
                doubles = [x.double() for x in maps]
                value = torch.addcmul(doubles[1], doubles[0], exact(doubles[0])).detach()
                grad = torch.where(value.abs() < 0.05, 0, grad)
                true = run({}, exact, doubles, grad.double())
                ours, again = (run({setting.device.type: 1}, se, maps, grad) for _ in range(2))
                autograds = run({}, se, maps, grad)

                def errors(found, true=true):
                    relative = [
                        ((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, true, strict=True)
                    ]
                    return {name: float(f"{error:.2g}") for name, error in zip(names, relative, strict=True)}

                rows.append(
                    {
                        "type": str(dtype).removeprefix("torch."),
                        "layout": str(layout).removeprefix("torch."),
                        "shape": "x".join(map(str, shape)),
                        "kernels": kernels_of(maps[0]),
                        "equal_twice": all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)),
                        "errors": errors(ours),
                        "errors_of_autograd": errors(autograds),
                    }
                )
    return {"cases": rows}


def compiled(setting: Setting) -> dict:
    """The tail under torch.compile: one kernel, counted in the code that it generates."""
    from torch._inductor.utils import run_and_get_code

    side = setting.size // 4
    shape = (setting.batch, 256, side, side)
    branch, shortcut = (torch.randn(shape, device=setting.device, dtype=setting.dtype) for _ in range(2))
    gate = torch.rand(setting.batch, 256, 1, 1, device=setting.device, dtype=setting.dtype)

    def tail_of(branch, gate, shortcut):
        return residual_tail(branch, lambda _: gate, shortcut)

    with torch.no_grad():
        out, code = run_and_get_code(torch.compile(tail_of), branch, gate, shortcut)
    kernels = sum(len(re.findall(r"async_compile\.(?:cpp_pybinding|triton)\(", text)) for text in code)
    return {
        "kernels": kernels,
        "equal": bool(torch.allclose(out, tail_of(branch, gate, shortcut), atol=1e-6)),
    }
