"""The weights a detector's training begins with."""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from engine.run import initial_weights
from se_backbones import find_network
from se_backbones.weights import detection_head_patterns


def load_initial_weights(model: nn.Module, cfg: CfgNode, run: Path) -> None:
    """Loads MODEL.WEIGHTS, a classifier's or a detector's, for a training to start from.

    As ``engine.run.initial_weights.load_initial_weights``; the detector's heads may be missing from a backbone's or a
    classifier's file, and a classifier may be left over.
    """
    patterns = detection_head_patterns(find_network(model).head_paths)
    initial_weights.load_initial_weights(model, cfg, run, patterns)
