"""Channels cut out of a network: what stays computes what it computed, and the maps keep their shapes."""

import copy
import sys

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, create_backbone
from se_backbones.backbone import sites_of
from se_backbones.surgery.channel_groups import find_groups
from se_backbones.surgery.importance import IMPORTANCES, Evidence, taylor
from se_backbones.surgery.prune import prune
from se_backbones.weights import load_weights
from tests.se_backbones.networks import change_rows, distinct_rows, images, randomised, shallow

pytest.importorskip("torch_pruning")
INSIDE = SEConfig(placement="inside")

# A network of each family and kind of unit, the smallest of its rows.
NETWORKS = {
    "basic": ("se_resnet18", {"se": INSIDE}),
    "relu before SE": ("se_resnet18_caffe", {}),
    "bottleneck": ("se_resnet50", {"se": INSIDE}),
    "grouped": ("se_resnext50_32x4d", {"se": SEConfig(placement="inside", squeeze="none")}),
    "deep stem": ("senet154", {"out_features": ("res2",)}),
    "CIFAR": ("se_resnet20_cifar", {"se": SEConfig(placement="inside", squeeze="max")}),
    "pre-activation": ("se_preresnet20_cifar", {"se": INSIDE}),
    "pre-activation bottleneck": ("se_preresnet164_cifar_bare_stem", {"se": INSIDE, "out_features": ("stage1",)}),
    "bare end": ("se_preresnet20_cifar_pytorchcv", {"se": SEConfig(placement="pre")}),
    "two branches": ("se_shakeshake26_2x32d_cifar", {}),
    "grouped branches": ("se_shakeeven29_2x4x64d_cifar_mix", {"out_features": ("stage1",)}),
    "BN-Inception": ("se_bn_inception", {}),
    "Inception-ResNet": ("se_inception_resnet_v2", {}),
    "depthwise": ("se_mobilenet_v1_050", {}),
    "chain": ("se_vgg16", {}),
    "biases": ("vgg16_conv_bias", {}),
}


@pytest.fixture(autouse=True)
def shallow_rows(monkeypatch):
    change_rows(monkeypatch, shallow)


def network(kind, **more):
    name, settings = NETWORKS[kind]
    torch.manual_seed(0)
    return randomised(create_backbone(name, 0, **{**settings, **more})).eval()


@torch.no_grad()
def silence(group, gone):
    """Makes channels 0 behind each normalisation that has them."""
    for part in group.parts:
        if not isinstance(part.layer, nn.Conv2d):
            for name in ("weight", "bias"):
                getattr(part.layer, name)[part.own[gone]] = 0


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_cut_network_computes_what_the_whole_one_does_with_the_cut_channels_at_zero(kind):
    whole = network(kind).double()
    for group in find_groups(whole):
        group.norm.layer.running_mean.copy_(torch.linspace(-0.4, 0.4, group.channels))  # tells them apart
    cut = copy.deepcopy(whole)
    x = images(75, 101, count=1).double()
    shapes = {name: m.shape for name, m in whole.forward_features(x).items()}
    report = prune(cut, 0.5, "random", seed=3)
    groups = find_groups(whole)
    assert [(group.path, group.channels) for group in groups] == [(g.name, g.channels) for g in report.groups]
    for group, stay in zip(groups, kept_channels(whole, cut, groups), strict=True):
        assert group.channels // 2 <= len(stay) < group.channels
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[stay] = False
        silence(group, gone)
    with torch.no_grad():
        theirs, ours = whole.forward_features(x), cut.forward_features(x)
    assert {name: m.shape for name, m in ours.items()} == shapes
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-9 * theirs[name].abs().max().item())


def kept_channels(whole, cut, groups):
    """Which channels of each group are left."""
    for group in groups:
        before, after = group.norm.layer.running_mean, cut.get_submodule(group.norm.path).running_mean
        yield (before[:, None] == after[None, :]).any(1).nonzero()[:, 0]


@pytest.mark.parametrize("kind", ["bottleneck", "grouped", "CIFAR", "BN-Inception", "depthwise", "chain"])
def test_a_cut_network_is_built_anew_from_its_spec_and_takes_its_weights(kind):
    cut = network(kind, norm="FrozenBN")
    prune(cut, 0.7, "l1")
    assert cut.spec.widths
    again = create_backbone(cut.spec.name, 0, se=cut.spec.se, widths=cut.spec.widths, norm="FrozenBN").eval()
    load_weights(again, cut.state_dict())
    x = images(75, 64, count=1)
    with torch.no_grad():
        for name, found in again.forward_features(x).items():
            assert torch.equal(found, cut.forward_features(x)[name])


@pytest.mark.parametrize("name", distinct_rows())
def test_every_kind_of_row_is_cut_or_says_why_not(name):
    with torch.device("meta"):
        model = create_backbone(name)
    if "shufflenet" in name:
        with pytest.raises(ValueError, match="cannot be pruned: it shuffles channels between grouped convolutions"):
            find_groups(model)
        return
    maps = {stage: info.channels for stage, info in model.feature_info.items()}
    groups = find_groups(model)
    layers = [part.path for group in groups for part in group.parts if part.side != "input"]
    assert len(set(layers)) == len(layers) or "inception" in name  # a layer's outputs are of one group
    assert not any(path.startswith(head) for path in layers for head in model.head_paths)
    assert all(".se.fc1" not in f".{part.path}" or part.side == "input" for group in groups for part in group.parts)
    assert {stage: info.channels for stage, info in model.feature_info.items()} == maps and groups


