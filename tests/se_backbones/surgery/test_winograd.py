"""Winograd's convolution is the convolution."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from se_backbones.surgery import fused_layers, winograd
from se_backbones.surgery.fused_layers import FusedConv2d


def maps(shape, outputs, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in (
        shape, (outputs, shape[1], 3, 3), (outputs,),
    ))  # fmt: skip
    return x.to(memory_format=torch.channels_last), weight, bias


def error(x, weight, bias, padding):
    found = winograd.convolve(x, winograd.transformed(weight), bias, padding)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    assert found.shape == exact.shape and found.dtype == x.dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    return ((found - exact).abs().max() / exact.abs().max()).item()


@pytest.fixture(params=[torch.float32, torch.bfloat16, "half points"], ids=str)
def tiles(request, monkeypatch):
    """The tiles of a type, computed in float64, where nothing but a mistake is left."""
    other = (3, (0, 1, -1, Fraction(1, 2)), True)
    monkeypatch.setitem(winograd.TILES, torch.float64, winograd.TILES.get(request.param, other))
    winograd._matrices.cache_clear()
    winograd._products.cache_clear()
    yield
    winograd._matrices.cache_clear()
    winograd._products.cache_clear()


@pytest.mark.parametrize("most", [1 << 22, 20_000, 1], ids=["at once", "some images", "row by row"])
@pytest.mark.parametrize(
    ("shape", "outputs", "padding"),
    [
        ((1, 16, 12, 16), 24, (1, 1)),
        ((3, 7, 9, 13), 5, (1, 1)),
        ((2, 8, 5, 6), 8, (0, 0)),
        ((1, 4, 1, 1), 4, (1, 1)),
        ((5, 8, 7, 30), 6, (0, 1)),
        ((1, 3, 3, 3), 2, (0, 0)),
    ],
)
def test_it_is_exact_in_maps_of_every_size(shape, outputs, padding, most, tiles, monkeypatch):
    monkeypatch.setattr(winograd, "MOST", most)
    assert error(*maps(shape, outputs), padding) < 1e-14


@pytest.mark.parametrize(("dtype", "stated"), [(torch.float32, 5e-6), (torch.bfloat16, 1e-2)], ids=str)
def test_rounding_is_that_of_the_direct_convolution_in_order_of_magnitude(dtype, stated):
    x, weight, bias = maps((1, 256, 24, 32), 256, dtype)
    assert error(x.relu(), weight / 48, bias, (1, 1)) < stated


@pytest.mark.parametrize(
    ("channels", "settings", "tiled"),
    [
        ((128, 256), {"padding": 1}, True),
        ((128, 128), {"padding": 0}, True),
        ((128, 128), {"padding": 1, "stride": 2}, False),
        ((128, 128), {"padding": 2, "dilation": 2}, False),
        ((256, 256), {"padding": 1, "groups": 2}, False),
        ((64, 128), {"padding": 1}, False),
        ((128, 512), {"padding": 1}, False),
    ],
    ids=str,
)
@torch.no_grad()
def test_which_convolutions_are_made_of_tiles(channels, settings, tiled, monkeypatch):
    monkeypatch.setattr(fused_layers, "has_amx", lambda: False)
    torch.manual_seed(0)
    conv = nn.Conv2d(*channels, 3, **settings)
    fused, calls = FusedConv2d(conv.weight, conv.bias, conv), []
    own = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *words: calls.append(1) or own(*words))
    x, _, _ = maps((2, channels[0], 14, 14), 1, torch.float32)
    expected = conv(x)
    other = torch.randn_like(expected)
    torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == tiled
    fused.activation = "relu"
    torch.testing.assert_close(fused(x, other), (expected + other).relu(), rtol=1e-5, atol=1e-5)
    fused(x[:, :, :4, :4].contiguous(memory_format=torch.channels_last))  # few tiles: the filters would cost most
    assert len(calls) == 2 * tiled


@torch.no_grad()
def test_where_a_processor_multiplies_matrices_in_bf16_it_is_for_float32_alone(monkeypatch):
    conv = nn.Conv2d(128, 128, 3, padding=1)
    fused = FusedConv2d(conv.weight, conv.bias, conv)
    x, _, _ = maps((1, 128, 32, 32), 1, torch.float32)
    assert fused._tiled(x) and not fused._tiled(x.bfloat16())  # unless it is asked for
    fused.tiled = (torch.float32, torch.bfloat16)
    for amx in (False, True):
        monkeypatch.setattr(fused_layers, "has_amx", lambda amx=amx: amx)
        assert fused._tiled(x) and fused._tiled(x.bfloat16()) is not amx
