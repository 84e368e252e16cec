"""Detectors out of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from detection.config import config_from_checkpoint, load_config
from detection.model import build_detector, with_classes
from detection.task_info import DETECTION
from engine import compat  # noqa: F401  (before detectron2)
from engine.run.trained import load_trained

from detectron2.config import CfgNode


def load_detector(
    weights: str | Path, config: str | Path | None = None, device: str = "auto", overrides: Sequence[str] = ()
) -> tuple[nn.Module, CfgNode, list[str], list[int]]:
    """A trained detector, ready to predict.

    Args:
        weights: one of our detection checkpoints.
        config, device, overrides: as ``engine.run.trained.load_trained``.

    Returns:
        the model in eval mode, its config, the class names, and the data set's category id of each class.

    Raises:
        UserError: the file is no detection checkpoint, or its weights do not fit the config.
    """

    def build(cfg: CfgNode, classes: list[str]) -> nn.Module:
        return build_detector(with_classes(cfg, len(classes), str(weights)))

    model, cfg, checkpoint = load_trained(
        weights, config, device, overrides, load_config, config_from_checkpoint, build, DETECTION
    )
    return model, cfg, list(checkpoint["classes"]), list(checkpoint["category_ids"])
