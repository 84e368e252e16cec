"""The layouts in which published ResNets come: how their names map to ours, and back, and what they say beyond names.

Ours are timm's and torchvision's names (``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.se.fc1``, ``fc``),
so those layouts need no renaming.

    timm              layer1.0.se.fc1.weight                           timm's ResNet family with SE; ours
    torchvision       layer1.0.conv1.weight, fc.weight                 torchvision; timm's plain ResNets; Places365
    timm-legacy       layer0.conv1, se_module.fc1, last_linear         Cadene's conversion of the original release
    mmpretrain        backbone.layer1.0.se_layer.conv1.conv, head.fc   mmpretrain, formerly mmclassification
    moskomule         layer1.0.se.fc.0.weight                          senet.pytorch: linear layers without bias
    caffe2            res2_0_branch2a_w, res2_0_branch2a_bn_s          Detectron2's ImageNet .pkl of MSRA and FAIR
    detectron2        stem.conv1.norm.weight, res2.0.shortcut.weight   Detectron2's ResNet by itself
    detectron2-model  backbone.bottom_up.res2.0.conv1.weight           a whole Detectron2 detector
    caffe             conv2_1_1x1_reduce.weight, classifier.weight     the original SE release, see layouts_caffe.py

Sources of the facts: timm 1.0 (``senet.py``: ceil_mode pooling, stride in the first 1×1 of SEResNetBottleneck, and in
the 3×3 of SEResNeXtBottleneck; ``default_cfgs``: ImageNet's mean and std for every network of our table but one,
``resnet34.ra4_e3600_r224_in1k``, whose 0.5 is known if it is named by ``timm://``), torchvision (reference
transforms), mmpretrain (configs of se-resnet50 and 101: style='pytorch', to_rgb=True), Detectron2 0.6
(``catalog.py``, ``MODEL_ZOO.md``, the configs with STRIDE_IN_1X1, and tools/convert-torchvision-to-d2.py), Places365
(demo scripts: ImageNet's values).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from se_backbones.errors import WeightsError
from se_backbones.families.resnet.shapes import ResNetShape, describe, rounded_hidden
from se_backbones.layout import Facts, FileSays, Layout, unchanged
from se_backbones.preprocessing import CAFFE_BGR, FAIR_BGR, IMAGENET_RGB
from se_backbones.registry import Spec
from se_backbones.renaming import Renaming, each, has_gates, other_gates, without_gates

# Where a C4 detector keeps res5: in its heads, by Detectron2's name.
RES5_HEAD = "roi_heads.res5."

# Where a backbone lies in a detector: below a feature pyramid, or by itself (C4, DC5).
_OURS_IN_DETECTOR = re.compile(r"^(backbone\.(?:bottom_up\.)?net\.)(.+)$")
_D2_IN_DETECTOR = re.compile(r"^(backbone\.(?:bottom_up\.)?)((?:stem|res[2-5]|linear)\..+)$")
_D2_RES5_HEAD = re.compile(r"^roi_heads\.res5\.(\d+)\.(.+)$")


# --- one layout's name to ours ---


def _replaced(pairs: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in pairs]

    def convert(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return convert


_DEEP_STEM = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "conv2": "conv1.3",
    "bn2": "conv1.4",
    "conv3": "conv1.6",
    "bn3": "bn1",
}


def _from_legacy(name: str, deep: bool) -> str:
    if name.startswith("layer0."):
        _, module, rest = name.split(".", 2)
        return f"{_DEEP_STEM.get(module, module) if deep else module}.{rest}"
    name = name.replace(".se_module.fc", ".se.fc")
    return re.sub(r"^last_linear\.", "fc.", name)


def _to_legacy(name: str, deep: bool) -> str:
    back = {ours: theirs for theirs, ours in _DEEP_STEM.items()} if deep else {"conv1": "conv1", "bn1": "bn1"}
    for ours, theirs in back.items():
        if name.startswith(f"{ours}."):
            return f"layer0.{theirs}.{name[len(ours) + 1 :]}"
    name = name.replace(".se.fc", ".se_module.fc")
    return re.sub(r"^fc\.", "last_linear.", name)


_from_mmpretrain = _replaced(
    (
        (r"^backbone\.", ""),
        (r"^head\.fc\.", "fc."),
        (r"\.se_layer\.conv([12])\.conv\.", r".se.fc\1."),
    )
)
_from_moskomule = _replaced(((r"\.se\.fc\.0\.", ".se.fc1."), (r"\.se\.fc\.2\.", ".se.fc2.")))

# Caffe2's names; the letters of a bottleneck's convolutions are 2a, 2b, 2c, and its shortcut is branch 1.
_caffe2_as_detectron2 = _replaced(
    (
        (r"^(?:pred|fc1000)_", "linear_"),
        (r"^res_conv1_(bn|gn)_", r"stem.conv1_\1_"),
        (r"^conv1_", "stem.conv1_"),
        (r"^res([2-5])_(\d+)_branch1_", r"res\1.\2.shortcut_"),
        (r"^res([2-5])_(\d+)_branch2a_", r"res\1.\2.conv1_"),
        (r"^res([2-5])_(\d+)_branch2b_", r"res\1.\2.conv2_"),
        (r"^res([2-5])_(\d+)_branch2c_", r"res\1.\2.conv3_"),
        (r"_(?:bn_s|bn_gamma|gn_s)$", ".norm.weight"),
        (r"_(?:bn_b|bn_beta|gn_b)$", ".norm.bias"),
        (r"_bn_(?:rm|running_mean)$", ".norm.running_mean"),
        (r"_bn_(?:riv|running_var)$", ".norm.running_var"),
        (r"_w$", ".weight"),
        (r"_b$", ".bias"),
    )
)


def _from_detectron2(name: str) -> str:
    # Detectron2's own script for torchvision's weights leaves the classifier at stem.fc.
    name = re.sub(r"^(?:linear|fc1000|stem\.fc)\.", "fc.", name)
    name = re.sub(r"^stem\.conv1\.norm\.", "bn1.", name)
    name = re.sub(r"^stem\.conv1\.", "conv1.", name)
    found = re.match(r"^res([2-5])\.(\d+)\.(.+)$", name)
    return f"layer{int(found[1]) - 1}.{found[2]}.{_unit_from_detectron2(found[3])}" if found else name


def _unit_from_detectron2(name: str) -> str:
    name = re.sub(r"^shortcut\.norm\.", "downsample.1.", name)
    name = re.sub(r"^shortcut\.", "downsample.0.", name)
    return re.sub(r"^conv([123])\.norm\.", r"bn\1.", name)


def _to_detectron2(name: str) -> str:
    name = re.sub(r"^fc\.", "linear.", name)
    name = re.sub(r"^conv1\.", "stem.conv1.", name)
    name = re.sub(r"^bn1\.", "stem.conv1.norm.", name)
    found = re.match(r"^layer([1-4])\.(\d+)\.(.+)$", name)
    return f"res{int(found[1]) + 1}.{found[2]}.{_unit_to_detectron2(found[3])}" if found else name


def _unit_to_detectron2(name: str) -> str:
    name = re.sub(r"^downsample\.1\.", "shortcut.norm.", name)
    name = re.sub(r"^downsample\.0\.", "shortcut.", name)
    return re.sub(r"^bn([123])\.", r"conv\1.norm.", name)


def _detector_to_ours(name: str) -> str:
    if found := _D2_IN_DETECTOR.match(name):
        return f"{found[1]}net.{_from_detectron2(found[2])}"
    if found := _D2_RES5_HEAD.match(name):
        return f"roi_heads.res5.{found[1]}.{_unit_from_detectron2(found[2])}"
    return name


def _detector_to_detectron2(name: str) -> str:
    if found := _OURS_IN_DETECTOR.match(name):
        return f"{found[1].removesuffix('net.')}{_to_detectron2(found[2])}"
    if found := _D2_RES5_HEAD.match(name):
        return f"roi_heads.res5.{found[1]}.{_unit_to_detectron2(found[2])}"
    return name


# --- what could not be built by a layout's own code ---

_TORCHVISION = frozenset(
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d".split()
)


def _refuse_timm(row: Spec, shape: ResNetShape, se: Mapping) -> str:
    if why := other_gates("timm", shape, se) or _partial_se("timm", shape) or _caffe_strides("timm", row, False):
        return why
    if shape.has_se:
        for channels, hidden in zip(shape.se_channels, shape.se_hidden, strict=True):
            if hidden != rounded_hidden(channels):
                return (
                    f"timm rounds SE widths to multiples of 8, {rounded_hidden(channels)} for {channels} "
                    f"channels, and this network has {hidden}"
                )
    return ""


def _refuse_legacy(row: Spec, shape: ResNetShape, se: Mapping) -> str:
    if why := other_gates("timm-legacy", shape, se) or _partial_se("timm-legacy", shape):
        return why
    if not row.hyper.ceil_pool:
        return f"timm's legacy networks pool and stride as Caffe's release did; {row.name} does not (write to timm)"
    return "" if shape.reduction == 16 else f"its SE reduction is {shape.reduction}, and theirs is 16"


def _refuse_torchvision(row: Spec, shape: ResNetShape, se: Mapping) -> str:
    if why := other_gates("torchvision", shape, se) or _caffe_strides("torchvision", row, False):
        return why
    if not shape.has_se and row.name not in _TORCHVISION:
        return f"torchvision has {', '.join(sorted(_TORCHVISION))}"
    return ""


def _refuse_detectron2(row: Spec, shape: ResNetShape, se: Mapping) -> str:
    return other_gates("detectron2", shape, se) or _caffe_strides("detectron2", row, True)


def _partial_se(layout: str, shape: ResNetShape) -> str:
    if not shape.has_se:
        return ""
    if not all(shape.se_hidden):
        return f"only some of its stages have SE, and {layout}'s networks have it in all"
    if shape.se_without:
        return f"its units {', '.join(shape.se_without)} have no SE, and {layout}'s networks have it in all"
    return "" if shape.se_bias else f"its SE layers have no biases, and {layout}'s have"


def _caffe_strides(layout: str, row: Spec, knows_1x1: bool) -> str:
    if row.hyper.ceil_pool or (row.hyper.stride_in_1x1 and not knows_1x1):
        return f"its stem or its strides are those of Caffe's release, and {layout}'s networks are not"
    return ""


# --- what the layouts say beyond names ---


def _published_in_rgb(file: FileSays) -> Facts:
    return _facts(False, False, False, IMAGENET_RGB, "published")


def _facts(stride_in_1x1, ceil_pool, relu_before_se, preprocessing, basis) -> Facts:
    hyper = {"stride_in_1x1": stride_in_1x1, "ceil_pool": ceil_pool, "relu_before_se": relu_before_se}
    return Facts(hyper, preprocessing, basis)


def _legacy_facts(file: FileSays) -> Facts:
    bottleneck, groups = _units(file)
    # SE-ResNet-50, 101, 152: stride in the first 1×1. SE-ResNeXt and SENet-154: in the 3×3. timm's own SE-ResNet-18
    # and 34 in this layout have a ReLU between the branch and its gate.
    return _facts(bottleneck and groups == 1, True, not bottleneck, IMAGENET_RGB, "published")


def _caffe2_facts(file: FileSays) -> Facts:
    # MSRA's ResNet-50 and 101 stride in the 1×1; FAIR's own (grouped, or with GroupNorm) in the 3×3.
    _, groups = _units(file)
    in_1x1 = groups == 1 and not any("_gn_" in name for name in file.names)
    return _facts(in_1x1, False, False, CAFFE_BGR if groups == 1 else FAIR_BGR, "published")


def _detectron2_facts(file: FileSays) -> Facts:
    _, groups = _units(file)
    if file.author.lower() == "torchvision":
        return _facts(False, False, False, IMAGENET_RGB, "stated")
    if file.author.lower() in ("caffe2", "msra"):
        return _facts(groups == 1, False, False, CAFFE_BGR if groups == 1 else FAIR_BGR, "stated")
    return _detector_facts(file)


def _detector_facts(file: FileSays) -> Facts:
    return _facts(None, False, False, CAFFE_BGR, "usual")


def _units(file: FileSays) -> tuple[bool, int]:
    shape = describe(file.shapes)
    return (shape.bottleneck, shape.groups) if shape else (False, 1)


# --- the layouts ---


def _is_deep(names: Collection[str]) -> bool:
    return any(name.startswith(("layer0.conv3.", "conv1.6.")) for name in names)


def _legacy_names(names: Collection[str]) -> dict[str, str]:
    deep = _is_deep(names)
    return {name: _from_legacy(name, deep) for name in names}


def _to_plain(layout: str, function: Callable[[str], str]) -> Renaming:
    """Names in a layout that has neither SE nor a deep stem."""

    def convert(names: Collection[str]) -> dict[str, str]:
        if _is_deep([name.removeprefix("backbone.").removeprefix("bottom_up.").removeprefix("net.") for name in names]):
            raise WeightsError(f"{layout}'s ResNet has no stem of three 3×3 convolutions; write to ours or timm")
        return {name: function(name) for name in names}

    return without_gates(f"{layout}'s ResNet", convert, write_to="ours or timm")


def _to_legacy_names(names: Collection[str]) -> dict[str, str]:
    if not has_gates(names):
        raise WeightsError("timm's legacy networks all have squeeze-and-excitation, and this one has none")
    deep = _is_deep(names)
    return {name: _to_legacy(name, deep) for name in names}


LAYOUTS = (
    Layout(
        "detectron2-model",
        r"^backbone\.(bottom_up\.)?(stem|res2)\.",
        each(_detector_to_ours),
        _to_plain("detectron2", _detector_to_detectron2),
        refuse=_refuse_detectron2,
        facts=_detector_facts,
        detector=True,
        folded_statistics=True,
    ),
    Layout(
        "caffe2",
        r"^(res2_0_branch2a_|res_conv1_bn_)",
        each(lambda name: _from_detectron2(_caffe2_as_detectron2(name))),
        facts=_caffe2_facts,
        folded_statistics=True,
    ),
    Layout(
        "detectron2",
        r"^(stem\.conv1\.|res2\.0\.)",
        each(_from_detectron2),
        _to_plain("detectron2", _to_detectron2),
        refuse=_refuse_detectron2,
        facts=_detectron2_facts,
        folded_statistics=True,
    ),
    Layout(
        "timm-legacy",
        r"^layer0\.conv1\.",
        _legacy_names,
        _to_legacy_names,
        refuse=_refuse_legacy,
        facts=_legacy_facts,
    ),
    Layout(
        "mmpretrain",
        r"^backbone\.layer1\.",
        each(_from_mmpretrain),
        facts=_published_in_rgb,
        roots=("backbone.", "head."),
    ),
    Layout("moskomule", r"^layer\d\..*\.se\.fc\.0\.", each(_from_moskomule), facts=_published_in_rgb),
    Layout(
        "timm",
        r"^layer\d\..*\.se\.fc1\.",
        from_ours=unchanged,
        refuse=_refuse_timm,
        facts=_published_in_rgb,
    ),
    Layout(
        "torchvision",
        r"^layer1\.0\.conv1\.",
        from_ours=_to_plain("torchvision", lambda name: name),
        refuse=_refuse_torchvision,
        facts=_published_in_rgb,
    ),
)
