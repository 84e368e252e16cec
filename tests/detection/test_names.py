"""The package's names come when they are asked for; what needs no Detectron2 imports without it."""

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import detection
from detection.lazy_names import lazy_names

ROOT = Path(__file__).resolve().parents[2]


def test_ap_and_annotations_import_neither_torch_nor_detectron2():
    script = """
import sys
import detection, detection.coco_ap.average_precision, detection.annotations.check
dir(detection)
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "torchvision", "detectron2", "detection"}))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "['detection']"


@pytest.mark.parametrize("name", detection.__all__)
def test_every_name_registers_the_backbones_first(monkeypatch, name):
    order = []
    imported = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda module: order.append(module) or imported(module))
    vars(detection).pop(name, None)
    getattr(detection, name)
    assert order[0] == "detection.backbone"


def test_a_type_checker_sees_the_names_that_are_there():
    tree = ast.parse(Path(detection.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: statement.module for statement in block.body for alias in statement.names}
    assert sorted(seen) == sorted(detection.__all__) and set(seen) <= set(dir(detection))
    for name, module in seen.items():
        assert getattr(detection, name) is getattr(importlib.import_module(module), name)


def test_a_name_is_asked_for_once_and_after_what_comes_first(monkeypatch):
    package = types.ModuleType("package")
    monkeypatch.setitem(sys.modules, "package", package)
    order = []
    modules = {"package.first": types.ModuleType("first"), "package.second": types.SimpleNamespace(name=7)}
    monkeypatch.setattr(importlib, "import_module", lambda module: order.append(module) or modules[module])
    package.__getattr__, package.__dir__ = lazy_names("package", {"name": "package.second"}, first="package.first")
    assert "name" in dir(package) and order == []
    assert package.name == package.name == 7 and order == ["package.first", "package.second"]
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'nam'"):
        _ = package.nam
