"""What is said of exported files: by their names, by themselves, and where they cannot be used."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from engine.errors import UserError
from engine.export import formats
from engine.export.facts import VERSION, ExportFacts
from engine.export.formats import FORMATS, format_of, open_exported
from engine.export.int8 import beside_maps, gate_layers, quantiser
from engine.export.program import Graph, capture
from engine.export.report import describe
from engine.train.sampling import spread

FACTS = ExportFacts("any", "any", False, "fp32", {"x": [1, 3, "height", 8]}, ["y"], ["é"], "", {}, {}, {})
CPU = torch.device("cpu")


def test_a_format_is_told_by_the_end_of_a_name():
    assert [format_of(f"a/model{end}").name for end in (".onnx", ".xml", ".pt2")] == list(FORMATS)
    assert format_of("model_final.pth") is None


def test_facts_survive_their_text(tmp_path):
    assert ExportFacts.from_text(FACTS.to_text(), tmp_path) == FACTS
    assert (FACTS.fixed("x", 0), FACTS.fixed("x", 2)) == (1, None)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"version": 1}', "no JSON"])
def test_a_file_that_says_nothing_is_not_ours(text):
    with pytest.raises(UserError, match="model.onnx does not say what it holds"):
        ExportFacts.from_text(text, "model.onnx")


def test_a_newer_file_is_told_from_others():
    newer = FACTS.to_text().replace(f'"version": {VERSION}', f'"version": {VERSION + 1}')
    with pytest.raises(UserError, match=f"version {VERSION + 1}"):
        ExportFacts.from_text(newer, "model.onnx")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"no model", "cannot run .*model.onnx"),
        ("model.xml", b"<xml/>", "cannot run .*model.xml"),
        ("model.pt2", b"no archive", "model.pt2 is no file of torch.export"),
        ("model.bin", b"", "exported models end with .onnx, .xml, .pt2"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_exported(tmp_path / name, CPU, ("any",))


def test_a_foreign_model_is_none_of_ours(tmp_path):
    import onnx
    from onnx import helper

    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    with pytest.raises(UserError, match="does not say what it holds"):
        open_exported(tmp_path / "a.onnx", CPU, ("any",))
    with pytest.raises(UserError, match="no exported model at"):
        open_exported(tmp_path / "b.onnx", CPU, ("any",))


def test_a_package_that_is_missing_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino needs openvino: pip install -e \"\.\[export\]\""):
        FORMATS["openvino"].load()


def test_a_model_of_another_task_is_refused(tmp_path, monkeypatch):
    class Stub:
        def __init__(self, path, device):
            self.facts = FACTS

    (tmp_path / "a.pt2").touch()
    monkeypatch.setattr(formats.Format, "load", lambda self: type("Module", (), {"Session": Stub}))
    with pytest.raises(UserError, match="of the task 'any', not of detection"):
        open_exported(tmp_path / "a.pt2", CPU, ("detection",))


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(6, 2)


def test_a_size_that_cannot_vary_is_said_to():
    graph = Graph(Fixed(), {"x": torch.zeros(3, 4)}, ("y",), {"x": {0: ("batch", 1)}})
    with pytest.raises(UserError, match="the batch of this model's images cannot vary"):
        capture(graph)


class Branches(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


def test_a_model_that_is_no_graph_is_said_to_be_none():
    with pytest.raises(UserError, match="cannot be captured as a graph"):
        capture(Graph(Branches(), {"x": torch.zeros(3)}, ("y",)))


def test_images_are_spread_over_all_there_are():
    assert spread(range(10), 4) == [0, 2, 5, 7] and spread(range(3), 9) == [0, 1, 2]


def test_gates_are_told_from_other_sigmoids():
    from onnx import helper

    def node(kind, inputs, output):
        return helper.make_node(kind, inputs, [output], name=output)

    nodes = [
        node("Conv", ["x", "w"], "map"),
        node("GlobalAveragePool", ["map"], "squeezed"),
        node("Gemm", ["squeezed", "w1"], "first"),
        node("Relu", ["first"], "hidden"),
        node("Gemm", ["hidden", "w2"], "second"),
        node("Sigmoid", ["second"], "gate"),
        node("Mul", ["map", "gate"], "scaled"),
        node("Conv", ["scaled", "w3"], "logits"),
        node("Sigmoid", ["logits"], "objectness"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "one", [], []))
    assert gate_layers(model) == ["first", "hidden", "second"]


def test_int8_needs_images():
    with pytest.raises(UserError, match="there are none"):
        quantiser([], keep_gates=False)


def test_a_report_in_words():
    report = {
        "architecture": "se_resnet50", "format": "onnx", "precision": "fp32",
        "inputs": {"images": ["batch", 3, 224, 224]}, "bytes": {"checkpoint": 2_000_000, "exported": 1_500_000},
        "difference": {"images": 4, "largest_logit": 1.23456e-5, "same_first_class": 4}, "images_at_a_time": 1,
        "seconds_an_image": {"checkpoint": 0.02, "exported": 0.01}, "times_as_fast": {"median": 2.0},
        "metric": {"data": "val", "images": 1000, "checkpoint": {"top1": 50.0}, "exported": {"bbox": {"AP": 1.5}}},
    }  # fmt: skip
    text = describe(report)
    for words in (
        "se_resnet50 as onnx, fp32: images batch x 3 x 224 x 224", "on 4 images: largest logit 1.23e-05, same first",
        "takes 10.0 ms", "2.00 times as fast", "1.5 MB; the checkpoint has 2.0 MB", "val, 1,000 images", "top1 50.00",
        "bbox AP 1.50",
    ):  # fmt: skip
        assert words in text


def test_help_needs_no_pytorch():
    code = "import sys, engine.export.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Decoded(nn.Module):
    """Arithmetic on a map, and on the numbers of a box."""

    def forward(self, x):
        x = x + 1
        boxes = x.flatten(1) * 2
        return x, boxes.exp() + (boxes < 3)


@pytest.mark.parametrize("openvino", [False, True])
def test_what_is_computed_of_boxes_stays_as_it_is(openvino):
    from engine.export.onnx_file import onnx_model
    from engine.export.openvino_file import openvino_model

    program = capture(Graph(Decoded(), {"x": torch.rand(1, 3, 4, 5)}, ("map", "boxes"), {}))
    model = (openvino_model if openvino else onnx_model)(program, {"x": [1, 3, 4, 5]}, ("map", "boxes"))
    kinds = sorted(re.sub("_[0-9]+$", "", name) for name in beside_maps(model))
    last = "boxes" if openvino else "node_add"  # called after the output
    assert kinds == sorted([last, "node_exp", "node_lt", "node_mul"])
