"""The SE settings and the gate."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, SEGate, create_backbone


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"reduction": 0}, "reduction"),
        ({"reduction": ((2, 4), 8)}, "reduction"),
        ({"reduction": ()}, "reduction"),
        ({"reduction": 16.0}, "reduction"),
        ({"placement": "after"}, "standard, pre, post, identity, inside"),
        ({"stages": (1.5, 2)}, "stages"),
        ({"squeeze": "mean"}, "avg, max, none"),
        ({"gate": "softmax"}, "sigmoid, tanh, relu"),
        ({"init": "zero"}, "default, neutral"),
        ({"without": (4,)}, "without.*'layer4.2'; got 4"),
        ({"init": "neutral", "gate": "relu", "bias": False}, "relu gate without bias"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(settings, word):
    with pytest.raises(ValueError, match=word):
        SEConfig(**settings)


SITES = (("layer1.0", "res2"), ("layer1.1", "res2"), ("layer3.2", "res4"), ("layer3.10", "res4"), ("layer4.0", "res5"))


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"stages": (1,)}, "no stage 1 .* res2, res4, res5"),
        ({"stages": ("layer1",)}, "no stage 'layer1'"),
        ({"reduction": (16, 8)}, "or 3, one for each of res2, res4, res5"),
        ({"reduction": {"res3": 8}}, "no stage 'res3'"),
        ({"without": "layer3.3"}, "no unit layer3.3; layer3 has layer3.2 to layer3.10"),
        ({"without": "layer4"}, "no unit layer4"),
    ],
)
def test_what_a_network_does_not_have_is_refused_with_what_it_has(settings, word):
    with pytest.raises(ValueError, match=word):
        SEConfig(**settings).resolved(SITES)


@pytest.mark.parametrize("reduction", [(2, 4, 8), {"res2": 2, 4: 4, "res5": 8}, [["res2", 2], ["res4", 4], [5, 8]]])
def test_reduction_is_one_or_one_per_stage_in_order_or_by_name(reduction):
    se = SEConfig(reduction=reduction).resolved(SITES)
    assert [se.reduction_of(stage) for stage in ("res2", "res4", "res5")] == [2, 4, 8]
    assert SEConfig(**json.loads(json.dumps(asdict(se)))).resolved(SITES) == se


def test_equal_settings_have_one_resolved_form():
    standard = SEConfig().resolved(SITES)
    assert standard == SEConfig()
    assert SEConfig(reduction=[4]) == SEConfig(reduction=4) == SEConfig(reduction=(4, 4, 4)).resolved(SITES)
    assert [SEConfig(stages=all_of).resolved(SITES) for all_of in ((2, 4, 5), ["res5", "res4", 2])] == [standard] * 2
    assert SEConfig(stages=("5", "res2")).resolved(SITES).stages == ("res2", "res5")
    assert SEConfig(reduction={"res4": 8}).resolved(SITES).reduction_of("res2") == 16


def test_units_without_se():
    se = SEConfig(without=["layer3.10", "layer3.2", "layer3.10"], stages=(4, 5))
    assert se.without == ("layer3.2", "layer3.10") and SEConfig(without="layer4.1").without == ("layer4.1",)
    assert [path for path, stage in SITES if se.resolved(SITES).at(path, stage)] == ["layer4.0"]
    with torch.device("meta"):
        model = create_backbone("se_resnet50", se=se_of("layer4.2", "layer1.0"))
        gated = [site.path for site in model.se_sites() if site.gate is not None]
        assert len(gated) == 14 and not {"layer4.2", "layer1.0"} & set(gated)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 1000)
        with pytest.raises(ValueError, match="no unit layer4.3; layer4 has layer4.0 to layer4.2"):
            create_backbone("se_resnet50", 0, se=se_of("layer4.3"), out_features=("res2",))


def se_of(*without):
    return SEConfig(without=without)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize("gate", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_gate_is_the_papers_formula(squeeze, gate, bias):
    torch.manual_seed(0)
    module = SEGate(32, SEConfig(squeeze=squeeze, gate=gate, bias=bias), hidden=8)
    if bias:
        nn.init.normal_(module.fc1.bias)
        nn.init.normal_(module.fc2.bias)
    x = torch.randn(3, 32, 5, 7)
    z = x.mean((2, 3)) if squeeze == "avg" else x.flatten(2).max(-1).values
    w1, w2 = module.fc1.weight[:, :, 0, 0], module.fc2.weight[:, :, 0, 0]
    b1, b2 = (module.fc1.bias, module.fc2.bias) if bias else (0.0, 0.0)
    expected = getattr(torch, gate)(torch.relu(z @ w1.T + b1) @ w2.T + b2)
    assert w1.shape == (8, 32)
    torch.testing.assert_close(module(x)[:, :, 0, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate, constant", [("sigmoid", 0.5), ("relu", 1.0), ("tanh", 0.0)])
def test_a_neutral_gate_is_one_constant_and_its_second_layer_learns_at_once(gate, constant):
    torch.manual_seed(0)
    module = SEGate(16, SEConfig(gate=gate, init="neutral"), hidden=4)
    out = module(torch.randn(2, 16, 4, 4))
    assert torch.equal(out, torch.full_like(out, constant))
    (out * torch.randn_like(out)).sum().backward()
    assert module.fc2.weight.grad.abs().sum() > 0


def test_the_squeeze_of_a_large_fp16_map_does_not_overflow():
    module = SEGate(8, SEConfig(), hidden=4).half()
    out = module(torch.full((1, 8, 128, 128), 100.0, dtype=torch.float16))  # the sum alone is 1.6 million
    assert out.isfinite().all()


def test_the_squeezes_gradient_is_that_of_the_mean():
    module = SEGate(8, SEConfig(), hidden=4).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))
