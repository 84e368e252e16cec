"""What tests of written graphs share."""

import copy
from contextlib import contextmanager

import pytest

from engine.export import make, onnx_file, openvino_file


@contextmanager
def each_graph_once():
    """What the formats have in common is made once of each graph: its capture, and ONNX's form of that, which OpenVINO
    reads too. Graphs of the same inputs and types are taken for the same."""
    captures, models = {}, {}
    capture, onnx_model = make.capture, onnx_file.onnx_model

    def captured(graph):
        key = str(graph.shapes()), frozenset(tensor.dtype for tensor in graph.module.state_dict().values())
        if key not in captures:
            captures[key] = capture(graph)
        return captures[key]

    def in_onnx(program, inputs, outputs):
        if program not in models:
            models[program] = onnx_model(program, inputs, outputs)
        return copy.deepcopy(models[program])

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(make, "capture", captured)
        monkeypatch.setattr(onnx_file, "onnx_model", in_onnx)
        monkeypatch.setattr(openvino_file, "onnx_model", in_onnx)
        yield
