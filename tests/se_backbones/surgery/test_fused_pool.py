"""Max pooling by whole numbers is PyTorch's, for every window, and is put only where no number is negative."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from se_backbones.surgery import fused_pool
from se_backbones.surgery.fuse import fuse_graph
from se_backbones.surgery.fused_pool import MaxPoolOfPositive

WINDOWS = [
    nn.MaxPool2d(*words, ceil_mode=ceil)
    for *words, ceil in itertools.product((2, 3, (3, 2), 5), (1, 2, 3, (2, 1)), (0, 1, 2), (False, True))
    if words[2] * 2 <= (words[0] if isinstance(words[0], int) else min(words[0]))
]


def positive(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape).relu().to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("own", WINDOWS, ids=str)
def test_every_window_on_every_size(own, monkeypatch):
    pool = MaxPoolOfPositive(own)
    torch.manual_seed(0)
    for size in itertools.product((5, 6, 7, 14), (5, 8, 9)):
        x = positive(2, 3, *size)
        x[0, 0] = 0
        expected = own(x)
        with monkeypatch.context() as patched:
            patched.setattr(F, "max_pool2d", None)  # which is what its parent calls
            found = pool(x)
        assert torch.equal(found, expected) and found.is_contiguous(memory_format=torch.channels_last)


def test_infinities_and_what_is_no_number():
    x = positive(1, 4, 6, 6)
    x[0, 0, 1, 1], x[0, 1, 2, 2], x[0, 2] = float("inf"), float("nan"), 0
    own = nn.MaxPool2d(3, 2, 1)
    assert torch.equal(MaxPoolOfPositive(own)(x).nan_to_num(-1), own(x).nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_left_to_pytorch(dtype):
    x, own = positive(2, 3, 9, 9, dtype=dtype), nn.MaxPool2d(3, 2, 1)
    assert torch.equal(MaxPoolOfPositive(own)(x), own(x))


def test_a_captured_graph_has_pytorchs_own(monkeypatch):
    monkeypatch.setattr(fused_pool, "captured", lambda: True)
    monkeypatch.setattr(MaxPoolOfPositive, "_along", None)
    x, own = positive(2, 3, 9, 9), nn.MaxPool2d(3, 2, 1)
    assert torch.equal(MaxPoolOfPositive(own)(x), own(x))


class Net(nn.Module):
    def __init__(self, activation, pool):
        super().__init__()
        self.conv, self.activation, self.pool, self.again = nn.Conv2d(3, 4, 1), activation, pool, nn.MaxPool2d(2)

    def forward(self, x):
        return self.again(self.pool(self.activation(self.conv(x))))


@pytest.mark.parametrize(
    ("activation", "pool", "kinds"),
    [
        (nn.ReLU(), nn.MaxPool2d(3, 2, 1), [MaxPoolOfPositive] * 2),
        (nn.ReLU6(), nn.MaxPool2d(3, 2, 1), [MaxPoolOfPositive] * 2),
        (nn.Identity(), nn.MaxPool2d(3, 2, 1), [nn.MaxPool2d] * 2),
        (nn.Tanh(), nn.MaxPool2d(3, 2, 1), [nn.MaxPool2d] * 2),
        (nn.ReLU(), nn.MaxPool2d(3, 2, 1, dilation=2), [nn.MaxPool2d] * 2),
    ],
    ids=str,
)
@torch.no_grad()
def test_only_what_a_relu_has_made_is_taken_for_positive(activation, pool, kinds):
    model = Net(activation, pool).eval()
    fused = fuse_graph(model, model.forward)
    assert [type(one) for one in fused.modules() if isinstance(one, nn.MaxPool2d)] == kinds
    x = torch.randn(2, 3, 14, 13).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-5, atol=1e-6)
