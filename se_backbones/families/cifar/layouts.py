"""The layouts in which weights of networks for CIFAR come.

    ours       conv1, bn1, stage1.unit1.conv1, stage1.unit1.se.fc1, bn_last, fc
    pytorchcv  features.init_block.conv, features.stage1.unit1.body.conv1.conv, features.stage1.unit1.se.conv1, output

Sources of the facts: pytorchcv 0.0.74 (``resnet_cifar.py``, ``seresnet_cifar.py``, ``preresnet_cifar.py``,
``sepreresnet_cifar.py``, ``wrn_cifar.py``, ``shakeshakeresnet_cifar.py``), and the training code beside it
(``cifar10_cls_dataset.py``: mean and standard deviation, for CIFAR-10, CIFAR-100 and SVHN alike).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from se_backbones.layout import Facts, FileSays, Layout, NetworkShape
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import Spec
from se_backbones.renaming import each, other_gates, without_gates

CIFAR_RGB = Preprocessing("RGB", 1, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

# (pytorchcv's, ours): how names begin, outside of the units and in them. The first that fits counts, either way.
_OUTSIDE = (
    ("features.init_block.conv.", "conv1."),
    ("features.init_block.bn.", "bn1."),
    ("features.post_activ.bn.", "bn_last."),
    ("output.", "fc."),
)
_BARE_STEM = ("features.init_block.weight", "conv1.weight")  # of the networks without a normalisation there
_IN_UNIT = (
    ("se.conv1.", "se.fc1."),
    ("se.conv2.", "se.fc2."),
    ("identity_conv.conv.", "downsample.0."),
    ("identity_conv.bn.", "downsample.1."),
    ("identity_conv.weight", "downsample.weight"),
    ("identity_branch.conv1.", "downsample.conv1."),
    ("identity_branch.conv2.", "downsample.conv2."),
    ("identity_branch.bn.", "downsample.bn."),
)
_UNIT = re.compile(r"^features\.(stage\d\.unit\d+\.)(.+)$")
_OUR_UNIT = re.compile(r"^(stage\d\.unit\d+\.)(.+)$")
_LAYER = re.compile(r"^(body|branch\d)\.conv(\d)\.(conv|bn)\.(.+)$")
_OUR_LAYER = re.compile(r"^(?:(branch\d)\.)?(conv|bn)(\d)\.(.+)$")


def _begun_otherwise(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for before, after in pairs:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _backwards(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(ours, theirs) for theirs, ours in pairs]


def _from_pytorchcv(name: str) -> str:
    unit = _UNIT.match(name)
    if unit is None:
        return _begun_otherwise(name, (_BARE_STEM, *_OUTSIDE))
    if found := _LAYER.match(unit[2]):
        branch = "" if found[1] == "body" else f"{found[1]}."
        return f"{unit[1]}{branch}{found[3]}{found[2]}.{found[4]}"
    return unit[1] + _begun_otherwise(unit[2], _IN_UNIT)


def _to_pytorchcv(names: Collection[str]) -> dict[str, str]:
    bare = not any(name.startswith("bn1.") for name in names)
    outside = _backwards((_BARE_STEM, *_OUTSIDE) if bare else _OUTSIDE)
    return {name: _one_to_pytorchcv(name, outside) for name in names}


def _one_to_pytorchcv(name: str, outside: list[tuple[str, str]]) -> str:
    unit = _OUR_UNIT.match(name)
    if unit is None:
        return _begun_otherwise(name, outside)
    if found := _OUR_LAYER.match(unit[2]):
        return f"features.{unit[1]}{found[1] or 'body'}.conv{found[3]}.{found[2]}.{found[4]}"
    return f"features.{unit[1]}{_begun_otherwise(unit[2], _backwards(_IN_UNIT))}"


# --- what pytorchcv's own code could not build ---


def _refuse_resnet(row: Spec, shape: NetworkShape, se: Mapping) -> str:
    hyper = row.hyper
    if shape.has_se and (why := _gates_elsewhere(shape, se)):
        return why
    if shape.has_se and hyper.width > 1:
        return "pytorchcv's Wide ResNets have no place for squeeze-and-excitation"
    if hyper.preactivation and (hyper.stem_norm, hyper.end_norm) != (shape.has_se, not shape.has_se):
        stem, end = ("has one", "none") if shape.has_se else ("has none", "one")
        return (
            f"pytorchcv's {'SE-' * shape.has_se}PreResNet {stem} of the normalisations behind the first convolution, "
            f"and {end} before the pooling"
        )
    return ""


def _gates_elsewhere(shape: NetworkShape, se: Mapping) -> str:
    if why := other_gates("pytorchcv", shape, se):
        return why
    if not all(shape.se_hidden) or shape.se_without:
        return "only some of its units have SE, and pytorchcv's networks have it in all"
    if not shape.se_bias:
        return "its SE layers have no biases, and pytorchcv's have"
    return "" if shape.reduction == 16 else f"its SE reduction is {shape.reduction}, and pytorchcv's is 16"


def _refuse_shake(row: Spec, shape: NetworkShape, se: Mapping) -> str:
    if row.hyper.bottleneck:
        return "pytorchcv's Shake-Shake has other bottlenecks and shortcuts"
    if row.hyper.relu_first:
        return (
            f"pytorchcv's Shake-Shake has its ReLU behind the addition, and {row.name} in front of the branches: the "
            "names fit and the outputs would not"
        )
    return ""


def _published(**hyper) -> Callable[[FileSays], Facts]:
    return lambda file: Facts(hyper, CIFAR_RGB, "published")


RESNET_LAYOUTS = (
    Layout(
        "pytorchcv",
        r"^features\.stage1\.unit1\.body\.conv1\.(conv|bn)\.",
        each(_from_pytorchcv),
        _to_pytorchcv,
        refuse=_refuse_resnet,
        facts=_published(),
    ),
    Layout("ours", r"^stage1\.unit1\.conv1\."),
)

SHAKE_LAYOUTS = (
    Layout(
        "pytorchcv",
        r"^features\.stage1\.unit1\.branch1\.conv1\.conv\.",
        each(_from_pytorchcv),
        without_gates("pytorchcv's Shake-Shake", _to_pytorchcv),
        refuse=_refuse_shake,
        facts=_published(relu_first=False),
    ),
    # A bare file of our names is taken for the author's form.
    Layout("ours", r"^stage1\.unit1\.branch1\.conv1\.", facts=lambda file: Facts({"relu_first": True})),
)
