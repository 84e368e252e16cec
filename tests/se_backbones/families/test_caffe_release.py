"""The layers of the original SE release (its .prototxt files) and their places in our networks.

``golden/caffe`` has the names and shapes of every blob, in the order of the files of github.com/hujie-frank/SENet at
0262d43: SE-BN-Inception's as a list, the six ResNets' as a checksum over the same kind of list.
"""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from se_backbones import create_backbone, find_spec
from se_backbones.layout import FileSays
from se_backbones.preprocessing import IMAGENET_RGB, Preprocessing
from se_backbones.registry import family_of
from se_backbones.weights import WeightsError, load_weights
from se_backbones.weights.layouts import names_to_ours, recognise
from se_backbones.weights.shapes import guess_architecture
from tests.se_backbones.weights.caffemodel_writer import write_caffemodel

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
    for stage in range(2, len(network.stages) + 1):
        units = network.get_submodule(f"layer{stage - 1}")
        for number, unit in enumerate(units, 1):
            parts = [("1x1_reduce", unit.conv1), ("1x1_reduce", unit.bn1), ("3x3", unit.conv2), ("3x3", unit.bn2)]
            parts += [("1x1_increase", unit.conv3), ("1x1_increase", unit.bn3)]
            parts += [("1x1_down", unit.se.fc1), ("1x1_up", unit.se.fc2)]
            parts += [("1x1_proj", module) for module in unit.downsample or ()]
            yield from ((f"conv{stage}_{number}_{part}", module) for part, module in parts)
    if network.num_classes:
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
        assert guess_architecture(network.state_dict(), facts.hyper, family_of(spec)) == name


# --- files


def blobs(layers, factor=4):
    """(layer, type, blobs) as Caffe keeps a network: statistics times a factor, in a layer of their own."""
    yield "data", "Input", ()
    for layer, module in layers:
        if isinstance(module, nn.BatchNorm2d):
            yield f"{layer}/bn", "BatchNorm", (module.running_mean * factor, module.running_var * factor, [factor])
            yield f"{layer}/bn/scale", "Scale", (module.weight.detach(), module.bias.detach())
        else:
            kind = "InnerProduct" if isinstance(module, nn.Linear) else "Convolution"
            yield layer, kind, [parameter.detach() for parameter in module.parameters()]
        yield f"{layer}/relu", "ReLU", ()


@torch.no_grad()
def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.dim() > 1:
            tensor.normal_(0, math.sqrt(2 / tensor[0].numel()), generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(0.2, 0.8, generator=generator)
    return model.eval()


def check_file(theirs, layers, path, build):
    """A network's numbers written as the release has them, and loaded: the outputs are equal."""
    write_caffemodel(path, blobs(layers))
    ours = randomised(build(), seed=1)
    report = load_weights(ours, path, preprocessing=Preprocessing("BGR", 255, (104, 117, 123), (1, 1, 1)))
    assert report.layout == "caffe" and not report.unaccounted
    assert not report.missing and not report.unexpected and not report.ignored and not report.allowed
    assert len(report.loaded) == sum(not name.endswith("num_batches_tracked") for name in ours.state_dict())
    x = torch.randn(2, 3, 75, 101, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs.forward_features(x), ours.forward_features(x)
        if theirs.num_classes:
            expected["logits"], found["logits"] = theirs(x), ours(x)
    for name, tensor in expected.items():
        assert tensor.any() and torch.equal(found[name], tensor), name


def test_a_file_of_bn_inception(tmp_path):
    theirs = randomised(create_backbone("se_bn_inception", 5))
    golden = (GOLDEN / "SE-BN-Inception.txt").read_text().splitlines()
    names = [text.split()[0].rpartition(".")[0].removesuffix("/scale").removesuffix("/bn") for text in golden]
    convs = [module for module in modules_of_bn_inception(theirs) if not isinstance(module, nn.BatchNorm2d)]
    norms = iter([module for module in modules_of_bn_inception(theirs) if isinstance(module, nn.BatchNorm2d)])
    layers = []
    for name, conv in zip(dict.fromkeys(names), convs, strict=True):
        layers += [(name, conv)] + ([] if "_1x1_" in name or name == "classifier" else [(name, next(norms))])
    check_file(theirs, layers, tmp_path / "SE-BN-Inception.caffemodel", lambda: create_backbone("se_bn_inception", 5))
    # The same images for a network fed as most are.
    with pytest.raises(WeightsError, match=r"BGR 0–255, mean \[104, 117, 123\]"):
        load_weights(theirs, tmp_path / "SE-BN-Inception.caffemodel", preprocessing=IMAGENET_RGB)


@pytest.mark.parametrize("name", ["se_resnet50_caffe", "se_resnext50_32x4d_caffe", "senet154_caffe"])
def test_a_file_of_a_resnet(name, tmp_path):
    """Up to res3, which has every kind of layer but the classifier."""

    def build(row=name):
        return create_backbone(row, 0, out_features=("stem", "res2", "res3"))

    theirs, path = randomised(build()), tmp_path / "release.caffemodel"
    check_file(theirs, layers_of_resnet(theirs), path, build)
    with pytest.raises(WeightsError, match="ceil_pool=True \\(caffe\\), and the model is"):
        load_weights(build(name.removesuffix("_caffe")), path)
