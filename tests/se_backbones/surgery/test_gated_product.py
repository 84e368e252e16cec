"""The convolution with its gate, sum and ReLU in one pass, on processors with AMX: what it computes, and where it is
taken."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, SEGate, fuse
from se_backbones.se import GATES
from se_backbones.surgery import fused_layers, gated_product
from se_backbones.surgery.fused_layers import FusedConv2d, GatedSum
from tests.se_backbones.networks import change_rows, images, shallow
from tests.se_backbones.surgery.fused import network, outputs

needs_amx = pytest.mark.skipif(
    not gated_product._works(), reason="needs a processor with AMX, and a C compiler that knows it"
)


def drawn(count, inputs, outputs, height, width):
    """Map, weights, shortcut and bias."""
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last}
    x, other = (torch.randn(count, n, height, width).bfloat16().to(**last) for n in (inputs, outputs))
    weight = (torch.randn(outputs, inputs, 1, 1) / inputs**0.5).bfloat16()
    return x, weight, other, torch.randn(outputs)


def layers_of(inputs, hidden, outputs):
    """Weight, bias, weight, bias; gates from nearly closed to nearly open."""
    return torch.randn(hidden, inputs) * 2, torch.randn(hidden), torch.randn(outputs, hidden), torch.randn(outputs)


def exact(x, weight, other, bias, layers, gate, relu, factor=1.0):
    branch = nn.functional.conv2d(x.double(), weight.double(), bias.double())
    first, shift1, second, shift2 = (one.double() for one in layers)
    hidden = nn.functional.linear(x.double().mean((2, 3)), first, shift1).relu()
    value = factor * getattr(torch, gate)(nn.functional.linear(hidden, second, shift2))
    out = other.double() + value[:, :, None, None] * branch
    return out.relu() if relu else out


def run(x, weight, other, bias, layers, gate, relu, factor=1.0, out=None):
    tiles, layers = gated_product.in_tiles(weight), gated_product.in_lanes(*layers)
    return gated_product.run(x, tiles, bias, layers, gate, factor, other, relu, out)


SHAPES = (  # with the gate's hidden channels
    ((1, 32, 32, 1, 1), 2),  # one place
    ((3, 64, 96, 7, 7), 12),  # blocks that two images share, and a last one of 19 places
    ((2, 96, 160, 4, 8), 16),  # channels beyond a group, a whole block an image
    ((13, 32, 64, 5, 13), 4),  # images by 8, by 4 and alone; a place more than are summed at a time
    ((2, 256, 32, 8, 16), 33),  # as many places as are summed, twice
)


@needs_amx
@pytest.mark.parametrize(
    "shape, hidden, relu, gate", [(*s, r, g) for s in SHAPES for r in (True, False) for g in GATES]
)
def test_it_is_the_formula(shape, hidden, relu, gate):
    x, weight, other, bias = drawn(*shape)
    assert gated_product.takes(x, weight, other)
    maps = (x, weight, other, bias, layers_of(shape[1], hidden, shape[2]), gate, relu, 0.3)
    out = run(*maps)
    # Sums in float32, rounded once: half of bfloat16's step.
    expected = exact(*maps)
    torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    over = other.clone()
    assert run(x, weight, over, *maps[3:], out=over) is over and torch.equal(over, out)


@needs_amx
@pytest.mark.parametrize("gate", GATES)
def test_gates_over_their_whole_range(gate):
    """With a branch of 1 and a shortcut of 0 the result is the gate, of what its second layer's bias says."""
    values = torch.cat(
        [
            torch.linspace(-100, 100, 4001),
            torch.linspace(-2, 2, 4000),
            torch.tensor([-torch.inf, -1e30, 0, 1e30, torch.inf]),
        ]
    )
    values = nn.functional.pad(values, (0, -len(values) % 32))
    count = len(values)
    x, weight = torch.ones(1, 32, 1, 1).bfloat16(), torch.zeros(count, 32, 1, 1).bfloat16()
    weight[:, 0] = 1
    other = torch.zeros(1, count, 1, 1).bfloat16()
    layers = torch.zeros(16, 32), torch.zeros(16), torch.zeros(count, 16), values
    out = run(
        *(one.to(memory_format=torch.channels_last) for one in (x, weight, other)),
        torch.zeros(count),
        layers,
        gate,
        False,
    )
    expected = getattr(torch, gate)(values.double())
    torch.testing.assert_close(out.double().flatten(), expected, rtol=2**-8, atol=2e-7)


@needs_amx
def test_what_is_not_a_number_stays_so():
    x, weight, other, bias = drawn(3, 64, 32, 7, 9)
    layers = layers_of(64, 4, 32)
    good = run(x, weight, other, bias, layers, "sigmoid", True)
    x[1, 5, 3, 3] = float("nan")
    for gate in GATES:
        out = run(x, weight, other, bias, layers, gate, True)
        assert out[1].isnan().all()  # its gate is none
        assert out[[0, 2]].isfinite().all()
    assert torch.equal(run(x, weight, other, bias, layers, "sigmoid", True)[[0, 2]], good[[0, 2]])
    other[0, 7, 0, 0] = float("nan")
    assert run(x, weight, other, bias, layers, "sigmoid", True)[0].isnan().sum() == 1


@needs_amx
def test_it_is_to_the_last_bit_that_of_another_number_of_threads():
    maps = (*drawn(2, 64, 160, 13, 11), layers_of(64, 10, 160), "sigmoid", True)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(run(*maps))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_amx
def test_what_it_does_not_take():
    x, weight, other, _ = drawn(2, 64, 32, 4, 6)
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
        maps = (x, self.conv.weight, shortcut.clone(), self.conv.bias)
        layers = (self.first, self.shift1, self.second, self.shift2)
        expected = exact(*maps, layers, self.activation, self.conv.activation == "relu", self.factor)
        out = whole(self, x, shortcut)
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
    x, _, other, _ = drawn(2, 64, 32, 4, 6)
    first = tail(x, other)
    assert set(tail.conv._ordered) == {"tiles", "bias", "gate"}
    again = copy.deepcopy(tail)
    assert not again.conv._ordered and torch.equal(again(x, other), first)
    assert not tail.float().conv._ordered
    torch.testing.assert_close(tail(x.float(), other.float()), first.float(), rtol=0.02, atol=0.02)


@torch.no_grad()
def test_without_it_another_way_is_taken(monkeypatch):
    monkeypatch.setattr(fused_layers.gated_product, "takes", lambda *a: False)
    conv, se = nn.Conv2d(64, 32, 1), SEGate(32, SEConfig(), 8)
    x, _, other, _ = drawn(2, 64, 32, 4, 6)
    branch = conv(x.float())
    expected = torch.relu(other.float() + se(branch) * branch)
    tail = GatedSum(FusedConv2d(conv.weight, conv.bias, conv), se, relu=True).bfloat16()
    torch.testing.assert_close(tail(x, other).float(), expected, rtol=0.03, atol=0.03)
