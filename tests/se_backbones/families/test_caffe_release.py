"""The layers of the original SE release (its .prototxt files) and their places in our networks.

``golden/caffe`` has the names and shapes of every blob, in the order of the files of github.com/hujie-frank/SENet at
0262d43: SE-BN-Inception's as a list, the six ResNets' as a checksum over the same kind of list.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from se_backbones import create_backbone, find_spec
from se_backbones.layout import FileSays
from se_backbones.registry import family_of
from se_backbones.weights.layouts import names_to_ours, recognise

GOLDEN = Path(__file__).parent / "golden" / "caffe"
RESNETS = {
    "SE-ResNet-50": "se_resnet50_caffe",
    "SE-ResNet-101": "se_resnet101_caffe",
    "SE-ResNet-152": "se_resnet152_caffe",
    "SE-ResNeXt-50": "se_resnext50_32x4d_caffe",
    "SE-ResNeXt-101": "se_resnext101_32x4d_caffe",
    "SENet-154": "senet154_caffe",
}


def on_meta(name):
    with torch.device("meta"):
        return create_backbone(name)


def layers_of_resnet(network):
    """(the release's layer, our module) in the order of its files."""
    if network.spec.hyper.deep_stem:
        convs = network.conv1
        yield from (("conv1_1/3x3_s2", convs[0]), ("conv1_1/3x3_s2", convs[1]), ("conv1_2/3x3", convs[3]))
        yield from (("conv1_2/3x3", convs[4]), ("conv1_3/3x3", convs[6]), ("conv1_3/3x3", network.bn1))
    else:
        yield from (("conv1/7x7_s2", network.conv1), ("conv1/7x7_s2", network.bn1))
    for stage, units in enumerate((network.layer1, network.layer2, network.layer3, network.layer4), 2):
        for number, unit in enumerate(units, 1):
            parts = [("1x1_reduce", unit.conv1), ("1x1_reduce", unit.bn1), ("3x3", unit.conv2), ("3x3", unit.bn2)]
            parts += [("1x1_increase", unit.conv3), ("1x1_increase", unit.bn3)]
            parts += [("1x1_down", unit.se.fc1), ("1x1_up", unit.se.fc2)]
            parts += [("1x1_proj", module) for module in unit.downsample or ()]
            yield from ((f"conv{stage}_{number}_{part}", module) for part, module in parts)
    yield "classifier", network.fc


def modules_of_bn_inception(network):
    """Our modules with weights, in the order in which they compute, as the release's file has its layers."""
    yield from (module for module in network.features.init_block.modules() if hasattr(module, "weight"))
    for stage in list(network.features)[1:]:
        for unit in stage:
            yield from (module for module in unit.branches.modules() if hasattr(module, "weight"))
            yield from (unit.se.fc1, unit.se.fc2)
    yield network.output


def tensors(layers):
    """(the release's name of a tensor, our module, its own name there), a layer after the other."""
    for layer, module in layers:
        if isinstance(module, nn.BatchNorm2d):
            yield from ((f"{layer}/bn.{name}", module, name) for name in ("running_mean", "running_var"))
            yield from ((f"{layer}/bn/scale.{name}", module, name) for name in ("weight", "bias"))
        else:
            yield from ((f"{layer}.{name}", module, name) for name, _ in module.named_parameters())


def line(name, tensor):
    return f"{name} {'x'.join(map(str, tensor.shape))}"


def assert_places(network, found):
    """Each of the release's names is recognised as that tensor's, and no tensor is left without one."""
    paths = {module: path for path, module in network.named_modules()}
    expected = {theirs: f"{paths[module]}.{name}" for theirs, module, name in found}
    family, layout = recognise(list(expected))
    assert family is family_of(network.spec) and layout.name == "caffe"
    assert names_to_ours(list(expected), layout) == expected
    ours = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(expected.values()) == ours


@pytest.mark.parametrize("release", RESNETS)
def test_every_blob_of_the_resnets_has_its_place(release):
    network = on_meta(RESNETS[release])
    found = list(tensors(layers_of_resnet(network)))
    lines = [line(name, getattr(module, own)) for name, module, own in found]
    golden = json.loads((GOLDEN / "resnets.json").read_text())[release]
    checksum = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert (len(lines), checksum) == (golden["tensors"], golden["sha256"]), lines[:10]
    assert_places(network, found)


def test_every_blob_of_bn_inception_has_its_place():
    network = on_meta("se_bn_inception")
    golden = (GOLDEN / "SE-BN-Inception.txt").read_text().splitlines()
    layers = dict.fromkeys(text.split()[0].rpartition(".")[0].removesuffix("/scale") for text in golden)
    modules = list(modules_of_bn_inception(network))
    assert len(layers) == len(modules) == 69 * 2 + 20 + 1
    found = list(tensors(zip((layer.removesuffix("/bn") for layer in layers), modules, strict=True)))
    assert [line(name, getattr(module, own)) for name, module, own in found] == golden
    assert_places(network, found)


def test_what_the_release_says_of_its_images_and_strides():
    for name in (*RESNETS.values(), "se_bn_inception"):
        network, spec = on_meta(name), find_spec(name)
        layout = family_of(spec).layout("caffe")
        shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        facts = layout.facts(FileSays(shapes, "", ()))
        assert facts.basis == "published"
        assert str(facts.preprocessing) == "BGR 0–255, mean [104, 117, 123], std [1, 1, 1]"
        for setting, matters in family_of(spec).unmarked.items():
            assert not matters(spec) or facts.hyper[setting] == getattr(spec.hyper, setting), (name, setting)
