"""The table of architectures: one row a network. Everything that tells two networks apart is a value here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from se_backbones.se import SEConfig


@dataclass(frozen=True)
class Architecture:
    """What a network is, without the choices of the one who uses it (classes, normalisation, freezing).

    Attributes:
        name: its name in ``create_backbone``.
        depths: residual units in res2, res3, res4, res5.
        bottleneck: three convolutions a unit (1×1, 3×3, 1×1), and not two 3×3.
        groups, width_per_group: of the 3×3 convolution; 32 and 4 for ResNeXt 32×4d.
        deep_stem: three 3×3 convolutions with 64, 64, 128 channels in place of one 7×7 with 64.
        ceil_pool: the stem's 3×3 max-pool is un-padded and rounds its size up, as in Caffe; else padded by 1.
        relu_before_se: see UnitConfig.
        stride_in_1x1: see UnitConfig.
        first_1x1_halved: see UnitConfig.
        downsample_kernel: see UnitConfig.
        dropout: probability before the classifier.
        se: the SE settings; None is the plain network.
    """

    name: str
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
    se: SEConfig | None = None


def _rows():
    depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    for depth, units in depths.items():
        plain = Architecture(f"resnet{depth}", units, bottleneck=depth >= 50)
        se = replace(plain, name=f"se_resnet{depth}", se=SEConfig())
        yield plain
        yield se
        # The release that came with the paper (Caffe) strides in the first 1×1 of the SE-ResNets.
        yield replace(se, name=f"{se.name}_caffe", ceil_pool=True, stride_in_1x1=depth >= 50, relu_before_se=depth < 50)
        if depth >= 50:
            # MSRA's ResNets as Detectron2 uses them: stride in the 1×1, but the padded max-pool.
            yield replace(plain, name=f"resnet{depth}_msra", stride_in_1x1=True)
    for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        name = f"resnext{depth}_{groups}x{width}d"
        plain = Architecture(name, depths[depth], groups=groups, width_per_group=width)
        se = replace(plain, name=f"se_{name}", se=SEConfig())
        yield plain
        yield se
        if (groups, width) == (32, 4):  # the only ones of the original release
            yield replace(se, name=f"{se.name}_caffe", ceil_pool=True)
    senet154 = Architecture(
        "senet154",
        depths[152],
        groups=64,
        width_per_group=4,
        deep_stem=True,
        first_1x1_halved=True,
        downsample_kernel=3,
        dropout=0.2,
        se=SEConfig(),
    )
    yield senet154
    yield replace(senet154, name="senet154_caffe", ceil_pool=True)


ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _rows()}


def find_architecture(name: str) -> Architecture:
    """The row of a name. Raises ValueError for an unknown one, with the nearest names."""
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=3, cutoff=0.4)
        hint = f"the nearest names are {', '.join(near)}" if near else "list_backbones() names them"
        raise ValueError(f"no backbone is called {name!r}; {hint}")
    return ARCHITECTURES[name]
