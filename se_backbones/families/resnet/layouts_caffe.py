"""The layout of the original SE release's ResNets: what a .caffemodel of it holds, under the names of its layers.

    conv1/7x7_s2.weight, conv1/7x7_s2/bn.running_mean, conv1/7x7_s2/bn/scale.weight       the stem
    conv1_1/3x3_s2.weight, conv1_2/3x3.weight, conv1_3/3x3.weight, …                      SENet-154's
    conv2_1_1x1_reduce.weight, conv2_1_3x3.weight, conv2_1_1x1_increase.weight, …         a unit's branch
    conv2_1_1x1_down.weight, conv2_1_1x1_up.bias                                          its gate
    conv2_1_1x1_proj.weight, …                                                            its shortcut
    classifier.weight                                                                     the classifier

Source of names and facts: the .prototxt files of github.com/hujie-frank/SENet. SE-ResNet-50, 101 and 152 stride in the
first 1×1; SE-ResNeXt-50 and 101 (32×4d) and SENet-154 in the 3×3; all pool un-padded behind the stem.
"""

from __future__ import annotations

import re

from se_backbones.families.resnet.shapes import describe
from se_backbones.layout import Facts, FileSays, Layout
from se_backbones.preprocessing import SE_RELEASE_BGR
from se_backbones.renaming import each

# A convolution's layer, and the normalisation behind it, which Caffe keeps as two layers: statistics and scale.
_STEM = {
    "conv1/7x7_s2": ("conv1", "bn1"),
    "conv1_1/3x3_s2": ("conv1.0", "conv1.1"),
    "conv1_2/3x3": ("conv1.3", "conv1.4"),
    "conv1_3/3x3": ("conv1.6", "bn1"),
    "classifier": ("fc", ""),
}
_IN_UNIT = {
    "1x1_reduce": ("conv1", "bn1"),
    "3x3": ("conv2", "bn2"),
    "1x1_increase": ("conv3", "bn3"),
    "1x1_down": ("se.fc1", ""),
    "1x1_up": ("se.fc2", ""),
    "1x1_proj": ("downsample.0", "downsample.1"),
}
_LAYER = re.compile(r"^(.+?)(/bn|/bn/scale)?\.(\w+)$")
_UNIT = re.compile(r"^conv([2-5])_(\d+)_(\w+)$")


def _from_caffe(name: str) -> str:
    found = _LAYER.match(name)
    if not found:
        return name
    layer, norm, tensor = found.groups()
    unit = _UNIT.match(layer)
    place = f"layer{int(unit[1]) - 1}.{int(unit[2]) - 1}." if unit else ""
    module = (_IN_UNIT.get(unit[3]) if unit else _STEM.get(layer)) or ("", "")
    inner = module[1] if norm else module[0]
    return f"{place}{inner}.{tensor}" if inner else name


def _facts(file: FileSays) -> Facts:
    shape = describe(file.shapes)
    hyper = {"stride_in_1x1": shape.groups == 1 if shape else None, "ceil_pool": True, "relu_before_se": False}
    return Facts(hyper, SE_RELEASE_BGR, "published")


CAFFE = Layout(
    "caffe",
    r"^conv2_1_1x1_reduce\.",
    each(_from_caffe),
    facts=_facts,
)
