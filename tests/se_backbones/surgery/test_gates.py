"""What the recorder says of gates, against values put into it by hand and against the gates themselves."""

import math

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, create_backbone
from se_backbones.surgery.gates import GateMoments, absorbed_scale, record

# Two classes of two images, two channels.
VALUES = torch.tensor([[0.2, 0.95], [0.4, 0.95], [0.6, 0.95], [0.8, 0.05]])
LABELS = torch.tensor([0, 0, 1, 1])


def moments_of(values, labels, classes=2, parts=((0, None),)):
    moments = GateMoments(classes)
    for start, end in parts:
        moments.add(values[start:end], None if labels is None else labels[start:end])
    return moments


@pytest.mark.parametrize("parts", [((0, None),), ((0, 3), (3, None)), ((0, 1), (1, 1), (1, 2), (2, 4))])
def test_moments_by_hand_whatever_the_batches(parts):
    moments = moments_of(VALUES, LABELS, parts=parts)
    assert (moments.images, moments.values, moments.count.tolist()) == (4, 4, [2, 2])
    assert moments.mean.tolist() == pytest.approx([0.5, 0.725])
    assert moments.variance.tolist() == pytest.approx([0.2 / 3, 0.2025])  # 0.3² + 0.1² + …, and 3 · 0.225² + 0.675²
    assert moments.class_mean.flatten().tolist() == pytest.approx([0.3, 0.95, 0.7, 0.5])
    assert moments.class_variance.flatten().tolist() == pytest.approx([0.02, 0, 0.02, 0.405])
    assert moments.between.tolist() == pytest.approx([0.4**2 / 2, 0.45**2 / 2])
    assert moments.within.tolist() == pytest.approx([0.02, 0.2025])
    assert moments.separation() == pytest.approx((0.4**2 / 2 + 0.45**2 / 2) / (0.02 + 0.2025))
    assert moments.minimum.tolist() == pytest.approx([0.2, 0.05]) and moments.maximum.tolist() == pytest.approx(
        [0.8, 0.95]
    )
    assert (moments.high.tolist(), moments.low.tolist()) == ([0, 3], [0, 1])
    assert not moments.always_on.any() and not moments.always_off.any()


def test_a_constant_gate_does_not_vary_at_all():
    moments = moments_of(torch.full((7, 3), 0.3), torch.tensor([0, 0, 1, 1, 1, 0, 1]))
    assert torch.equal(moments.mean, torch.full((3,), 0.3).double())
    assert not moments.variance.any() and not moments.class_variance.any()
    assert moments.separation() is None


def test_an_image_counts_in_each_of_its_classes_and_one_without_in_none():
    belongs = torch.tensor([[True, True, False], [True, False, False], [False, False, False], [True, True, False]])
    moments = moments_of(VALUES, belongs, classes=3)
    assert moments.count.tolist() == [3, 2, 0] and moments.images == 4
    assert moments.class_mean[:2].flatten().tolist() == pytest.approx([1.4 / 3, 1.95 / 3, 0.5, 0.5])
    assert moments.class_mean[2].isnan().all() and moments.class_variance[2].isnan().all()
    assert moments.between[0].item() == pytest.approx((1.4 / 3 - 0.5) ** 2 / 2)  # the class without images is left out
    without = moments_of(VALUES, torch.tensor([0, -1, 1, 1]))
    assert without.count.tolist() == [1, 2] and without.images == 4
    assert without.between.isnan().all() and without.separation() is None  # one class of two images alone


def test_classes_that_do_not_differ_are_near_one_over_their_images():
    torch.manual_seed(0)
    moments = moments_of(torch.rand(40 * 50, 64, 1, 1), torch.arange(40).repeat_interleave(50), classes=40)
    assert moments.separation() == pytest.approx(1 / 50, rel=0.1)


def test_every_place_counts_for_the_range_and_its_mean_for_the_image():
    gate = torch.tensor([[[[0.0, 1.0]]], [[[0.95, 0.97]]]])  # two images, one channel, two places
    moments = moments_of(gate, None)
    assert (moments.images, moments.values) == (2, 4)
    assert moments.mean.item() == pytest.approx((0.5 + 0.96) / 2)
    assert (moments.minimum.item(), moments.maximum.item()) == (0, 1)
    assert (moments.high.item(), moments.low.item()) == (3, 1)


def test_channels_that_are_always_on_or_off_by_size_without_sign():
    on_off = torch.tensor([[0.91, 0.01, -0.95, -0.05], [0.99, 0.09, 0.95, 0.05]])
    moments = moments_of(on_off, None)
    assert moments.always_on.tolist() == [True, False, True, False]
    assert moments.always_off.tolist() == [False, True, False, True]


