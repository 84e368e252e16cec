"""Class activation maps against their definition: the logit taken apart by place."""

import pytest
import torch

from classification.cam import class_activation_maps
from se_backbones import create_backbone, find_spec, list_backbones

CLASSES = 7


def randomised(name="se_resnet18", **arguments):
    """A network in which nothing is at its initial value: BatchNorm statistics, gates, the classifier's bias."""
    torch.manual_seed(3)
    network = create_backbone(name, CLASSES, **arguments).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dtype == torch.float32:
                noise = torch.rand(value.shape, generator=generator)
                is_scale = name.endswith(("bn1.weight", "bn2.weight", "running_var"))
                value.copy_(0.5 + noise if is_scale else value + 0.2 * (noise - 0.5))
    return network


@pytest.fixture(scope="module")
def network():
    return randomised()


def images(height, width, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("size", [(64, 64), (96, 70), (33, 130)])
@torch.inference_mode()
def test_the_places_of_a_map_sum_to_the_logit_minus_its_bias(network, size):
    found = class_activation_maps(network, images(*size), range(CLASSES))
    height, width = (-(-side // 32) for side in size)
    assert found.maps.shape == (2, CLASSES, height, width) and found.maps.dtype == torch.float32
    total = found.maps.sum((2, 3)) / (height * width)
    # Both sides sum the same products, in another order: they differ by rounding, at most (number of terms) * eps of
    # the sum of the products' sizes (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2).
    res5 = network.forward_features(images(*size))["res5"]
    sizes = res5.abs().mean((2, 3)) @ network.fc.weight.abs().T
    bound = res5[0].numel() * torch.finfo(torch.float32).eps * sizes
    assert bool(((total - (found.logits - network.fc.bias)).abs() <= bound).all())
    assert bool((bound < 0.02 * sizes).all()), "a bound that says nothing"
    torch.testing.assert_close(found.logits, network(images(*size)))


@torch.inference_mode()
def test_each_place_is_the_classifier_applied_there(network):
    """The definition, a place at a time: w_k · f(x, y)."""
    batch = images(96, 64)
    res5 = network.forward_features(batch)["res5"]
    found = class_activation_maps(network, batch, [4, 1])
    for image in range(2):
        for number, label in enumerate([4, 1]):
            for y in range(3):
                for x in range(2):
                    expected = network.fc.weight[label] @ res5[image, :, y, x]
                    torch.testing.assert_close(found.maps[image, number, y, x], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_classes_may_differ_from_image_to_image(network):
    batch = images(64, 64, 3)
    all_of_them = class_activation_maps(network, batch, range(CLASSES))
    own = torch.tensor([[0, 6], [3, 3], [5, 1]])
    found = class_activation_maps(network, batch, own)
    assert torch.equal(found.classes, own)
    for image in range(3):
        torch.testing.assert_close(found.maps[image], all_of_them.maps[image, own[image]])
    likeliest = class_activation_maps(network, batch)
    assert torch.equal(likeliest.classes[:, 0], network(batch).argmax(1))
    assert class_activation_maps(network, batch, []).maps.shape == (3, 0, 2, 2)


@torch.inference_mode()
def test_dropout_and_dilation_leave_the_equality_whole():
    network = randomised(dropout=0.5, last_dilation=2)
    found = class_activation_maps(network, images(64, 96), range(CLASSES))
    assert found.maps.shape[2:] == (4, 6)
    torch.testing.assert_close(found.maps.mean((2, 3)), found.logits - network.fc.bias, rtol=1e-4, atol=1e-4)


def test_what_has_no_map_is_refused(network):
    batch = images(64, 64)
    for classes in ([CLASSES], [-1], torch.zeros(3, 1), torch.zeros(2, 1, 1)):
        with pytest.raises(ValueError, match="classes must be"):
            class_activation_maps(network, batch, classes)
    with pytest.raises(ValueError, match="no classifier"):
        class_activation_maps(create_backbone("resnet18", 0).eval(), batch)
    with pytest.raises(ValueError, match="eval mode"):
        class_activation_maps(create_backbone("resnet18", 3).train(), batch)


SMALLEST = {find_spec(name).family: name for name in reversed(list_backbones()) if find_spec(name).se}


@pytest.mark.parametrize("name", SMALLEST.values())
def test_every_familys_maps_are_its_logits_taken_apart(name):
    """Where the classifier is one linear layer, its bias aside; where it is several with ReLUs between, all biases
    aside: without them it is homogeneous, and a logit is the sum of its gradient times its input (Euler)."""
    torch.manual_seed(0)
    network = create_backbone(name, CLASSES).eval()
    for module in network.get_submodule(network.head_paths[-1]).modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.zeros_(module.bias)
            torch.nn.init.normal_(module.weight, std=0.05)
    side = {224: 96, 299: 107, 32: 32}[find_spec(name).image_size]
    with torch.inference_mode():
        found = class_activation_maps(network, images(side, side), [[4, 1], [0, 6]])
        last = network.forward_features(images(side, side))[network.stages[-1]]
    assert found.maps.shape == (2, 2, *last.shape[2:]) and found.maps.std() > 0
    logits = found.logits.gather(1, found.classes)
    torch.testing.assert_close(found.maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)
