"""Gates that hardly move, folded into the weights."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, create_backbone, fold_constant_gates, insert_se
from se_backbones.surgery.fold import fold_gate, obstacle
from se_backbones.weights import WeightsError, convert_file, describe, load_weights

LAST_STAGE = ["layer4.0", "layer4.1"]


def trained(name="se_resnet18", saturated=LAST_STAGE, moves=1.0, num_classes=5, **kwargs):
    """Random weights, statistics and gates; those of the `saturated` units move by little and differ by channel."""
    torch.manual_seed(5)
    model = create_backbone(name, num_classes, **kwargs)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.3, 0.9) if key.endswith("weight") else tensor.uniform_(-0.4, 0.4)
        for site in model.se_sites():
            if site.path in saturated:
                site.gate.fc2.weight.mul_(moves)
                site.gate.fc2.bias.uniform_(0.2, 2.0)
            elif site.gate is not None:
                site.gate.fc2.weight.mul_(100)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(n, 3, 40, 36, generator=generator) + torch.randn(n, 3, 1, 1, generator=generator) for n in (3, 2)
    ]


@torch.no_grad()
def gate_values(model, images):
    """Every gate on every image, (images, channels), by unit."""
    values = {}
    hooks = [
        site.gate.register_forward_hook(lambda _m, _i, g, n=site.path: values.setdefault(n, []).append(g.flatten(1)))
        for site in model.se_sites()
        if site.gate is not None
    ]
    for batch in images:
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in values.items()}


def test_the_last_stage_is_folded_and_the_outputs_stay(images):
    model = trained(moves=0)
    before = copy.deepcopy(model)
    report = fold_constant_gates(model, images, tolerance=0)
    assert report.folded == LAST_STAGE and report.images == 5
    assert [site.gate is not None for site in model.se_sites()] == [True] * 6 + [False] * 2
    with torch.no_grad():
        for batch in images:
            torch.testing.assert_close(model(batch), before(batch), rtol=1e-5, atol=1e-6)
    kept = [gate for gate in report.gates if not gate.folded]
    assert [gate.name for gate in kept] == [f"layer{stage}.{unit}" for stage in (1, 2, 3) for unit in (0, 1)]
    assert all("strays from its mean by" in gate.reason for gate in kept)


def test_the_report_says_what_the_gates_did_and_how_the_outputs_changed(images):
    model = trained()
    before = copy.deepcopy(model)
    values = gate_values(before, images)
    report = fold_constant_gates(model, images, tolerance=0.01)
    assert report.folded == LAST_STAGE
    for gate in report.gates:
        seen = values[gate.name].double()
        assert (gate.minimum, gate.maximum) == (seen.min().item(), seen.max().item())
        assert gate.mean == pytest.approx(seen.mean().item())
        assert gate.deviation == pytest.approx((seen - seen.mean(0)).abs().max().item(), rel=1e-6)
    with torch.no_grad():
        theirs, ours = (torch.cat([network(batch) for batch in images]) for network in (before, model))
    change = report.outputs["logits"]
    assert change.largest_difference == pytest.approx((ours - theirs).abs().max().item(), rel=1e-6) and not torch.equal(
        ours, theirs
    )
    assert change.mean_difference == pytest.approx((ours - theirs).abs().mean().item(), rel=1e-4)
    assert change.largest_value == theirs.abs().max().item()
    text = report.format()
    assert "2 of 8 gates folded" in text and "layer1.0" in text and "logits: changed by at most" in text
    assert json.loads(json.dumps(report.as_dict()))["folded"] == LAST_STAGE


def test_the_tolerance_is_the_largest_deviation(images):
    deviation = {gate.name: gate.deviation for gate in fold_constant_gates(trained(), images, 0).gates}
    assert fold_constant_gates(trained(), images, deviation["layer4.1"]).folded[-1] == "layer4.1"
    assert "layer4.1" not in fold_constant_gates(trained(), images, deviation["layer4.1"] * 0.999).folded


def test_the_mean_is_each_channels_own(images):
    model, before = trained(moves=0), trained(moves=0)
    fold_constant_gates(model, images, 0)
    gate = torch.sigmoid(before.layer4[1].se.fc2.bias)
    assert gate.std() > 0.05
    torch.testing.assert_close(model.layer4[1].bn2.weight, before.layer4[1].bn2.weight * gate)
    torch.testing.assert_close(model.layer4[1].bn2.bias, before.layer4[1].bn2.bias * gate)


def test_a_folded_network_is_built_anew_from_its_config(images):
    model = trained()
    fold_constant_gates(model, images, 0.01)
    assert model.spec.se.without == tuple(LAST_STAGE) and model.spec.name == "se_resnet18"
    se = SEConfig(**json.loads(json.dumps(dataclasses.asdict(model.spec.se))))
    rebuilt = create_backbone(model.spec.name, 5, se=se).eval()
    rebuilt.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(images[0]), model(images[0]))
    fold_constant_gates(model, images, 0.0)  # again: nothing left to do, and nothing forgotten
    assert model.spec.se.without == tuple(LAST_STAGE)


@pytest.mark.parametrize(
    "se",
    [
        SEConfig(),
        *(SEConfig(placement=p) for p in ("pre", "inside")),
        *(SEConfig(gate="relu", placement=p) for p in ("identity", "post")),
    ],
    ids=lambda se: f"{se.gate}-{se.placement}",
)
@pytest.mark.parametrize("norm", ["BN", "GN", "FrozenBN"])
def test_folding_undoes_an_insertion_bit_for_bit(se, norm, images):
    plain = create_backbone("resnet18", 5, norm=norm).eval()
    model = insert_se(copy.deepcopy(plain), se)
    report = fold_constant_gates(model, images, 0)
    assert len(report.folded) == 8 and report.outputs["logits"].largest_difference == 0
    assert model.spec == plain.spec
    state = model.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in plain.state_dict().items())


@pytest.mark.parametrize("placement", ["standard", "pre", "identity", "post", "inside"])
def test_what_has_no_weight_to_take_the_mean_is_kept_with_the_reason(placement, images):
    everything = [f"layer{layer}.{index}" for layer in (1, 2, 3, 4) for index in (0, 1)]
    model = trained(se=SEConfig(placement=placement), saturated=everything, moves=0)
    before = copy.deepcopy(model)
    report = fold_constant_gates(model, images, 0)
    foldable = {"identity": ["layer2.0", "layer3.0", "layer4.0"], "post": []}.get(placement, everything)
    assert report.folded == foldable
    reasons = {gate.reason for gate in report.gates if not gate.folded}
    assert all("no weight" in reason for reason in reasons) and bool(reasons) == (foldable != everything)
    with torch.no_grad():
        torch.testing.assert_close(model(images[0]), before(images[0]), rtol=1e-5, atol=1e-6)
    assert (model.spec.se is None) == (foldable == everything)


def test_a_negative_gate_behind_a_relu_is_kept(images):
    model = trained("se_resnet18_caffe", se=SEConfig(gate="tanh"), moves=0)
    with torch.no_grad():
        model.layer4[0].se.fc2.bias[3] = -1.0
    report = fold_constant_gates(model, images, 0)
    assert report.folded == ["layer4.1"] and "negative mean behind a ReLU" in report.gates[6].reason


def test_a_feature_extractor_inside_a_model_reports_its_maps_and_keeps_its_mode(images):
    net = trained(num_classes=0, out_features=("res3", "res5"))
    model = nn.ModuleDict({"backbone": net, "head": nn.Linear(2, 2)}).train()
    net.layer1.eval()
    statistics = net.bn1.running_mean.clone()
    report = fold_constant_gates(model, images, 0.01)
    assert set(report.outputs) == {"res3", "res5"} and report.outputs["res3"].largest_difference == 0
    assert 0 < report.outputs["res5"].largest_difference < 0.1 * report.outputs["res5"].largest_value
    assert net.training and not net.layer1.training and net.layer1[0].training is False and net.layer4[1].training
    assert torch.equal(net.bn1.running_mean, statistics)


def test_one_gate_at_a_time_takes_the_mean_that_is_given(images):
    model = trained(se=SEConfig(hidden=(("layer4.1", 7), ("layer1.0", 5))))
    before = copy.deepcopy(model)
    sites = {site.path: site for site in model.se_sites()}
    mean = torch.linspace(0.1, 0.9, 512)
    assert obstacle(sites["layer4.1"], mean) == ""
    fold_gate(model, sites["layer4.1"], mean)
    assert model.spec.se.without == ("layer4.1",) and model.spec.se.hidden == (("layer1.0", 5),)
    torch.testing.assert_close(model.layer4[1].bn2.weight, before.layer4[1].bn2.weight * mean)
    assert model.layer4[1].se is None and model.layer4[0].se is not None
    for site in sites.values():
        if site.gate is not None:
            fold_gate(model, site, torch.ones(site.channels()))
    assert model.spec.se is None and model.spec.name == "resnet18"


@pytest.mark.parametrize(
    "data, tolerance, words",
    [
        (iter([torch.zeros(1, 3, 32, 32)]), 0, "not an iterator"),
        ([], 0, "no image"),
        ([torch.zeros(1, 3, 32, 32)], -0.1, "0 or more"),
        ([torch.zeros(1, 3, 32, 32)], float("nan"), "0 or more"),
    ],
)
def test_wrong_arguments_are_refused(data, tolerance, words):
    model = trained()
    with pytest.raises(ValueError, match=words):
        fold_constant_gates(model, data, tolerance)
    assert all(site.gate is not None for site in model.se_sites())


def test_a_network_without_se_has_nothing_to_fold(images):
    with pytest.raises(ValueError, match="no squeeze-and-excitation"):
        fold_constant_gates(create_backbone("resnet18", 5), images, 0)


@pytest.mark.parametrize("unit", ["layer4.0", "layer4.1"])
def test_weights_of_a_folded_network_tell_which_units_have_no_se(unit, images, tmp_path):
    model = trained(saturated=[unit], moves=0, se=SEConfig(reduction=(8, 16, 16, 16)))
    fold_constant_gates(model, images, 0)
    shape = describe(model.state_dict())
    assert shape.se_without == (unit,) and shape.reduction == (8, 16, 16, 16)
    path = tmp_path / "folded.pth"
    torch.save({"architecture": "se_resnet18", "state_dict": model.state_dict()}, path)
    with pytest.raises(WeightsError, match=f"units {unit} have no SE"):
        convert_file(path, tmp_path / "timm.pth", "timm")
    se = SEConfig(**json.loads(convert_file(path, tmp_path / "ours.pth").metadata["se"]))
    assert se == SEConfig(reduction=(8, 16, 16, 16), without=(unit,))
    with pytest.raises(WeightsError, match=rf"SEConfig\(without=\('{unit}',\)\)"):
        load_weights(create_backbone("se_resnet18", 5, se=SEConfig(reduction=(8, 16, 16, 16))), path)
    load_weights(create_backbone("se_resnet18", 5, se=se), path)
