"""What every network of every family must keep: stages, sites, and what must not change its results."""

import copy
import math
import os
import re

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from se_backbones import (
    FrozenBatchNorm2d,
    SEConfig,
    create_backbone,
    find_spec,
    fold_constant_gates,
    insert_se,
    list_backbones,
    twin_name,
)
from se_backbones.registry import skeleton
from tests.se_backbones.networks import change_rows, distinct_rows, small

ROWS = list_backbones()
# With SE_SWEEP=all in the environment everything is shown on every row as it is; else what takes long is shown on one
# of each kind, made small.
ALL = os.environ.get("SE_SWEEP") == "all"
DISTINCT = ROWS if ALL else distinct_rows()
PLAIN = [name for name in DISTINCT if find_spec(name).se is None]
# A gated network's trace has its plain twin's operations in it; other strides, groups, stems, clips and mixtures give
# the tracer nothing new.
NOTHING_NEW = re.compile("next|senet|resnet20_|wrn|shakeeven|_mix|_pytorchcv|_caffe|_relu|bare|_bias")
TRACED = [name for name in DISTINCT if ALL or (find_spec(name).se and not NOTHING_NEW.search(name))]


@pytest.fixture
def small_rows(monkeypatch):
    if not ALL:
        change_rows(monkeypatch, small)


def image_of(name, n=2, dtype=torch.float32):
    """Odd sizes, small ones where the network takes them."""
    small = {224: (65, 50), 299: (107, 92), 32: (33, 26)}[find_spec(name).image_size]
    return torch.randn(n, 3, *small, dtype=dtype, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def trained(name, num_classes, **overrides):
    """A network with nothing at its first value, and statistics as after a training."""
    torch.manual_seed(3)
    model = create_backbone(name, num_classes, **overrides)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.3, 0.9) if key.endswith("weight") else tensor.uniform_(-0.4, 0.4)
    return model.eval()


def outputs(model, x):
    features = model.forward_features(x)
    return features | ({"logits": model.classify(features[model.stages[-1]])} if model.num_classes else {})


