"""The weights a detection run begins with, or evaluates."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.checkpoint import NotOurCheckpoint, load_checkpoint, newest_checkpoint
from engine.errors import UserError
from se_backbones.weights import WeightsError, detection_head_patterns, load_weights
from se_backbones.weights.published import published_weights

from detectron2.config import CfgNode
from detectron2.utils import comm

from .model import restore_weights

logger = logging.getLogger(__name__)

PRETRAINED = "pretrained"


def preprocessing(cfg: CfgNode) -> dict:
    """What the network's input is: channel order, the pixels' range, mean and standard deviation in that range."""
    return {
        "channel_order": cfg.INPUT.FORMAT,
        "scale": 255,
        "mean": list(cfg.MODEL.PIXEL_MEAN),
        "std": list(cfg.MODEL.PIXEL_STD),
    }


def load_initial_weights(model: nn.Module, cfg: CfgNode, run: Path) -> None:
    """Loads MODEL.WEIGHTS, a classifier's or a detector's, for a training to start from; ``pretrained`` stands for
    the published ImageNet weights of the architecture.

    The detector's heads may be missing from it, and a classifier may be left over; every other name must fit, or be
    allowed by MODEL.ALLOW. The account of all names is kept as ``weights_report.json``.

    Raises:
        UserError: the weights cannot be had, do not fit, or were trained with another preprocessing.
    """
    _load(model, cfg, run, (*detection_head_patterns(), *cfg.MODEL.ALLOW))


def find_trained_weights(cfg: CfgNode, run: Path) -> tuple[str, dict | None]:
    """What to evaluate: MODEL.WEIGHTS, else the run folder's final weights, else its newest checkpoint.

    Returns:
        its name, and its content where it is a detection checkpoint of ours, else None.

    Raises:
        UserError: there is nothing.
    """
    source = cfg.MODEL.WEIGHTS
    if source not in ("", PRETRAINED):  # ImageNet weights alone detect nothing
        return source, _our_checkpoint(source)
    final = Path(run) / "model_final.pth"
    path = final if final.exists() else newest_checkpoint(run)
    if path is None:
        raise UserError(f"nothing to evaluate: {run} holds no checkpoint. Give one: MODEL.WEIGHTS FILE")
    return str(path), load_checkpoint(path)


def load_trained_weights(model: nn.Module, source: str, checkpoint: dict | None, cfg: CfgNode, run: Path) -> None:
    """Loads what ``find_trained_weights`` found; every name must fit (MODEL.ALLOW excepted, for others' files).

    Raises:
        UserError: a name does not fit.
    """
    if checkpoint is None:
        _load(model, cfg, run, tuple(cfg.MODEL.ALLOW))
    else:
        restore_weights(model, checkpoint, source)
        logger.info("weights: %s, after step %d", source, checkpoint["iteration"])


def _our_checkpoint(source: str) -> dict | None:
    """The content where the source is a detection checkpoint of ours."""
    if "://" in source:
        return None
    if not Path(source).is_file():
        raise UserError(f"MODEL.WEIGHTS: there is no file {source}")
    try:
        checkpoint = load_checkpoint(Path(source))
    except NotOurCheckpoint:
        return None  # another layout: load_weights recognises it, or says what is wrong
    except UserError:
        if Path(source).suffix == ".pth":
            raise
        return None
    return checkpoint if checkpoint.get("task") == "detection" else None


def _load(model: nn.Module, cfg: CfgNode, run: Path, allow: tuple[str, ...]) -> None:
    try:
        source = cfg.MODEL.WEIGHTS
        if source == PRETRAINED:
            source = published_weights(cfg.MODEL.BACKBONE.ARCHITECTURE)
        report = load_weights(model, source, allow=allow, preprocessing=preprocessing(cfg))
    except WeightsError as error:
        raise UserError(f"MODEL.WEIGHTS: {error}") from error
    logger.info("%s", report.format())
    if comm.is_main_process():
        report.write(Path(run) / "weights_report.json")
