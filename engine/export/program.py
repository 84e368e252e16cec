"""A function of tensors captured as a graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.symbolic_shapes import free_symbols

from engine.errors import UserError

MOST = 1 << 14  # pixels of a side, or images


@dataclass(frozen=True)
class Graph:
    """What is to be written.

    Attributes:
        module: a function of tensors, on the CPU, in eval mode.
        inputs: name → an example.
        outputs: names.
        dynamic: input → dimension → (name, multiple): it can be any multiple of a number.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, tuple[str, int]]] = field(default_factory=dict)

    def shapes(self) -> dict[str, list[int | str]]:
        """Of the inputs, with names where the size can be any."""
        return {
            name: [self.dynamic.get(name, {}).get(axis, (size,))[0] for axis, size in enumerate(tensor.shape)]
            for name, tensor in self.inputs.items()
        }


def capture(graph: Graph) -> ExportedProgram:
    """Raises UserError where it cannot be done, as with a size that has to be one alone."""
    sizes = {
        name: {axis: _dimension(called, multiple) for axis, (called, multiple) in axes.items()}
        for name, axes in graph.dynamic.items()
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = export(
                graph.module,
                tuple(graph.inputs.values()),
                dynamic_shapes={name: sizes.get(name) for name in graph.inputs} if sizes else None,
                strict=False,
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[:1]
            raise UserError(
                f"the model cannot be captured as a graph ({type(error).__name__}: {''.join(reason)})"
                + ("; try without --dynamic" if sizes else "")
            ) from error
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    for name, axes in graph.dynamic.items():
        for axis, (called, _) in axes.items():
            if not free_symbols(shapes[name][axis]):
                raise UserError(f"the {called} of this model's images cannot vary: leave it out of --dynamic")
    return program


def _dimension(called: str, multiple: int):
    return Dim.AUTO if multiple == 1 else multiple * Dim(called, min=1, max=MOST // multiple)
