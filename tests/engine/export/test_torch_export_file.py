"""Files of torch.export: nothing of one is run before it is known to be arithmetic."""

import json
import zipfile

import pytest
import torch
from torch import nn

from engine.errors import UserError
from engine.export import torch_export_file as file
from engine.export.facts import ExportFacts
from engine.export.program import Graph, capture

FACTS = ExportFacts("any", "any", False, "fp32", {"x": ["batch", 3]}, ["y"], ["a"], "", {}, {}, {"torch": "2.0"})


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return torch.cat((self.layer(x), x[1:, :2] / x.shape[0]))


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Sums().eval()


@pytest.fixture(scope="module")
def written(module, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "sums.pt2"
    graph = Graph(module, {"x": torch.randn(4, 3)}, ("y",), {"x": {0: ("batch", 1)}})
    file.write(capture(graph), path, FACTS)
    return path


def changed(source, target, change):
    """A copy of a file in which ``change(entry, bytes)`` gives each entry's bytes."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return target


def in_model(old, new):
    def change(entry, content):
        if entry != "models/model.json":
            return content
        assert old in content
        return content.replace(old, new)

    return change


def test_a_file_says_what_it_holds_and_computes_it(written, module):
    session = file.Session(written, torch.device("cpu"))
    assert session.facts == FACTS
    for count in (2, 5):
        x = torch.randn(count, 3)
        torch.testing.assert_close(session(x=x)[0], module(x))


def pickled(entry, content):
    if entry != "data/weights/model_weights_config.json":
        return content
    config = json.loads(content)
    next(iter(config["config"].values()))["use_pickle"] = True
    return json.dumps(config)


EXPRESSIONS = {
    "an attribute": "Symbol.__class__",
    "a string that sympy would evaluate": "Add('__import__(1)', Integer(1))",
    "a function of Python": "eval('1')",
    "a class of sympy that evaluates": "Lambda(Symbol('x'), '1')",
    "no expression": "import os",
}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_sizes_are_arithmetic(written, tmp_path, expression):
    size = json.dumps(expression)[1:-1].encode()
    old = b"Symbol('s"
    with zipfile.ZipFile(written) as archive:
        model = archive.read(next(name for name in archive.namelist() if name.endswith("models/model.json")))
    start = model.index(old)
    whole = model[start : model.index(b'"', start)]
    path = changed(written, tmp_path / "other.pt2", in_model(b'"' + whole + b'"', b'"' + size + b'"'))
    with pytest.raises(UserError, match="is not loaded: the size"):
        file.check(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_model(b"torch.ops.aten.linear.default", b"torch.hub.load"), "a call of torch.hub.load"),
        (in_model(b"torch.ops.aten.linear.default", b"torch.ops.aten"), "a call of torch.ops.aten is"),
        (pickled, "a pickled tensor"),
    ],
)
def test_what_loading_would_run_is_refused_by_name(written, tmp_path, change, message):
    path = changed(written, tmp_path / "other.pt2", change)
    with pytest.raises(UserError, match=message):
        file.Session(path, torch.device("cpu"))


def test_parts_that_are_code_are_refused(written, tmp_path):
    path = changed(written, tmp_path / "other.pt2", lambda entry, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("sums/data/aotinductor/model.so", b"")
    with pytest.raises(UserError, match="the part data/aotinductor"):
        file.check(path)


def test_other_files_are_told_from_these(written, tmp_path):
    torch.save({"a": 1}, weights := tmp_path / "weights.pt2")
    (text := tmp_path / "text.pt2").write_text("no archive")
    (cut := tmp_path / "cut.pt2").write_bytes(written.read_bytes()[:-1000])
    for path in (weights, text, cut):
        with pytest.raises(UserError, match=str(path)):
            file.Session(path, torch.device("cpu"))


def test_a_damaged_byte_is_noticed(written, module, tmp_path):
    content = bytearray(written.read_bytes())
    content[content.index(module.layer.weight.detach().numpy().tobytes())] ^= 0xFF
    (path := tmp_path / "damaged.pt2").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        file.check(path)
