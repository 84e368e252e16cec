"""The weights a detector's training begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from detection.task_info import DETECTION
from engine.run import initial_weights
from engine.run.statements import check_classes
from se_backbones import find_network
from se_backbones.weights import detection_head_patterns


def load_initial_weights(model: nn.Module, cfg: CfgNode, run: Path, classes: Sequence[str] = ()) -> None:
    """Loads MODEL.WEIGHTS, a classifier's or a detector's, for a training to start from.

    As ``engine.run.initial_weights.load_initial_weights``; the detector's heads may be missing from a backbone's or a
    classifier's file, and a classifier may be left over.

    Args:
        classes: of the data.

    Raises:
        UserError: a whole detector's file knows its classes, and they are others, or the same in another order: each
            class would start with the weights of another.
    """
    patterns = detection_head_patterns(find_network(model).head_paths)
    report = initial_weights.load_initial_weights(model, cfg, run, patterns, DETECTION)
    if classes and any(".cls_score" in name for name in report.loaded):
        check_classes(report, classes, "the data", cfg.MODEL.ALLOW)
