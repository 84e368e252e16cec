"""Channels cut out of a network: what stays computes what it computed, and the maps keep their shapes."""

import copy

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, create_backbone, list_backbones
from se_backbones.backbone import sites_of
from se_backbones.surgery import channel_groups
from se_backbones.surgery.channel_groups import find_groups
from se_backbones.surgery.importance import IMPORTANCES, Evidence, taylor
from se_backbones.surgery.prune import cut_group, prune
from se_backbones.weights import load_weights
from tests.se_backbones.networks import images, multiply_adds, randomised  # noqa: F401

pytest.importorskip("torch_pruning")
INSIDE = SEConfig(placement="inside")

# A network of each family and kind of unit, the smallest of its rows.
NETWORKS = {
    "basic": ("se_resnet18", {"se": INSIDE}),
    "relu before SE": ("se_resnet18_caffe", {}),
    "bottleneck": ("se_resnet50", {"se": INSIDE}),
    "grouped": ("se_resnext50_32x4d", {"se": SEConfig(placement="inside", squeeze="none")}),
    "deep stem": ("senet154", {}),
    "CIFAR": ("se_resnet20_cifar", {"se": SEConfig(placement="inside", squeeze="max")}),
    "pre-activation": ("se_preresnet20_cifar", {"se": INSIDE}),
    "pre-activation bottleneck": ("se_preresnet164_cifar_bare_stem", {"se": INSIDE}),
    "bare end": ("se_preresnet20_cifar_pytorchcv", {"se": SEConfig(placement="pre")}),
    "two branches": ("se_shakeshake26_2x32d_cifar", {}),
    "grouped branches": ("se_shakeeven29_2x4x64d_cifar_mix", {}),
    "BN-Inception": ("se_bn_inception", {}),
    "Inception-ResNet": ("se_inception_resnet_v2", {}),
    "depthwise": ("se_mobilenet_v1_050", {}),
    "chain": ("se_vgg16", {}),
    "biases": ("vgg16_conv_bias", {}),
}


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