def ranked(kind, importance, **evidence):
    """The groups of a network, and the cut one's channels that are left of them."""
    whole = network(kind)
    for group in find_groups(whole):
        group.norm.layer.running_mean.copy_(torch.linspace(-0.4, 0.4, group.channels))
    cut = copy.deepcopy(whole)
    prune(cut, 0.5, importance, **evidence)
    return whole, find_groups(whole), list(kept_channels(whole, cut, find_groups(whole)))


def test_gates_say_which_channels_stay():
    data = [images(40, 36, count=3)]
    for importance in ("gate", "gate_bn"):
        whole, groups, kept = ranked("basic", importance, images=data)
        sites = {site.path: site for site in sites_of(whole)}
        for group, stay in zip(groups, kept, strict=True):
            seen = []
            hook = sites[group.gate.site].gate.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out))
            with torch.no_grad():
                whole.forward_features(data[0])
            hook.remove()
            value = seen[0].double().mean((0, 2, 3))
            value = value * group.norm.layer.weight.double() if importance == "gate_bn" else value
            assert set(stay.tolist()) == set(value.topk(len(stay)).indices.tolist())


def test_the_controls():
    for importance, value in (
        ("l1", lambda group: group.maker.layer.weight.abs().sum((1, 2, 3))),
        ("bn", lambda group: group.norm.layer.weight.abs()),
    ):
        _, groups, kept = ranked("basic", importance)
        for group, stay in zip(groups, kept, strict=True):
            assert set(stay.tolist()) == set(value(group).topk(len(stay)).indices.tolist())
    first, again, other = (ranked("basic", "random", seed=seed)[2][0].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_taylor_is_the_squared_product_of_scale_and_shift_with_their_gradients():
    """A channel's activation at the normalisation's output is linear in scale and shift: so are both sums."""
    model = network("CIFAR").double()
    groups = find_groups(model)
    batches = [images(32, 32, seed=seed).double() for seed in (1, 2)]
    losses = [lambda x=x: model.forward_features(x)["stage3"].square().mean() for x in batches]
    expected = [torch.zeros(group.channels, dtype=torch.float64) for group in groups]
    for group in groups:
        group.norm.layer.running_mean.zero_()
    for loss in losses:
        parameters = [p for group in groups for p in (group.norm.layer.weight, group.norm.layer.bias)]
        gradients = torch.autograd.grad(loss(), parameters)
        for number, total in enumerate(expected):
            pairs = zip(parameters[2 * number :][:2], gradients[2 * number :][:2], strict=True)
            total += sum(p.detach() * g for p, g in pairs).square()
    for ours, theirs in zip(taylor(model, groups, Evidence(losses=losses)), expected, strict=True):
        torch.testing.assert_close(ours, theirs / len(batches), rtol=1e-9, atol=1e-18)


def test_every_importance_gives_the_same_widths():
    specs = set()
    for importance in IMPORTANCES:
        model = network("CIFAR")
        losses = [lambda model=model: model.forward_features(images(32, 32))["stage3"].square().mean()]
        report = prune(model, 0.7, importance, images=[images(32, 32)], losses=losses)
        specs.add(model.spec)
        assert [group.kept for group in report.groups] == [16 - 11] * 2 + [32 - 22] * 2 + [64 - 44]
    assert len(specs) == 1


@pytest.mark.parametrize(
    ("name", "settings", "arguments", "message"),
    [
        ("se_resnet18", {}, (0.5, "gate"), "at the placement standard they scale the residual stream"),
        ("resnet18", {}, (0.5, "gate_bn"), "it has no gates"),
        ("se_resnet18", {"se": INSIDE}, (0.5, "gate"), "needs images"),
        ("resnet18", {}, (0.5, "taylor"), "needs losses"),
        ("resnet18", {"norm": "GN"}, (0.5, "bn"), "group normalisation"),
        ("resnet18", {}, (1.0, "bn"), "ratio must be above 0 and below 1"),
        ("resnet18", {}, (0.001, "bn"), "rounds down to no channel"),
        ("resnet18", {}, (0.5, "magic"), "importance must be one of gate, gate_bn"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(name, settings, arguments, message):
    model = create_backbone(name, 0, **settings)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        prune(model, *arguments)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.spec.widths == ()


def test_a_stage_in_a_detectors_heads_is_cut_too():
    model = nn.Module()
    whole = randomised(create_backbone("se_resnet50", 0, se=INSIDE)).eval()
    model.head = whole.take_stage("res5")
    model.backbone = randomised(create_backbone("se_resnet50", 0, se=INSIDE, out_features=("res4",))).eval()
    x = torch.randn(2, 1024, 7, 7)
    prune(model, 0.5, "gate_bn", images=[images(64, 64)])
    assert model.head(x).shape == (2, 2048, 4, 4) and model.head[0].conv1.out_channels == 256
    assert ("layer4.0.conv1", 256, 1024) in model.backbone.spec.widths


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e .*pruning"):
        prune(create_backbone("resnet18", 0), 0.5, "bn")
