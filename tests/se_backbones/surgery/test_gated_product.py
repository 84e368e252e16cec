"""The convolution with its gate, sum and ReLU in one pass, on processors with AMX: what it computes, and where it is
taken."""

import copy
import itertools
from collections import Counter

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, SEGate, fuse
from se_backbones.surgery import fused_layers, gated_product
from se_backbones.surgery.fused_layers import FusedConv2d, GatedSum
from tests.se_backbones.networks import change_rows, images, shallow
from tests.se_backbones.surgery.fused import network, outputs

needs_amx = pytest.mark.skipif(
    not gated_product._works(), reason="needs a processor with AMX, and a C compiler that knows it"
)


def drawn(count, inputs, outputs, height, width):
    """Map, weights, shortcut, bias and gate."""
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last}
    x, other = (torch.randn(count, n, height, width).bfloat16().to(**last) for n in (inputs, outputs))
    weight = (torch.randn(outputs, inputs, 1, 1) / inputs**0.5).bfloat16()
    return x, weight, other, torch.randn(outputs), torch.rand(count, outputs)


def exact(x, weight, other, bias, gate, relu):
    branch = nn.functional.conv2d(x.double(), weight.double(), bias.double())
    out = other.double() + gate.double()[:, :, None, None] * branch
    return out.relu() if relu else out


SHAPES = (
    (1, 32, 32, 1, 1),  # one place
    (3, 64, 96, 7, 7),  # blocks that two images share, and a last one of 19 places
    (2, 96, 160, 4, 8),  # channels beyond a group, a whole block an image
    (2, 256, 32, 5, 9),
)


@needs_amx
@pytest.mark.parametrize("shape, relu", [*itertools.product(SHAPES, (True, False))])
def test_it_is_the_formula(shape, relu):
    x, weight, other, bias, gate = drawn(*shape)
    assert gated_product.takes(x, weight, other)
    tiles = gated_product.in_tiles(weight)
    out = gated_product.run(x, tiles, bias, gate, other, relu)
    # Sums in float32, rounded once: half of bfloat16's step.
    expected = exact(x, weight, other, bias, gate, relu)
    torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    over = other.clone()
    assert gated_product.run(x, tiles, bias, gate, over, relu, out=over) is over and torch.equal(over, out)
    x[0, 0, 0, 0] = float("nan")
    assert gated_product.run(x, tiles, bias, gate, other, relu)[0, :, 0, 0].isnan().all()


@needs_amx
def test_it_is_to_the_last_bit_that_of_another_number_of_threads():
    x, weight, other, bias, gate = drawn(2, 64, 160, 13, 11)
    tiles, threads, found = gated_product.in_tiles(weight), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(gated_product.run(x, tiles, bias, gate, other, True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_amx
def test_what_it_does_not_take():
    x, weight, other, *_ = drawn(2, 64, 32, 4, 6)
    assert gated_product.takes(x, weight, other)
    for changed in (
        (x.float(), weight, other),
        (x, weight.float(), other),
        (x, weight, other.float()),
        (x.contiguous(), weight, other),
        (x, weight, other.contiguous()),
        (x, weight, other[:1]),
        (x[:, :48].contiguous(memory_format=torch.channels_last), weight[:, :48], other),
        (x, weight[:16], other[:, :16].contiguous(memory_format=torch.channels_last)),
    ):
        assert not gated_product.takes(*changed)


@pytest.fixture
def calls(monkeypatch):
    found, whole = Counter(), gated_product.run
    monkeypatch.setattr(gated_product, "run", lambda *a, **k: found.update(["run"]) or whole(*a, **k))
    return found


@needs_amx
@pytest.mark.parametrize("count, size", [(3, (128, 96)), (1, (161, 131))])
@pytest.mark.parametrize("name", ["se_resnet50", "se_inception_resnet_v2", "se_resnext50_32x4d"])
@torch.no_grad()
def test_in_a_network_each_unit_is_exact_but_for_one_rounding(name, count, size, calls, monkeypatch):
    change_rows(monkeypatch, shallow)
    model, whole, errors = network(name), GatedSum.forward, []

    def watched(self, x, shortcut):
        maps = (x, self.conv.weight, shortcut.clone(), self.conv.bias, self.gate(x))
        out, expected = whole(self, x, shortcut), exact(*maps, self.conv.activation == "relu")
        errors.append(((out.double() - expected).abs().max() / expected.abs().max()).item())
        return out

    monkeypatch.setattr(GatedSum, "forward", watched)
    outputs(fuse(model, torch.bfloat16), images(*size, count=count))
    assert calls["run"] == len(errors) == len(model.se_sites())
    assert max(errors) < 2**-8  # half of bfloat16's step


@needs_amx
@torch.no_grad()
def test_weights_that_change_and_copies_are_put_in_order_again():
    conv, se = nn.Conv2d(64, 32, 1), SEGate(32, SEConfig(), 8)
    tail = GatedSum(FusedConv2d(conv.weight, conv.bias, conv), se, relu=True).bfloat16()
    x, _, other, *_ = drawn(2, 64, 32, 4, 6)
    first = tail(x, other)
    assert tail.conv._tiles is not None
    again = copy.deepcopy(tail)
    assert again.conv._tiles is None and torch.equal(again(x, other), first)
    assert tail.float().conv._tiles is None
    torch.testing.assert_close(tail(x.float(), other.float()), first.float(), rtol=0.02, atol=0.02)


@torch.no_grad()
def test_without_it_another_way_is_taken(monkeypatch):
    monkeypatch.setattr(fused_layers.gated_product, "takes", lambda *a: False)
    conv, se = nn.Conv2d(64, 32, 1), SEGate(32, SEConfig(), 8)
    x, _, other, *_ = drawn(2, 64, 32, 4, 6)
    branch = conv(x.float())
    expected = torch.relu(other.float() + se(branch) * branch)
    tail = GatedSum(FusedConv2d(conv.weight, conv.bias, conv), se, relu=True).bfloat16()
    torch.testing.assert_close(tail(x, other).float(), expected, rtol=0.03, atol=0.03)
