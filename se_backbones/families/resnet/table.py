"""The ResNets' rows. Everything that tells two of these networks apart is a value here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from se_backbones.registry import Spec
from se_backbones.se import SEConfig

FAMILY_NAME = "resnet"
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class ResNetHyper:
    """What a ResNet is, but for its SE.

    Attributes:
        depths: residual units in res2, res3, res4, res5.
        bottleneck: three convolutions a unit (1×1, 3×3, 1×1), and not two 3×3.
        groups, width_per_group: of the 3×3 convolution in a bottleneck; its width is
            ``planes * width_per_group / 64 * groups`` with planes 64 in res2 and doubled at each stage (32×4d and
            64×4d are Xie et al., arXiv 1611.05431).
        deep_stem: three 3×3 convolutions with 64, 64, 128 channels in place of one 7×7 with 64.
        ceil_pool: the stem's 3×3 max-pool is un-padded and rounds its size up, as in Caffe; else padded by 1.
        relu_before_se: a ReLU between a basic unit's last normalisation and its gate, as in the SE-ResNet-18 and 34
            that timm publishes in the original release's style.
        stride_in_1x1: the stride is in the first 1×1 convolution, as in the original Caffe ResNets, and not in the 3×3.
        first_1x1_halved: the first 1×1 convolution has half the width of the 3×3 (SENet-154, section 9 of the paper).
        downsample_kernel: 1 or 3, the convolution on a shortcut that changes shape.
        dropout: probability before the classifier.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    width_per_group: int = 64
    deep_stem: bool = False
    ceil_pool: bool = False
    relu_before_se: bool = False
    stride_in_1x1: bool = False
    first_1x1_halved: bool = False
    downsample_kernel: int = 1
    dropout: float = 0.0


# Table 2 of the paper: thousand millions of multiply-adds. Its ResNets and SE-ResNets stride in the first 1×1, its
# ResNeXts in the 3×3, so each figure belongs to that row.
_GFLOPS = {
    "resnet50_msra": 3.86,
    "se_resnet50_caffe": 3.87,
    "resnet101_msra": 7.58,
    "se_resnet101_caffe": 7.60,
    "resnet152_msra": 11.30,
    "se_resnet152_caffe": 11.32,
    "resnext50_32x4d": 4.24,
    "se_resnext50_32x4d_caffe": 4.25,
    "resnext101_32x4d": 7.99,
    "se_resnext101_32x4d_caffe": 8.00,
}
# Section 3.3 and table 10: millions of parameters, those with SE rounded up.
_PARAMETERS = {"resnet50_msra": 25.6, "se_resnet50_caffe": 28.1}


def _row(name: str, hyper: ResNetHyper, se: SEConfig | None = None) -> Spec:
    return Spec(name, FAMILY_NAME, hyper, se, paper_gflops=_GFLOPS.get(name), paper_parameters=_PARAMETERS.get(name))


def rows() -> Iterator[Spec]:
    """All of them; a plain network stands before its twin."""
    se = SEConfig()
    for depth, units in DEPTHS.items():
        hyper = ResNetHyper(units, bottleneck=depth >= 50)
        yield _row(f"resnet{depth}", hyper)
        yield _row(f"se_resnet{depth}", hyper, se)
        # The release that came with the paper (Caffe) strides in the first 1×1 of the SE-ResNets.
        caffe = replace(hyper, ceil_pool=True, stride_in_1x1=depth >= 50, relu_before_se=depth < 50)
        yield _row(f"se_resnet{depth}_caffe", caffe, se)
        if depth >= 50:
            # MSRA's ResNets as Detectron2 uses them: stride in the 1×1, but the padded max-pool.
            yield _row(f"resnet{depth}_msra", replace(hyper, stride_in_1x1=True))
    for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        name = f"resnext{depth}_{groups}x{width}d"
        hyper = ResNetHyper(DEPTHS[depth], groups=groups, width_per_group=width)
        yield _row(name, hyper)
        yield _row(f"se_{name}", hyper, se)
        if (groups, width) == (32, 4):  # the only ones of the original release
            yield _row(f"se_{name}_caffe", replace(hyper, ceil_pool=True), se)
    hyper = ResNetHyper(
        DEPTHS[152],
        groups=64,
        width_per_group=4,
        deep_stem=True,
        first_1x1_halved=True,
        downsample_kernel=3,
        dropout=0.2,
    )
    yield _row("senet154", hyper, se)
    yield _row("senet154_caffe", replace(hyper, ceil_pool=True), se)
