"""Gates by class: which are watched, and the numbers of them, against values put into them by hand."""

import numpy as np
import pytest
import torch

from se_backbones import create_backbone
from studies.lab import gates
from studies.lab.gates import GateMoments


def names(network):
    return [gates.paper_name(network, site) for site in gates.watched(network)]


def test_of_a_resnet_50_those_of_the_paper_are_watched():
    assert names(create_backbone("se_resnet50")) == ["SE_2_3", "SE_3_4", "SE_4_6", "SE_5_1", "SE_5_2", "SE_5_3"]
    assert names(create_backbone("se_resnet20_cifar")) == ["SE_1_3", "SE_2_3", "SE_3_1", "SE_3_2", "SE_3_3"]


@pytest.mark.parametrize("name", ["se_mobilenet_v1_050", "se_shufflenet_v1_g3", "se_bn_inception", "se_vgg16"])
def test_every_family_has_gates_to_watch(name):
    network = create_backbone(name, num_classes=2)
    sites = gates.watched(network)
    stages = list(dict.fromkeys(site.stage for site in network.se_sites()))
    assert list(dict.fromkeys(site.stage for site in sites)) == stages


def test_moments_by_hand():
    # two classes of two images, two channels
    values = torch.tensor([[0.2, 0.95], [0.4, 0.95], [0.6, 0.95], [0.8, 0.05]]).view(4, 2, 1, 1)
    moments = GateMoments(2)
    for part in (slice(0, 3), slice(3, 4)):  # whatever the batches
        moments.add(values[part], torch.tensor([0, 0, 1, 1])[part])
    assert moments.mean == pytest.approx(np.array([[0.3, 0.95], [0.7, 0.5]]))
    assert moments.variance == pytest.approx(np.array([[0.02, 0], [0.02, 0.405]]), abs=1e-7)
    between, within = 0.4**2 / 2 + 0.45**2 / 2, (0.02 + 0 + 0.02 + 0.405) / 2
    assert moments.separation() == pytest.approx(between / within, rel=1e-5)
    assert (moments.high, moments.low, moments.values) == (3, 1, 8)


def test_gates_that_do_not_vary_have_no_separation():
    moments = GateMoments(2)
    moments.add(torch.full((4, 3, 1, 1), 0.5), torch.tensor([0, 0, 1, 1]))
    assert moments.separation() is None


def test_classes_that_do_not_differ_are_near_one_over_their_images():
    torch.manual_seed(0)
    moments = GateMoments(40)
    moments.add(torch.rand(40 * 50, 64, 1, 1), torch.arange(40).repeat_interleave(50))
    assert moments.separation() == pytest.approx(1 / 50, rel=0.1)


@pytest.mark.parametrize("squeeze", ["avg", "none"])
def test_what_is_recorded_is_what_the_gates_give_whatever_the_batches(squeeze):
    from se_backbones import SEConfig

    torch.manual_seed(0)
    network = create_backbone("se_resnet20_cifar", se=SEConfig(squeeze=squeeze)).eval()
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 0, 1, 1, 0])
    sites = gates.watched(network)
    whole = gates.record(network, sites, 2, [(images, labels)])
    parts = gates.record(network, sites, 2, [(images[:1], labels[:1]), (images[1:], labels[1:])])
    seen = []
    handle = sites[-1].gate.register_forward_hook(lambda module, inputs, gate: seen.append(gate.mean((2, 3))))
    with torch.no_grad():
        network(images)
    handle.remove()
    assert not any(site.gate._forward_hooks for site in sites)
    for site in sites:
        assert whole[site.path].mean == pytest.approx(parts[site.path].mean, abs=1e-5)
    by_hand = torch.stack([seen[0][labels == number].mean(0) for number in (0, 1)])
    assert whole[sites[-1].path].mean == pytest.approx(by_hand.numpy(), abs=1e-5)


def test_channels_are_drawn_evenly_and_classes_are_the_papers_where_there_are():
    assert gates.even_channels(8) == list(range(8))
    drawn = gates.even_channels(256)
    assert len(drawn) == 50 and drawn[0] == 0 and drawn[-1] == 255 and set(np.diff(drawn)) == {5, 6}
    assert gates.shown_classes(["ant", "cliff", "dog", "goldfish", "yak"]) == [3, 1, 0, 4]
    assert gates.shown_classes(["a", "b"]) == [0, 1]
