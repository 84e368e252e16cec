"""Post-training quantisation to 8-bit integers, by nncf."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from types import ModuleType

from torch import Tensor
from tqdm import tqdm

from engine.errors import UserError

# What ends a gate, what it may be made of, and what it begins with.
SIGMOIDS = {"Sigmoid", "HardSigmoid", "HSigmoid"}
LAYERS = {"MatMul", "Gemm", "Add", "Relu", "Mul", "Multiply", "Div", "Divide", "Reshape", "Squeeze", "Unsqueeze"}
# Arithmetic that is quantised on maps, and nowhere else: boxes are decoded in numbers as they are.
ARITHMETIC = {"Add", "Sub", "Subtract", "Mul", "Multiply", "Div", "Divide", "Min", "Minimum", "Max", "Maximum", "Clip"}
ARITHMETIC |= {"Clamp", "Exp", "Sqrt", "Pow", "Power", "Equal", "Less", "LessEqual", "LessOrEqual"}
ARITHMETIC |= {"Greater", "GreaterEqual", "GreaterOrEqual"}
SQUEEZES = {"ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "AdaptiveAvgPool"}


def quantiser(images: Sequence[dict[str, Tensor]], keep_gates: bool) -> Callable:
    """A function that quantises an ``onnx.ModelProto`` or an ``openvino.Model``: weights symmetrically, one scale a
    channel; activations by their ranges on the images.

    Args:
        images: the inputs of the graph, one dictionary a run of it.
        keep_gates: the fully connected layers of gates stay as they are.

    Raises:
        UserError: nncf is not there, or there are no images.
    """
    if not images:
        raise UserError("int8 is made by looking at images, and there are none: see --calibration")
    nncf = _import_nncf()

    def quantise(model):
        logging.getLogger("nncf").setLevel(logging.ERROR)
        bar = tqdm(total=len(images), desc="calibrating", unit="img", disable=None, leave=False)

        def prepared(inputs: dict[str, Tensor]) -> dict:
            bar.update(bar.n < len(images))
            return {name: tensor.numpy() for name, tensor in inputs.items()}

        names = [*(gate_layers(model) if keep_gates else ()), *beside_maps(model)]
        kept = nncf.IgnoredScope(names=names, validate=False)
        with bar:
            return nncf.quantize(
                model,
                nncf.Dataset(list(images), prepared),
                subset_size=len(images),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=kept,
            )

    return quantise


def _import_nncf() -> ModuleType:
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # else it sends usage figures
    try:
        return importlib.import_module("nncf")
    except ImportError as error:
        raise UserError('int8 needs nncf: pip install -e ".[export]"') from error
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before


def gate_layers(model) -> list[str]:
    """The names of the layers between a squeeze and the sigmoid behind it."""
    nodes = _onnx_nodes(model) if hasattr(model, "graph") else _openvino_nodes(model)
    found: set[str] = set()
    for name, (kind, _) in nodes.items():
        if kind in SIGMOIDS:
            found |= _behind_squeeze(name, nodes) or set()
    return sorted(found)


def beside_maps(model) -> list[str]:
    """The names of arithmetic operations whose result is no map, (N, C, H, W): those on boxes and scores."""
    if hasattr(model, "graph"):
        import onnx

        inferred = onnx.shape_inference.infer_shapes(model).graph
        ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*inferred.value_info, *inferred.output)}
        found = [(node.name, node.op_type, ranks.get(node.output[0])) for node in model.graph.node]
    else:
        found = [
            (op.get_friendly_name(), op.get_type_name(), op.get_output_partial_shape(0).rank.get_max_length())
            for op in model.get_ordered_ops()
            if op.get_output_size()
        ]
    return sorted(name for name, kind, rank in found if kind in ARITHMETIC and rank != 4)


Nodes = dict[str, tuple[str, list[str]]]  # name → kind, and the names of those before it


def _behind_squeeze(name: str, nodes: Nodes) -> set[str] | None:
    """The layers of a gate that ends with a node; None where it is none."""
    layers, waiting, squeezed = set(), list(nodes[name][1]), False
    while waiting:
        one = waiting.pop()
        kind, before = nodes[one]
        if kind in SQUEEZES:
            squeezed = True
        elif kind in LAYERS:
            if one not in layers:
                layers.add(one)
                waiting += before
        elif before and kind not in ("Convert", "Cast", "Shape", "ShapeOf", "Gather", "Concat"):
            return None
    return layers if squeezed else None


def _onnx_nodes(model) -> Nodes:
    makers = {output: node for node in model.graph.node for output in node.output}
    return {
        node.name: (node.op_type, [makers[name].name for name in node.input if name in makers])
        for node in model.graph.node
    }


def _openvino_nodes(model) -> Nodes:
    return {
        op.get_friendly_name(): (
            op.get_type_name(),
            [value.get_source_output().get_node().get_friendly_name() for value in op.inputs()],
        )
        for op in model.get_ordered_ops()
    }
