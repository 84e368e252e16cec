"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from se_backbones import create_backbone

# Multiply-adds at 224 pixels in the paper, in thousand millions (table 2; arXiv 1709.01507). Its ResNets and
# SE-ResNets stride in the first 1×1 convolution, its ResNeXts in the 3×3, so each figure belongs to that row.
PAPER_GFLOPS = {
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
_COUNTED = ("conv", "linear", "addmm", "matmul", "bmm")


@dataclass
class Cost:
    """One row of the table: parameters and multiply-adds as numbers, the paper's figure in 1e9 or None."""

    name: str
    parameters: int
    multiply_adds: int
    paper_gflops: float | None


def count_multiply_adds(model: nn.Module, size: int = 224) -> int:
    """Multiply-adds of convolutions and linear layers for one image of ``size`` × ``size``, by fvcore's counter.

    One multiply-add is one operation, as in the paper. Normalisation, pooling and the products of the gate with the
    map, which the paper's figures leave out too, are not counted.
    """
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_operator = FlopCountAnalysis(model.eval(), torch.zeros(1, 3, size, size)).by_operator()
    return int(sum(count for operator, count in by_operator.items() if operator in _COUNTED))


def cost_of(name: str, size: int = 224) -> Cost:
    """The cost of a named backbone with 1000 classes. Raises ValueError for an unknown name."""
    model = create_backbone(name)
    paper = PAPER_GFLOPS.get(name) if size == 224 else None
    return Cost(name, sum(p.numel() for p in model.parameters()), count_multiply_adds(model, size), paper)


def format_costs(costs: list[Cost], size: int = 224) -> str:
    """The table as text: millions of parameters, multiply-adds in 1e9, the paper's figure beside them."""
    lines = [f"{'backbone':<28}{'parameters / M':>15}{f'multiply-adds / G at {size} px':>32}{'paper':>8}"]
    for cost in costs:
        paper = "" if cost.paper_gflops is None else f"{cost.paper_gflops:.2f}"
        lines.append(f"{cost.name:<28}{cost.parameters / 1e6:>15.3f}{cost.multiply_adds / 1e9:>32.3f}{paper:>8}")
    return "\n".join(lines)
