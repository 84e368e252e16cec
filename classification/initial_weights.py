"""The weights a classifier's training begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from engine.errors import UserError
from engine.run import initial_weights
from engine.run.folder import class_difference
from engine.run.statements import CLASSES
from se_backbones import Backbone
from se_backbones.weights import DETECTOR_PARTS


def load_initial_weights(network: Backbone, cfg: CfgNode, run: Path, classes: Sequence[str]) -> None:
    """Loads MODEL.WEIGHTS, a classifier's or a detector's, for a training to start from.

    With MODEL.HEAD new, the classifier in it is left aside, and the network's own stays as it was initialised; with
    keep, it must be there and fit. Every other name must fit, or be allowed by MODEL.ALLOW.

    Args:
        classes: of the data.

    Raises:
        UserError: the weights cannot be had, do not fit, were trained with another preprocessing, or, where the head
            is kept, for other classes.
    """
    if cfg.MODEL.HEAD == "keep":
        report = initial_weights.load_initial_weights(network, cfg, run, allow=())
        difference = class_difference(report.classes, classes) if report.classes else ""
        if difference and CLASSES not in cfg.MODEL.ALLOW:
            raise UserError(
                f"MODEL.HEAD is keep, but MODEL.WEIGHTS was trained for other classes than the data has "
                f"(first: the weights, second: the data):\n  {difference}\nUse MODEL.HEAD new for a new classifier, "
                "or put 'classes' into MODEL.ALLOW if the classes are the same under other names"
            )
        return
    head = network.head
    network.set_head(None)  # so that a classifier in the file, whatever its size, has no place to go to
    try:
        initial_weights.load_initial_weights(
            network, cfg, run, allow=[f"unexpected:{part}" for part in (f"{network.head_path}.*", *DETECTOR_PARTS)]
        )
    finally:
        network.set_head(head)
