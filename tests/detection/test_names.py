"""The package's names come when they are asked for; what needs no Detectron2 imports without it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import detection

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