@pytest.mark.parametrize("name", ROWS)
def test_maps_are_the_announced_ones_and_a_pyramid_can_stand_on_them(name):
    spec = find_spec(name)
    with torch.device("meta"):
        model = create_backbone(name, 0).eval()
        for size in (spec.image_size, 160) if name in DISTINCT else (160,):
            maps = model.forward_features(torch.empty(1, 3, size, size))
            assert list(maps) == list(model.stages) == list(model.feature_info)
            for stage, info in model.feature_info.items():
                assert maps[stage].shape[:2] == (1, info.channels)
                if size % 32 == 0:
                    assert maps[stage].shape[2:] == (size // info.stride, size // info.stride), stage
    strides = {info.stride for info in model.feature_info.values()}
    assert spec.image_size == 32 or strides >= {4, 8, 16, 32}


@pytest.mark.parametrize("name", ROWS)
def test_sites_carry_the_gates_and_stages_hold_every_parameter(name):
    spec, whole = find_spec(name), skeleton(find_spec(name))
    sites = whole.se_sites()
    assert len({site.path for site in sites}) == len(sites) > 0
    assert [stage for stage in whole.stages if any(site.stage == stage for site in sites)] == list(
        dict.fromkeys(site.stage for site in sites)
    )
    for site in sites:
        assert whole.get_submodule(site.path) is site.owner and whole.stage_of(site.path) == site.stage
    for parameter, _ in whole.named_parameters():
        assert (whole.stage_of(parameter) is None) == parameter.startswith(whole.head_paths), parameter
    with torch.device("meta"):
        twin = create_backbone(name, 0, se=SEConfig(reduction=4, bias=False))
    added = sum(p.numel() for p in twin.parameters()) - sum(p.numel() for p in create_plain(name).parameters())
    assert added == sum(2 * site.channels() * (site.channels() // 4) for site in twin.se_sites())
    assert (spec.se is None) == (not name.startswith("se"))


def create_plain(name):
    with torch.device("meta"):
        return create_backbone(name, 0, se=None)


@pytest.mark.parametrize("name", DISTINCT)
def test_batched_single_and_channels_last_are_one(name, small_rows):
    # In float64: 36 units of random weights in a row enlarge a rounding error of float32 ten thousand times.
    model = trained(name, 3).double()
    x = image_of(name, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        others = [torch.cat([model(one[None]) for one in x])]
        others.append(model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)))
    assert expected.norm() > 0
    for other in others:
        assert (other - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("name", TRACED)
def test_compiled_is_eager(name, small_rows):
    torch._dynamo.reset()
    model = trained(name, 3).double()
    x = image_of(name, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        # aot_eager traces and rewrites as any backend does, and needs no C++ compiler; fullgraph: no break anywhere.
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    assert expected.norm() > 0
    assert (compiled - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("name", DISTINCT)
def test_every_parameter_learns_but_the_frozen_ones_and_recomputing_changes_no_gradient(name, small_rows):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = create_backbone(name, 3, freeze_at=2, recompute=recompute, dropout=0.0).train().double()
        frozen = [f"{path}." for stage in model.stages[:2] for path in model.stage_paths[stage]]
        torch.manual_seed(1)
        model(image_of(name, dtype=torch.float64)).square().sum().backward()
        for parameter, p in model.named_parameters():
            assert p.requires_grad is not parameter.startswith(tuple(frozen))
            assert (p.grad is not None) == p.requires_grad, parameter
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for parameter, gradient in gradients[0].items():
        again = gradients[1][parameter]
        assert (again - gradient).norm() <= 1e-9 * gradient.norm(), parameter


@pytest.mark.parametrize("gate", ["sigmoid", "relu"])
@pytest.mark.parametrize("name", PLAIN)
def test_an_insertion_changes_nothing_and_folding_undoes_it(name, gate, small_rows):
    """A gate of 1 is the plain network; a gate of 0.5 is taken up by the layers that can, exactly; and folding gives
    the plain network back, bit for bit."""
    plain = trained(name, 3)
    model = insert_se(copy.deepcopy(plain), SEConfig(gate=gate))
    assert model.spec.name == (twin_name(plain.spec, se=True) or name)
    x = image_of(name)
    with torch.no_grad():
        theirs, ours = plain(x), model(x)
    assert torch.equal(ours, theirs)
    report = fold_constant_gates(model, [x], tolerance=0)
    assert len(report.folded) == len(plain.se_sites()) and report.outputs["logits"].largest_difference == 0
    assert model.spec == plain.spec
    state = model.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in plain.state_dict().items())


@pytest.mark.parametrize("name", PLAIN)
def test_where_maps_are_handed_out_an_insertion_leaves_them_or_says_why_not(name, small_rows):
    plain = trained(name, 0)
    x = image_of(name)
    for se in (SEConfig(), SEConfig(gate="relu")):
        model = copy.deepcopy(plain)
        try:
            insert_se(model, se)
        except ValueError as refused:
            assert se.gate == "sigmoid" and "Use gate='relu'" in str(refused)
            assert not [site for site in model.se_sites() if site.gate is not None]
        with torch.no_grad():
            for ours, theirs in zip(outputs(model, x).values(), outputs(plain, x).values(), strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", PLAIN)
def test_a_gate_scales_what_its_absorbers_scale(name, small_rows):
    """Factors of two, one a channel: what the gate does to the map, and what the absorbers do in its place."""
    plain = trained(name, 3)
    x = image_of(name)
    twin = copy.deepcopy(plain)
    for index, site in enumerate(twin.se_sites()):
        absorbers = site.absorbers("standard")
        assert isinstance(absorbers, str) or absorbers
        factor = 2.0 ** ((torch.arange(site.channels()) + index) % 3 - 1)
        gate = site.attach(SEConfig(gate="relu").resolved(twin.spec.sites()))
        gate.fc2.weight.data.zero_()
        gate.fc2.bias.data.copy_(1 / factor)
        if not isinstance(absorbers, str):
            for absorber in absorbers:
                absorber.multiply(factor)
        else:
            gate.fc2.bias.data.fill_(1.0)
    with torch.no_grad():
        theirs, ours = plain(x), twin.eval()(x)
    assert torch.equal(ours, theirs) and math.isfinite(theirs.norm())


def test_group_norm_and_frozen_norm_are_taken_by_every_family():
    families = {find_spec(name).family: name for name in reversed(ROWS)}
    for name in families.values():
        for norm, kind in (("GN", nn.GroupNorm), ("SyncBN", nn.SyncBatchNorm)):
            with torch.device("meta"):
                model = create_backbone(name, 3, norm=norm)
            kinds = {type(m) for m in model.modules() if isinstance(m, nn.GroupNorm | _BatchNorm | FrozenBatchNorm2d)}
            assert kinds == {kind}, name
