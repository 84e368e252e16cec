"""The layouts in which published ResNets come: how their names map to ours, and back.

Ours are timm's and torchvision's names (``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.se.fc1``, ``fc``),
so those layouts need no renaming. A layout is told from the names alone. What a layout says about the network
beyond its names (where the stride is, how the stem pools, how images are prepared) is in ``facts.py``.

    timm              layer1.0.se.fc1.weight                           timm's ResNet family with SE; ours
    torchvision       layer1.0.conv1.weight, fc.weight                 torchvision; timm's plain ResNets; Places365
    timm-legacy       layer0.conv1, se_module.fc1, last_linear         Cadene's conversion of the original release
    mmpretrain        backbone.layer1.0.se_layer.conv1.conv, head.fc   mmpretrain, formerly mmclassification
    moskomule         layer1.0.se.fc.0.weight                          senet.pytorch: linear layers without bias
    caffe2            res2_0_branch2a_w, res2_0_branch2a_bn_s          Detectron2's ImageNet .pkl of MSRA and FAIR
    detectron2        stem.conv1.norm.weight, res2.0.shortcut.weight   Detectron2's ResNet by itself
    detectron2-model  backbone.bottom_up.res2.0.conv1.weight           a whole Detectron2 detector
    ours-detection    backbone.bottom_up.net.layer1.0.conv1.weight     a whole detector of ours
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from se_backbones.weights.errors import WeightsError
from se_backbones.weights.target import RES5_HEAD

DETECTORS = ("ours-detection", "detectron2-model")
WRITABLE = ("ours", "timm", "torchvision", "timm-legacy", "detectron2")

# Where a backbone lies in a detector: below a feature pyramid, or by itself (C4, DC5).
_OURS_IN_DETECTOR = re.compile(r"^(backbone\.(?:bottom_up\.)?net\.)(.+)$")
_D2_IN_DETECTOR = re.compile(r"^(backbone\.(?:bottom_up\.)?)((?:stem|res[2-5]|linear)\..+)$")
_D2_RES5_HEAD = re.compile(r"^roi_heads\.res5\.(\d+)\.(.+)$")

_SIGNS: tuple[tuple[str, re.Pattern], ...] = tuple(
    (layout, re.compile(pattern))
    for layout, pattern in (
        ("ours-detection", r"^backbone\.(bottom_up\.)?net\.conv1\."),
        ("detectron2-model", r"^backbone\.(bottom_up\.)?(stem|res2)\."),
        ("caffe2", r"^(res2_0_branch2a_|res_conv1_bn_)"),
        ("detectron2", r"^(stem\.conv1\.|res2\.0\.)"),
        ("timm-legacy", r"^layer0\.conv1\."),
        ("mmpretrain", r"(\.se_layer\.conv1\.conv\.|^backbone\.layer1\.|^head\.fc\.)"),
        ("moskomule", r"\.se\.fc\.0\."),
        ("timm", r"\.se\.fc1\."),
        ("torchvision", r"^layer1\.0\.conv1\."),
    )
)


def detect_layout(keys: Iterable[str]) -> str:
    """The layout of a state_dict, from its names without wrappers (see wrapped.py).

    Raises:
        WeightsError: no known layout; the message shows the first names.
    """
    keys = list(keys)
    for layout, sign in _SIGNS:
        if any(sign.search(key) for key in keys):
            return layout
    shown = ", ".join(keys[:5]) or "none"
    raise WeightsError(
        f"these are not the names of a ResNet in any known layout ({', '.join(name for name, _ in _SIGNS)}). "
        f"The first of {len(keys)} names: {shown}"
    )


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


# --- whole dictionaries ---


def names_to_ours(keys: Iterable[str], layout: str) -> dict[str, str]:
    """Each name of the file -> the name of the same tensor in our network. Names not of the layout stay.

    A detector's backbone keeps its place: ``backbone.bottom_up.net.…``.

    Raises:
        WeightsError: two names of the file mean one tensor, or the layout is unknown.
    """
    keys = list(keys)
    deep = any(key.startswith("layer0.conv3.") for key in keys)
    functions: dict[str, Callable[[str], str]] = {
        "timm-legacy": lambda name: _from_legacy(name, deep),
        "mmpretrain": _from_mmpretrain,
        "moskomule": _from_moskomule,
        "caffe2": lambda name: _from_detectron2(_caffe2_as_detectron2(name)),
        "detectron2": _from_detectron2,
        "detectron2-model": _detector_to_ours,
        **dict.fromkeys(("ours", "timm", "torchvision", "ours-detection"), lambda name: name),
    }
    if layout not in functions:
        raise WeightsError(f"the layout {layout!r} is none of {', '.join(functions)}")
    names = {key: functions[layout](key) for key in keys}
    seen: dict[str, str] = {}
    for key, name in names.items():
        if name in seen:
            raise WeightsError(f"two names of the file mean the same tensor {name}: {seen[name]} and {key}")
        seen[name] = key
    return names


def tensor_to_ours(name: str, tensor: Tensor) -> Tensor:
    """An excitation layer kept as a linear one, (out, in), becomes the 1×1 convolution (out, in, 1, 1)."""
    if tensor.dim() == 2 and re.search(r"\.se\.fc[12]\.weight$", name):
        return tensor[:, :, None, None]
    return tensor


def convert_state_dict(state_dict: Mapping[str, Tensor], from_layout: str, to_layout: str) -> dict[str, Tensor]:
    """Renames a network's tensors from one layout to another; the numbers stay the same bytes.

    Args:
        state_dict: names without wrappers.
        from_layout: any layout of this module's list, or ``ours``.
        to_layout: ``ours``, ``timm``, ``torchvision``, ``timm-legacy`` or ``detectron2``.

    Returns:
        a new dictionary over the same tensors.

    Raises:
        WeightsError: the target has no form for this network (SE in torchvision or Detectron2; a plain
            network in timm-legacy), or two names fall together.
    """
    if to_layout not in WRITABLE:
        raise WeightsError(f"weights can be written as {', '.join(WRITABLE)}; {to_layout!r} is none of them")
    names = names_to_ours(state_dict, from_layout)
    ours = {name: tensor_to_ours(name, state_dict[key]) for key, name in names.items()}
    if to_layout == "ours":
        return ours
    has_se = any(".se.fc1." in name for name in ours)
    deep = any(name.endswith("conv1.6.weight") for name in ours)
    detector = from_layout in DETECTORS
    if has_se and to_layout in ("torchvision", "detectron2"):
        raise WeightsError(f"{to_layout}'s ResNet has no place for squeeze-and-excitation; write to ours or timm")
    if deep and to_layout in ("torchvision", "detectron2"):
        raise WeightsError(f"{to_layout}'s ResNet has no stem of three 3×3 convolutions; write to ours or timm")
    if to_layout == "timm-legacy" and not has_se:
        raise WeightsError("timm's legacy networks all have squeeze-and-excitation, and this one has none")
    if detector and to_layout != "detectron2":
        raise WeightsError(f"{to_layout} has no detectors; a detector is written to ours or detectron2")
    if to_layout == "timm-legacy":
        return {_to_legacy(name, deep): tensor for name, tensor in ours.items()}
    if to_layout == "detectron2":
        rename = _detector_to_detectron2 if detector else _to_detectron2
        return {rename(name): tensor for name, tensor in ours.items()}
    return ours


def split_detector(name: str) -> tuple[str, str]:
    """A detector's tensor name (ours): where the residual network lies and the name in it, or ``("", name)``.

    A C4 detector's res5, in its ROI heads, is the network's ``layer4``.
    """
    if name.startswith(RES5_HEAD):
        return RES5_HEAD, f"layer4.{name.removeprefix(RES5_HEAD)}"
    found = _OURS_IN_DETECTOR.match(name)
    return (found[1], found[2]) if found else ("", name)
