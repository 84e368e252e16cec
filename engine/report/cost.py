"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from se_backbones import Backbone, create_backbone, find_spec


@dataclass
class Cost:
    """One row of the table: numbers as they are, at images of ``size`` × ``size``; the paper's in millions of
    parameters and thousand millions of multiply-adds, or None."""

    name: str
    size: int
    parameters: int
    multiply_adds: int
    paper_parameters: float | None = None
    paper_gflops: float | None = None


class _Maps(nn.Module):
    """A network's maps."""

    def __init__(self, network: Backbone):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.network.forward_features(x)


def count_multiply_adds(model: nn.Module, size: int | tuple[int, int] = 224) -> int:
    """Multiply-adds of convolutions and linear layers for one image, by PyTorch's counter; of a network without a
    classifier those of its maps. Shapes alone are computed, on no device.

    One multiply-add is one operation, as in the paper. Normalisation, pooling and the products of the gate with the
    map, which the paper's figures leave out too, are not counted.

    Args:
        size: the image's side in pixels, or its height and width.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if isinstance(model, Backbone) and model.num_classes == 0:
        model = _Maps(model)
    tensors = chain(model.named_parameters(), model.named_buffers())
    shapes = {name: tensor.to("meta") for name, tensor in tensors}
    image = torch.empty(1, 3, height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model.eval(), shapes, (image,))
    return counter.get_total_flops() // 2  # of which a multiply-add is two


def cost_of(name: str, size: int | None = None) -> Cost:
    """The cost of a named backbone with its usual number of classes. Raises ValueError for an unknown name.

    Args:
        size: side of the image in pixels; by default the one at which the network's cost is quoted.
    """
    with torch.device("meta"):
        model, spec = create_backbone(name), find_spec(name)
    size = size or spec.image_size
    paper_gflops = spec.paper_gflops if size == spec.image_size else None
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(name, size, parameters, count_multiply_adds(model, size), spec.paper_parameters, paper_gflops)


def format_costs(costs: list[Cost]) -> str:
    """The table as text: millions of parameters and multiply-adds in 1e9 of convolutions and fully-connected layers,
    the paper's figures beside them, and how far its multiply-adds are from ours."""
    lines = [
        f"{'backbone':<32}{'parameters / M':>15}{'paper':>8}{'px':>6}{'multiply-adds / G':>20}{'paper':>8}{'off by':>9}"
    ]
    for cost in costs:
        ours = cost.multiply_adds / 1e9
        parameters = "" if cost.paper_parameters is None else f"{cost.paper_parameters:.1f}"
        paper, off = ("", "")
        if cost.paper_gflops is not None:
            paper, off = f"{cost.paper_gflops:g}", f"{ours - cost.paper_gflops:+.3f}"
        lines.append(
            f"{cost.name:<32}{cost.parameters / 1e6:>15.3f}{parameters:>8}{cost.size:>6}{ours:>20.3f}{paper:>8}{off:>9}"
        )
    return "\n".join(lines)
