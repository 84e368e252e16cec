"""The Triton kernels of the gated sum, in Triton's interpreter, against the plain formula.

The interpreter is chosen by an environment variable before Triton is imported, so that this file is also the program
of a process of its own.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.se_backbones.gated_cases import compare, near

ROOT = Path(__file__).resolve().parents[2]

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
        [sys.executable, "-m", "tests.se_backbones.test_gated_triton"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) == len(SHAPES) * len(TYPES) * len(LAYOUTS) * 2


def compare_with_bias(shape, dtype, layout, relu):
    shortcut, branch = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(2))
    gate, bias = torch.rand(*shape[:2], 1, 1).to(dtype), torch.randn(shape[1]).to(dtype)
    exact = shortcut.double() + gate.double() * (branch.double() + bias.double().view(-1, 1, 1))
    near(gated_triton.forward(shortcut, branch, gate, relu, bias), torch.relu(exact) if relu else exact, 8)


if __name__ == "__main__":
    from se_backbones.layers import gated_triton

    gated_triton.TILE = TILE
    cases = list(itertools.product(SHAPES, TYPES, LAYOUTS, (True, False)))
    for case in cases:
        compare(gated_triton, *case)
        compare_with_bias(*case)
    print(len(cases))
