"""The page on other people's Detectron2 projects, and what their tests share."""

import re
import types
from pathlib import Path

import torch

from engine import compat  # noqa: F401  (before detectron2)
from se_backbones import create_backbone
from se_backbones.weights import IMAGENET_RGB
from se_backbones.weights.formats.own_format import CHECKPOINT_FORMAT

from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "in_your_detectron2_project.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(yaml|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONFIG, TRAIN, PREDICT, LAZY_BACKBONE, LAZY_CONFIG = (text for _, text in BLOCKS)


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def block(text):
    """A block of the page as a module."""
    module = types.ModuleType("page")
    exec(compile(text, "page.py", "exec", dont_inherit=True), vars(module))
    return module


def forget(*names):
    for name in names:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def save_stated(path):
    """Weights of se_resnet18 that say which images they want."""
    said = {"format": CHECKPOINT_FORMAT, "backbone": "se_resnet18", "preprocessing": IMAGENET_RGB.as_dict()}
    torch.save({**said, "model": create_backbone("se_resnet18").state_dict()}, path)