def gated_network(**se):
    torch.manual_seed(0)
    return create_backbone("se_resnet20_cifar", se=SEConfig(**se)).eval()


@pytest.mark.parametrize("squeeze", ["avg", "none"])
def test_what_is_recorded_is_what_the_gates_give_whatever_the_batches(squeeze):
    network = gated_network(squeeze=squeeze)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 0, 1, 1, 0])
    sites = network.se_sites()
    whole = record(network, sites, [(images, labels)], 2)
    parts = record(network, sites, [(images[:1], labels[:1]), (images[1:], labels[1:])], 2)
    seen = []
    handle = sites[-1].gate.register_forward_hook(lambda module, inputs, gate: seen.append(gate.mean((2, 3))))
    with torch.no_grad():
        network(images)
    handle.remove()
    assert not any(site.gate._forward_hooks for site in sites)
    for site in sites:
        torch.testing.assert_close(whole[site.path].class_mean, parts[site.path].class_mean, rtol=0, atol=1e-5)
    by_hand = torch.stack([seen[0][labels == number].mean(0) for number in (0, 1)]).double()
    torch.testing.assert_close(whole[sites[-1].path].class_mean, by_hand, rtol=0, atol=1e-6)


class Head(nn.Module):
    """A detector's head in small: the network's last gate on regions, several calls an image."""

    def __init__(self, site, calls):
        super().__init__()
        self.gate, self.calls = site.gate, calls

    def forward(self, images):
        for regions in self.calls[images[0]]:
            self.gate(regions)


def test_regions_count_as_their_image_whatever_their_number_and_the_calls():
    network = gated_network()
    site = network.se_sites()[-1]
    torch.manual_seed(1)
    calls = {"a": [torch.randn(3, 64, 4, 4), torch.randn(2, 64, 4, 4)], "b": [torch.randn(1, 64, 4, 4)], "c": []}
    model = Head(site, calls)
    found = record(
        model, [site], [(["a"], torch.tensor([0])), (["c"], torch.tensor([0])), (["b"], torch.tensor([1]))], 2
    )
    moments = found[site.path]
    assert (moments.images, moments.values, moments.count.tolist()) == (2, 6, [1, 1])
    with torch.no_grad():
        first = site.gate(torch.cat(calls["a"]))[:, :, 0, 0].double().mean(0)
    torch.testing.assert_close(moments.class_mean[0], first, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="sees regions: give batches of one image"):
        record(model, [site], [(["a", "b"], torch.tensor([0, 1]))], 2)


def test_the_scale_of_the_normalisation_that_takes_a_gate_up():
    network = gated_network(placement="inside")
    site = network.se_sites()[0]
    norm = site.absorbers()[0].module
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, len(norm.weight)))
    assert absorbed_scale(site).tolist() == pytest.approx([abs(x) for x in norm.weight.tolist()])
    assert "is no normalisation" in absorbed_scale(gated_network(placement="pre").se_sites()[0])
    post = SEConfig(placement="post", gate="relu")
    assert isinstance(absorbed_scale(create_backbone("resnet18", se=post).se_sites()[0]), str)


FAMILIES = (
    "se_resnet18", "se_mobilenet_v1_050", "se_shufflenet_v1_g3", "se_bn_inception", "se_vgg16",
    "se_inception_resnet_v2", "se_preresnet20_cifar", "se_wrn16_8_cifar", "se_shakeshake26_2x32d_cifar",
    "se_shakeshake26_2x32d_cifar_mix",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_watched_at_every_site_and_answers_for_each_channel(name):
    network = create_backbone(name, num_classes=2).eval()
    sites = [site for site in network.se_sites() if site.gate is not None]
    small = 32 if "cifar" in name else 96
    found = record(network.forward_features, sites, [(torch.randn(2, 3, small, small), None)])
    for site in sites:
        moments, scale = found[site.path], absorbed_scale(site)
        assert moments.images == 2 and len(moments.mean) == site.channels(site.placement)
        assert isinstance(scale, str) or (scale.shape == moments.mean.shape and not scale.isnan().any())


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "inside"])
def test_every_placement_is_watched(placement):
    network = gated_network(placement=placement)
    found = record(network, network.se_sites(), [(torch.randn(2, 3, 32, 32), None)])
    assert [moments.images for moments in found.values()] == [2] * 9


def test_moments_of_one_image_have_no_spread():
    assert moments_of(VALUES[:1], None).variance.isnan().all()
    assert math.isnan(moments_of(VALUES[:1], LABELS[:1]).within[0])
