"""The layouts in which BN-Inceptions come.

    pytorchcv         features.stage1.unit1.branches.branch1.conv.weight, output.weight      ours, with SE too
    pretrainedmodels  inception_3a_1x1.weight, inception_3a_1x1_bn.weight, last_linear.weight
    caffe             inception_3a/1x1.weight, inception_3a/1x1/bn.running_mean, inception_3a_1x1_down.weight, …

Sources of the facts: the release (mean 104, 117, 123 in BGR, no standard deviation), pytorchcv 0.0.74 (README: all
networks take images with the usual normalisation), pretrainedmodels 0.7.4 (BGR, mean 104, 117, 128).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.families.bn_inception.network import STAGES, Module
from se_backbones.layout import Facts, FileSays, Layout
from se_backbones.preprocessing import IMAGENET_RGB, SE_RELEASE_BGR, Preprocessing


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


_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BIASES = {f"{path}.conv.bias": f"{path}.bn.running_mean" for path, _ in _convolutions()}


def _tensors(modules: Mapping[str, str]) -> dict[str, str]:
    """Their modules -> ours, as names of tensors."""
    return {f"{theirs}.{end}": f"{ours}.{end}" for theirs, ours in modules.items() for end in _TENSORS}


def _pretrainedmodels() -> dict[str, str]:
    modules = {"last_linear": "output"}
    for path, layer in _convolutions():
        name = _pretrainedmodels_name(layer)
        modules |= {name: f"{path}.conv", f"{name}_bn": f"{path}.bn"}
    return _tensors(modules)


def _caffe() -> dict[str, str]:
    modules = {"classifier": "output"}
    for path, layer in _convolutions():
        modules |= {layer: f"{path}.conv", f"{layer}/bn": f"{path}.bn", f"{layer}/bn/scale": f"{path}.bn"}
    for path, module in _units():
        name = f"inception_{module.name}"
        modules |= {f"{name}_1x1_down": f"{path}.se.fc1", f"{name}_1x1_up": f"{path}.se.fc2"}
    return _tensors(modules)


PRETRAINEDMODELS = _pretrainedmodels()
CAFFE = _caffe()


def _renamed(table: Mapping[str, str]) -> Callable[[Collection[str]], dict[str, str]]:
    return lambda names: {name: table.get(name, name) for name in names}


def _to_plain(layout: str, table: Mapping[str, str]) -> Callable[[Collection[str]], dict[str, str]]:
    back = {ours: theirs for theirs, ours in table.items()}

    def convert(names: Collection[str]) -> dict[str, str]:
        if any(".se.fc1." in name for name in names):
            raise WeightsError(f"{layout}'s BN-Inception has no place for squeeze-and-excitation; write to ours")
        return {name: back.get(name, name) for name in names}

    return convert


def _zero_biases(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions' biases, by our names, which their networks expect."""
    return {bias: torch.zeros_like(ours[mean]) for bias, mean in BIASES.items() if mean in ours}


def _pytorchcv_facts(file: FileSays) -> Facts:
    # Without the biases it is one of our own networks, without word of its images.
    return Facts(preprocessing=IMAGENET_RGB, basis="published") if BIASES.keys() & set(file.names) else Facts()


LAYOUTS = (
    Layout(
        "pytorchcv",
        r"^features\.init_block\.conv2\.conv1\.conv\.|^features\.stage1\.unit1\.branches\.branch2\.conv1\.conv\.",
        from_ours=_to_plain("pytorchcv", {}),
        facts=_pytorchcv_facts,
        added=_zero_biases,
    ),
    Layout(
        "pretrainedmodels",
        r"^inception_3a_3x3_reduce\.",
        _renamed(PRETRAINEDMODELS),
        _to_plain("pretrainedmodels", PRETRAINEDMODELS),
        facts=lambda file: Facts(
            preprocessing=Preprocessing("BGR", 255, (104, 117, 128), (1, 1, 1)), basis="published"
        ),
        added=_zero_biases,
    ),
    Layout(
        "caffe",
        r"^inception_3a/3x3_reduce\.",
        _renamed(CAFFE),
        facts=lambda file: Facts(preprocessing=SE_RELEASE_BGR, basis="published"),
    ),
)
