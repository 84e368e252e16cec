"""The layouts in which BN-Inceptions come.

    pytorchcv         features.stage1.unit1.branches.branch1.conv.weight, output.weight      ours, with SE too
    pretrainedmodels  inception_3a_1x1.weight, inception_3a_1x1_bn.weight, last_linear.weight
    caffe             inception_3a/1x1.weight, inception_3a/1x1/bn.running_mean, inception_3a_1x1_down.weight, …

Sources of the facts: the release (mean 104, 117, 123 in BGR, no standard deviation), pytorchcv 0.0.74 (README: all
networks take images with the usual normalisation), pretrainedmodels 0.7.4 (BGR, mean 104, 117, 128).
"""

from __future__ import annotations

from collections.abc import Iterator

from se_backbones.families.bn_inception.network import STAGES, Module
from se_backbones.layout import Facts, FileSays, Layout, unchanged
from se_backbones.preprocessing import IMAGENET_RGB, SE_RELEASE_BGR, Preprocessing
from se_backbones.renaming import by_layer, inverse, without_gates, zero_biases


def _units() -> Iterator[tuple[str, Module]]:
    """(our path, module) of each."""
    for number, modules in enumerate(STAGES.values(), 1):
        for index, module in enumerate(modules, 1):
            yield f"features.stage{number}.unit{index}", module


def _branches(module: Module) -> tuple[tuple[str, ...], ...]:
    """The release's names of each branch's convolutions, first to last."""
    inner = (("3x3_reduce", "3x3"), ("double3x3_reduce", "double3x3a", "double3x3b"))
    return inner if module.halves else (("1x1",), *inner, ("pool_proj",))


def _convolutions() -> Iterator[tuple[str, str]]:
    """(the path of a ConvBlock, the release's name of its convolution), first to last."""
    yield "features.init_block.conv1", "conv1/7x7_s2"
    yield "features.init_block.conv2.conv1", "conv2/3x3_reduce"
    yield "features.init_block.conv2.conv2", "conv2/3x3"
    for path, module in _units():
        for branch, layers in enumerate(_branches(module), 1):
            for number, layer in enumerate(layers, 1):
                inner = {"1x1": "", "pool_proj": ".conv"}.get(layer, f".conv{number}")
                yield f"{path}.branches.branch{branch}{inner}", f"inception_{module.name}/{layer}"


def _pretrainedmodels_name(layer: str) -> str:
    for theirs, ours in (("double3x3_", "double_3x3_"), ("double3x3a", "double_3x3_1"), ("double3x3b", "double_3x3_2")):
        layer = layer.replace(theirs, ours)
    return layer.replace("/", "_")


BIASES = {f"{path}.conv.bias": f"{path}.bn.running_mean" for path, _ in _convolutions()}


def _pretrainedmodels() -> dict[str, str]:
    """Their layers -> ours."""
    modules = {"last_linear": "output"}
    for path, layer in _convolutions():
        name = _pretrainedmodels_name(layer)
        modules |= {name: f"{path}.conv", f"{name}_bn": f"{path}.bn"}
    return modules


def _caffe() -> dict[str, str]:
    """The release's layers -> ours."""
    modules = {"classifier": "output"}
    for path, layer in _convolutions():
        modules |= {layer: f"{path}.conv", f"{layer}/bn": f"{path}.bn", f"{layer}/bn/scale": f"{path}.bn"}
    for path, module in _units():
        name = f"inception_{module.name}"
        modules |= {f"{name}_1x1_down": f"{path}.se.fc1", f"{name}_1x1_up": f"{path}.se.fc2"}
    return modules


PRETRAINEDMODELS = _pretrainedmodels()
CAFFE = _caffe()


def _pytorchcv_facts(file: FileSays) -> Facts:
    # Without the biases it is one of our own networks, without word of its images.
    return Facts(preprocessing=IMAGENET_RGB, basis="published") if BIASES.keys() & set(file.names) else Facts()


LAYOUTS = (
    Layout(
        "pytorchcv",
        r"^features\.init_block\.conv2\.conv1\.conv\.|^features\.stage1\.unit1\.branches\.branch2\.conv1\.conv\.",
        from_ours=without_gates("pytorchcv's BN-Inception", unchanged),
        facts=_pytorchcv_facts,
        added=zero_biases(BIASES),
    ),
    Layout(
        "pretrainedmodels",
        r"^inception_3a_3x3_reduce\.",
        by_layer(PRETRAINEDMODELS),
        without_gates("pretrainedmodels's BN-Inception", by_layer(inverse(PRETRAINEDMODELS))),
        facts=lambda file: Facts(
            preprocessing=Preprocessing("BGR", 255, (104, 117, 128), (1, 1, 1)), basis="published"
        ),
        added=zero_biases(BIASES),
    ),
    Layout(
        "caffe",
        r"^inception_3a/3x3_reduce\.",
        by_layer(CAFFE),
        facts=lambda file: Facts(preprocessing=SE_RELEASE_BGR, basis="published"),
    ),
)
