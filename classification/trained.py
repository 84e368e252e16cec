"""Classifiers out of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from classification.config import config_from_checkpoint, load_config
from classification.model import ImageClassifier, build_network
from classification.task import CLASS_FOLDERS
from engine import compat  # noqa: F401  (before detectron2)
from engine.names import class_name
from engine.run.trained import load_trained

from detectron2.config import CfgNode


def load_classifier(
    weights: str | Path, config: str | Path | None = None, device: str = "auto", overrides: Sequence[str] = ()
) -> tuple[ImageClassifier, CfgNode, list[str]]:
    """A trained classifier, ready to predict.

    Args:
        weights: one of our classification checkpoints.
        config, device, overrides: as ``engine.run.trained.load_trained``.

    Returns:
        the classifier in eval mode, its config, and the class names.

    Raises:
        UserError: the file is no classification checkpoint, or its weights do not fit the config.
    """

    def build(cfg: CfgNode, classes: list[str]) -> nn.Module:
        return build_network(cfg, len(classes))

    network, cfg, checkpoint = load_trained(
        weights, config, device, overrides, load_config, config_from_checkpoint, build, CLASS_FOLDERS.info
    )
    return ImageClassifier(network, cfg).eval(), cfg, list(map(class_name, checkpoint["classes"]))
