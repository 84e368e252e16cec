"""Networks that others publish under the names and shapes of our plain ResNets, and that compute something else.

Sources: Places365 (``wideresnet.py`` of CSAILVision/places365, whose ResNets skip the max-pool; weights
``wideresnet18_places365.pth.tar``), timm 1.0 (of all its networks, resnetblur18, resnetblur50 and resnetaa50 alone have
names and shapes of another row), open-mmlab's model zoo (``resnet50_caffe``, ``resnet50_msra``: style='caffe'),
ruotianluo's pytorch-resnet and Cadene's pretrained-models (``resnet50-caffe``, ``cafferesnet101``, which pool un-padded
besides).
"""

from __future__ import annotations

from se_backbones.layout import LookAlike
from se_backbones.preprocessing import CAFFE_BGR

_DEEP = ("resnet50", "resnet101", "resnet152")

LOOK_ALIKES = (
    LookAlike(
        "Places365's wideresnet",
        "has no max-pool behind its stem",
        ("resnet18", "resnet34", *_DEEP),
        ("torchvision",),
        r"wide_?res_?net",
    ),
    LookAlike(
        "timm's resnetblur",
        "pools through a blur",
        ("resnet18", "resnet50"),
        ("torchvision",),
        r"res_?net_?blur",
    ),
    LookAlike("timm's resnetaa", "pools where it strides", ("resnet50",), ("torchvision",), r"res_?net_?aa"),
    LookAlike(
        "a ResNet as Caffe's",
        "has its strides in the first 1×1 convolutions, and BGR images",
        _DEEP,
        ("torchvision", "mmpretrain"),
        r"caffe|msra",
        is_row="{}_msra",
        preprocessing=CAFFE_BGR,
    ),
)

# How the sha256 of torchvision's released files begin, as their names say: those of 0.29, and those of before 0.13.
RELEASES = {
    digits: name
    for name, known in {
        "resnet18": "f37072fd 5c106cde",
        "resnet34": "b627a593 333f7ec4",
        "resnet50": "0676ba61 11ad3fa6 19c8e357",
        "resnet101": "63fe2227 cd907fc2 5d3b4d8f",
        "resnet152": "394f9c45 f82ba261 b121ed2d",
    }.items()
    for digits in known.split()
}
