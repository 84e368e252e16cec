"""What a layout says about a network beyond its names: its strides, its pooling, how images come.

Each value is as sure as its basis:

``stated``     the file, or the table of the release it was named from, says so. A contradiction stops the load.
``published``  the weights released in this layout are so. A contradiction stops the load too: a network fed with
               the wrong colours or built with the stride elsewhere does not fail, it is only worse. Whoever knows
               better writes ``preprocessing`` or ``architecture`` into ``allow``.
``usual``      most are so. A contradiction is a warning.

Sources: timm 1.0 (``senet.py``: ceil_mode pooling, stride in the first 1×1 of SEResNetBottleneck, and in the 3×3 of
SEResNeXtBottleneck; ``default_cfgs``: ImageNet's mean and std for every network of our table but one,
``resnet34.ra4_e3600_r224_in1k``, whose 0.5 is known if it is named by ``timm://``), torchvision (reference
transforms), mmpretrain (configs of se-resnet50 and 101: style='pytorch', to_rgb=True), Detectron2 0.6
(``catalog.py``, ``MODEL_ZOO.md``, the configs with STRIDE_IN_1X1, and tools/convert-torchvision-to-d2.py), Places365
(demo scripts: ImageNet's values).
"""

from __future__ import annotations

from dataclasses import dataclass

from se_backbones.weights.preprocessing import CAFFE_BGR, FAIR_BGR, IMAGENET_RGB, Preprocessing
from se_backbones.weights.shapes import NetworkShape


@dataclass(frozen=True)
class Facts:
    """What is known about a network from outside its tensors. None: unknown."""

    stride_in_1x1: bool | None = None
    ceil_pool: bool | None = None
    relu_before_se: bool | None = False
    preprocessing: Preprocessing | None = None
    basis: str = ""


def layout_facts(layout: str, shape: NetworkShape | None, author: str = "", group_norm: bool = False) -> Facts:
    """What a layout's weights have in common.

    Args:
        layout: of ``layouts.py``.
        shape: of the network, where it could be told.
        author: the ``__author__`` of a Detectron2 .pkl.
        group_norm: the file has a normalisation without running statistics of its own kind (``_gn_``).
    """
    groups = shape.groups if shape else 1
    bottleneck = bool(shape and shape.bottleneck)
    caffe2_images = CAFFE_BGR if groups == 1 else FAIR_BGR
    if layout in ("timm", "torchvision", "mmpretrain", "moskomule"):
        return Facts(False, False, preprocessing=IMAGENET_RGB, basis="published")
    if layout == "timm-legacy":
        return Facts(
            # SE-ResNet-50, 101, 152: in the first 1×1. SE-ResNeXt and SENet-154: in the 3×3.
            stride_in_1x1=bottleneck and groups == 1,
            ceil_pool=True,
            # timm's own SE-ResNet-18 and 34 in this layout have a ReLU between the branch and its gate.
            relu_before_se=not bottleneck,
            preprocessing=IMAGENET_RGB,
            basis="published",
        )
    if layout == "caffe2":
        # MSRA's ResNet-50 and 101 stride in the 1×1; FAIR's own (grouped, or with GroupNorm) in the 3×3.
        in_1x1 = groups == 1 and not group_norm
        return Facts(in_1x1, False, preprocessing=caffe2_images, basis="published")
    if layout == "detectron2":
        if author.lower() == "torchvision":
            return Facts(False, False, preprocessing=IMAGENET_RGB, basis="stated")
        if author.lower() in ("caffe2", "msra"):
            return Facts(groups == 1, False, preprocessing=caffe2_images, basis="stated")
    if layout in ("detectron2", "detectron2-model"):
        return Facts(None, False, preprocessing=CAFFE_BGR, basis="usual")
    return Facts()
