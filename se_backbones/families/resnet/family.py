"""The ResNets as a family."""

from __future__ import annotations

from se_backbones.families.resnet.layouts import LAYOUTS, RES5_HEAD
from se_backbones.families.resnet.layouts_caffe import CAFFE
from se_backbones.families.resnet.look_alikes import LOOK_ALIKES, RELEASES
from se_backbones.families.resnet.network import ResNet
from se_backbones.families.resnet.shapes import describe, explain, same_network
from se_backbones.families.resnet.table import FAMILY_NAME, rows
from se_backbones.registry import Family, register

# Names as timm 1.0 and torchvision 0.29 list them. The SE-ResNets 101 and 152 were only ever published in the
# original release's variant (stride in the first 1×1).
PUBLISHED = {
    "resnet18": "torchvision://resnet18",
    "resnet34": "torchvision://resnet34",
    "resnet50": "torchvision://resnet50",
    "resnet101": "torchvision://resnet101",
    "resnet152": "torchvision://resnet152",
    "resnext50_32x4d": "torchvision://resnext50_32x4d",
    "resnext101_32x4d": "timm://resnext101_32x4d.gluon_in1k",
    "resnext101_32x8d": "torchvision://resnext101_32x8d",
    "resnext101_64x4d": "torchvision://resnext101_64x4d",
    "resnet50_msra": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "resnet101_msra": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "se_resnet18_caffe": "timm://legacy_seresnet18.in1k",
    "se_resnet34_caffe": "timm://legacy_seresnet34.in1k",
    "se_resnet50": "timm://seresnet50.ra2_in1k",
    "se_resnet50_caffe": "timm://legacy_seresnet50.in1k",
    "se_resnet101_caffe": "timm://legacy_seresnet101.in1k",
    "se_resnet152_caffe": "timm://legacy_seresnet152.in1k",
    "se_resnext50_32x4d": "timm://seresnext50_32x4d.racm_in1k",
    "se_resnext50_32x4d_caffe": "timm://legacy_seresnext50_32x4d.in1k",
    "se_resnext101_32x4d": "timm://seresnext101_32x4d.gluon_in1k",
    "se_resnext101_32x4d_caffe": "timm://legacy_seresnext101_32x4d.in1k",
    "se_resnext101_32x8d": "timm://seresnext101_32x8d.ah_in1k",
    "se_resnext101_64x4d": "timm://seresnext101_64x4d.gluon_in1k",
    "senet154": "timm://senet154.gluon_in1k",
    "senet154_caffe": "timm://legacy_senet154.in1k",
}

register(
    Family(
        FAMILY_NAME,
        tuple(rows()),
        ResNet,
        (*LAYOUTS, CAFFE),
        published=PUBLISHED,
        unmarked={
            "stride_in_1x1": lambda spec: spec.hyper.bottleneck,
            "ceil_pool": lambda spec: True,
            "relu_before_se": lambda spec: spec.se is not None,
        },
        look_alikes=LOOK_ALIKES,
        releases=RELEASES,
        # MSRA's ResNet-50 has a bias on its first convolution.
        bias_norms={"conv1.bias": "bn1.running_mean"},
        detector_parts={RES5_HEAD: "layer4."},
        describe=describe,
        same_network=same_network,
        explain=explain,
    )
)
