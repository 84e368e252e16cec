"""1×1 convolutions as products of matrices: which of them, where, and that they compute the same."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from se_backbones import fuse
from se_backbones.surgery import fused_layers as layers
from se_backbones.surgery import fused_operations as operations
from se_backbones.surgery import gated_product
from se_backbones.surgery.fused_layers import FusedConv2d
from tests.se_backbones.networks import change_rows, images, shallow
from tests.se_backbones.surgery.fused import difference, network, outputs


class Operations(TorchDispatchMode):
    """How often each of oneDNN's operations is called."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        namespace, _, name = function._schema.name.partition("::")
        self.calls[name] += namespace == "mkldnn"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["se_resnet50", "resnet50", "se_resnext50_32x4d", "se_mobilenet_v1"])
@torch.no_grad()
def test_1x1_convolutions_as_products_of_matrices(name, monkeypatch):
    """As on processors with AMX, in bf16. They are equal to the convolutions up to the order of sums."""
    monkeypatch.setattr(gated_product, "takes", lambda *a: False)
    change_rows(monkeypatch, shallow)
    model = network(name)
    fused, x = fuse(model, torch.bfloat16), images(96, 64, count=3)
    if not operations.has_onednn(x.bfloat16()):
        pytest.skip("this processor has none of oneDNN's operations in bf16")
    exact, found = outputs(model, x), {}
    for faster in (False, True):
        monkeypatch.setattr(layers, "multiplies_faster", lambda x, faster=faster: faster)
        with Operations() as counted:
            found[faster] = outputs(fused, x)
        alone = [
            one
            for one in fused.body.modules()
            if isinstance(one, FusedConv2d) and one.weight.shape[2:] == (1, 1) and one.groups == 1
        ]
        sums = 0 if name != "resnet50" else counted.calls["_convolution_pointwise_"]
        assert counted.calls["_linear_pointwise"] == (len(alone) - sums if faster else 0)
    assert difference(found[True], exact) < max(1e-2, 1.2 * difference(found[False], exact))


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"stride": (1, 3)}], ids=str)
@torch.no_grad()
def test_which_1x1_convolutions_are_products(settings, monkeypatch):
    monkeypatch.setattr(layers, "multiplies_faster", lambda x: True)
    for more, one in (({}, True), ({"groups": 2}, False), ({"padding": 1}, False), ({"kernel_size": 3}, False)):
        conv = nn.Conv2d(**{"in_channels": 16, "out_channels": 32, "kernel_size": 1, **settings, **more}).eval()
        x = torch.randn(2, 16, 7, 10).contiguous(memory_format=torch.channels_last)
        for activation in ("", "relu", "relu6"):
            fused = FusedConv2d(conv.weight, conv.bias * 20, conv)
            fused.activation = activation
            with Operations() as counted:
                found = fused(x)
            expected = nn.functional.conv2d(x, conv.weight, conv.bias * 20, conv.stride, conv.padding, 1, conv.groups)
            expected = {"": expected, "relu": expected.relu(), "relu6": expected.clamp(0, 6)}[activation]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert counted.calls["_linear_pointwise"] == one
            assert counted.calls["_reorder_linear_weight"] == one
            with Operations() as counted:
                assert torch.equal(fused(x), found)
            assert counted.calls["_reorder_linear_weight"] == 0  # once for all


def test_products_are_for_bf16_where_a_processor_multiplies_matrices(monkeypatch):
    x = torch.zeros(1, 16, 2, 2)
    for amx in (False, True):
        monkeypatch.setattr(operations, "has_amx", lambda amx=amx: amx)
        assert not operations.multiplies_faster(x)
        assert operations.multiplies_faster(x.bfloat16()) == (amx and operations._multiplies())
    operations._multiplies.cache_clear()
    wrong = lambda *arguments: torch.zeros(4, 16)  # noqa: E731
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", wrong, raising=False)
    assert not operations.multiplies_faster(x.bfloat16())
    operations._multiplies.cache_clear()
