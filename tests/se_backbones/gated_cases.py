"""What the kernels of the gated sum are to compute, by the plain formula in float64."""

from types import ModuleType

import torch


def compare(kernels: ModuleType, shape, dtype: torch.dtype, layout: torch.memory_format, relu: bool) -> None:
    torch.manual_seed(0)
    shortcut, branch, grad = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(3))
    gate, shift = (torch.rand(*shape[:2], 1, 1).to(dtype) for _ in range(2))
    shortcut[..., 0] = -2 * branch[..., 0]  # a column that the ReLU cuts or keeps whole
    branch[0, 0, 0, 0] = float("nan")

    out = kernels.forward(shortcut, branch, gate, relu)
    exact = torch.addcmul(shortcut.double(), branch.double(), gate.double())
    exact = torch.relu(exact) if relu else exact
    near(out, exact, 4)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    for place in (0, 1):  # over the shortcut, over the branch
        maps = [shortcut.clone(), branch.clone()]
        assert kernels.forward(*maps, gate, relu, out=maps[place]) is maps[place]
        assert torch.equal(maps[place].nan_to_num(7), out.nan_to_num(7))

    d_sum, d_gate = kernels.backward(grad, branch, out if relu else None)
    cut = torch.ops.aten.threshold_backward(grad, out, 0) if relu else grad
    assert torch.equal(d_sum, cut)
    sums = (cut.double() * branch.double()).sum((2, 3), keepdim=True)
    # Sums of products of about 1, in float32 whatever the type of the maps.
    torch.testing.assert_close(d_gate.double(), sums, rtol=1e-5, atol=1e-4, equal_nan=True)
    assert d_gate.dtype == torch.float32

    scaled = kernels.forward(shift, d_sum, gate, False)
    near(scaled, torch.addcmul(shift.double(), d_sum.double(), gate.double()), 4)


def near(found: torch.Tensor, exact: torch.Tensor, roundings: int) -> None:
    """Within one step of the type, for Triton's interpreter cuts bf16 off where a GPU rounds; near 0 within some
    roundings of float32, in which it is computed."""
    eps = torch.finfo(found.dtype).eps
    atol = roundings * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found.double(), exact, rtol=eps, atol=atol, equal_nan=True)
