"""The command line of tools/convert_weights.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from se_backbones import create_backbone
from se_backbones.weights import read_state_dict

pytest.importorskip("safetensors")
TOOL = Path(__file__).parents[2] / "tools" / "convert_weights.py"


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_converts_and_says_what(call, tmp_path):
    torch.save(create_backbone("resnet18", 3).state_dict(), tmp_path / "in.pth")
    done = run(tmp_path / "in.pth", tmp_path / "out.pkl", "--to", "detectron2", "--arch", "resnet18")
    assert done.returncode == 0 and "resnet18 as detectron2, 122 tensors" in done.stdout, done.stderr
    assert read_state_dict(tmp_path / "out.pkl").layout == "detectron2"
    again = call("convert_weights", tmp_path / "in.pth", tmp_path / "out.pkl", "--to", "detectron2")
    assert again.returncode == 2 and again.stdout == ""
    assert again.stderr == f"error: {tmp_path / 'out.pkl'}: exists already; remove it or use --force\n"


def test_mistakes_are_one_line(call, tmp_path):
    done = call("convert_weights", tmp_path / "no.pth", tmp_path / "out.safetensors")
    assert done.returncode == 2 and "no such file" in done.stderr and "Traceback" not in done.stderr
    assert call("convert_weights", tmp_path / "no.pth", tmp_path / "out.pth", "--to", "caffe").returncode == 2
