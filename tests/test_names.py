"""Public names come when they are asked for, and what needs no torch imports without it."""

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import detection.backbone  # whose import sets an environment variable, by Detectron2's
import se_backbones
from se_backbones.lazy_names import lazy_names

ROOT = Path(__file__).resolve().parents[1]

# What a person waits for before the first line is printed: none of these needs torch.
WITHOUT_TORCH = (
    "se_backbones.files",
    "engine.json_files",
    "engine.images.writing",
    "detection.coco_ap.average_precision",
    "detection.formats.check_set",
)


def imported_with(module: str) -> set[str]:
    script = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_needs_no_torch_imports_without_it(module):
    assert not imported_with(module) & {"torch", "torchvision", "detectron2"}


@pytest.mark.parametrize("module", ["se_backbones.registry", "se_backbones.weights.loader"])
def test_the_families_are_there_whichever_module_is_imported_first(module):
    script = f"import {module}; from se_backbones import list_backbones; print(len(list_backbones()))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    assert int(done.stdout) == len(se_backbones.list_backbones()) > 50


@pytest.mark.parametrize("package", [detection, se_backbones])
def test_a_type_checker_sees_the_names_that_are_there(package):
    tree = ast.parse(Path(package.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: statement.module for statement in block.body for alias in statement.names}
    assert sorted(seen) == sorted(package.__all__) and set(seen) <= set(dir(package))
    for name, module in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)


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
