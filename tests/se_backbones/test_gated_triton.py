"""The Triton kernels of the gated sum, in Triton's interpreter, against the plain formula.

The interpreter is chosen by an environment variable before Triton is imported, so that this file is also the program
of a process of its own.
"""

import itertools
import os
import subprocess
import sys

import pytest
import torch

TILE = 128  # small, so that small maps have several
SHAPES = (
    (2, 5, 3, 7),  # smaller than a tile
    (1, 130, 3, 2),  # channels in two tiles of channels_last
    (2, 3, 11, 13),  # two strips of places in either layout
    (3, 1, 1, 1),
)
TYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.channels_last, torch.contiguous_format)


def test_kernels_equal_the_plain_formula():
    pytest.importorskip("triton")
    found = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) == len(SHAPES) * len(TYPES) * len(LAYOUTS) * 2


def compare(shape, dtype, layout, relu):
    from se_backbones.layers import gated_triton

    gated_triton.TILE = TILE
    torch.manual_seed(0)
    shortcut, branch, grad = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(3))
    gate, shift = (torch.rand(*shape[:2], 1, 1).to(dtype) for _ in range(2))
    shortcut[..., 0] = -2 * branch[..., 0]  # a column that the ReLU cuts or keeps whole
    branch[0, 0, 0, 0] = float("nan")
    # The interpreter cuts bf16 off where a GPU rounds: one step of the type, not half of one.
    step = {"rtol": torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps ** 2, "equal_nan": True}

    out = gated_triton.forward(shortcut, branch, gate, relu)
    exact = torch.addcmul(shortcut.double(), branch.double(), gate.double())
    exact = torch.relu(exact) if relu else exact
    torch.testing.assert_close(out.double(), exact, **(step | {"atol": 4 * torch.finfo(torch.float32).eps}))
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)

    d_sum, d_gate = gated_triton.backward(grad, branch, out if relu else None)
    cut = torch.ops.aten.threshold_backward(grad, out, 0) if relu else grad
    assert torch.equal(d_sum, cut)
    sums = (cut.double() * branch.double()).sum((2, 3), keepdim=True)
    # Sums of up to 143 products of about 1, in float32 whatever the type of the maps.
    torch.testing.assert_close(d_gate.double(), sums, rtol=1e-5, atol=1e-4, equal_nan=True)
    assert d_gate.dtype == torch.float32

    bias = torch.randn(shape[1]).to(dtype)
    biased = gated_triton.forward(shortcut, branch, gate, relu, bias)
    exact = shortcut.double() + gate.double() * (branch.double() + bias.double().view(-1, 1, 1))
    exact = torch.relu(exact) if relu else exact
    torch.testing.assert_close(biased.double(), exact, **(step | {"atol": 8 * torch.finfo(torch.float32).eps}))

    scaled = gated_triton.forward(shift, d_sum, gate, False)
    exact = torch.addcmul(shift.double(), d_sum.double(), gate.double())
    torch.testing.assert_close(scaled.double(), exact, **(step | {"atol": 4 * torch.finfo(torch.float32).eps}))


if __name__ == "__main__":
    cases = list(itertools.product(SHAPES, TYPES, LAYOUTS, (True, False)))
    for case in cases:
        compare(*case)
    print(len(cases))
