"""The weights a run begins with, or evaluates, whatever the task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.checkpoint import NotOurCheckpoint, load_checkpoint, newest_checkpoint
from se_backbones import find_spec, twin_name
from se_backbones.weights import LoadReport, WeightsError, load_weights
from se_backbones.weights.inserting import load_weights_inserting_se
from se_backbones.weights.sources.published import published_weights

from detectron2.utils import comm

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


def load_initial_weights(model: nn.Module, cfg: CfgNode, run: Path, allow: Sequence[str]) -> LoadReport:
    """Loads MODEL.WEIGHTS for a training to start from; ``pretrained`` stands for the published ImageNet weights of
    the architecture. With MODEL.SE.INSERT they are a plain network's, and SE is put into them so that the model
    computes what it would without (see ``se_backbones.insert_se``).

    Every name must fit, or be allowed by ``allow`` or by MODEL.ALLOW. The account of all names is logged, and kept as
    ``weights_report.json`` in the run folder.

    Raises:
        UserError: the weights cannot be had, do not fit, or were trained with another preprocessing; SE is to be
            inserted into weights that have it, or into none.
    """
    insert = cfg.MODEL.SE.INSERT
    if insert and not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.SE.INSERT puts SE into a trained network: give its weights, MODEL.WEIGHTS FILE")
    return _load(model, cfg, run, allow, insert)


def find_trained_weights(cfg: CfgNode, run: Path, task: str, asked_for: bool) -> tuple[str, dict | None]:
    """What to evaluate: the run folder's final weights, else its newest checkpoint, else MODEL.WEIGHTS.

    Args:
        asked_for: MODEL.WEIGHTS comes first, if it names some. In a run's own config they are what it started from.

    Returns:
        its name, and its content where it is a checkpoint of ours for this task, else None.

    Raises:
        UserError: there is nothing.
    """
    named = cfg.MODEL.WEIGHTS not in ("", PRETRAINED)  # ImageNet weights alone know nothing of the task
    if not (named and asked_for):
        final = Path(run) / "model_final.pth"
        path = final if final.exists() else newest_checkpoint(run)
        if path is not None:
            return str(path), load_checkpoint(path)
    if not named:
        raise UserError(f"nothing to evaluate: {run} holds no checkpoint. Give one: MODEL.WEIGHTS FILE")
    return cfg.MODEL.WEIGHTS, _our_checkpoint(cfg.MODEL.WEIGHTS, task)


def load_trained_weights(model: nn.Module, source: str, checkpoint: dict | None, cfg: CfgNode, run: Path) -> None:
    """Loads what ``find_trained_weights`` found; every name must fit (MODEL.ALLOW excepted, for others' files).

    Raises:
        UserError: a name does not fit.
    """
    if checkpoint is None:
        _load(model, cfg, run, allow=(), insert=False)
    else:
        restore_weights(model, checkpoint, source)
        logger.info("weights: %s, after step %d", source, checkpoint["iteration"])


def restore_weights(model: nn.Module, checkpoint: dict, source: str | Path) -> None:
    """Puts a checkpoint's weights, the averaged ones where there are any, into the model they were saved from.

    Raises:
        UserError: a name is missing, unexpected or of another shape. The model is then untouched.
    """
    state = checkpoint["model"]
    if checkpoint.get("ema"):
        state = {k.removeprefix("module."): v for k, v in checkpoint["ema"].items() if k.startswith("module.")}
    try:
        load_weights(model, state)
    except WeightsError as error:
        raise UserError(f"{source} does not fit the config: {error}") from error


def _our_checkpoint(source: str, task: str) -> dict | None:
    """The content where the source is a checkpoint of ours for this task."""
    if "://" in source or "#" in source:  # a named source, or a part of a file: load_weights' business
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
    return checkpoint if checkpoint.get("task") == task else None


def _load(model: nn.Module, cfg: CfgNode, run: Path, allow: Sequence[str], insert: bool) -> LoadReport:
    try:
        source = cfg.MODEL.WEIGHTS
        if source == PRETRAINED:
            source = _published(cfg.MODEL.BACKBONE.ARCHITECTURE, insert)
        load = load_weights_inserting_se if insert else load_weights
        allow = (*allow, *cfg.MODEL.ALLOW)
        network = cfg.MODEL.WEIGHTS_NETWORK or None
        report = load(model, source, allow, preprocessing=preprocessing(cfg), network=network)
    except WeightsError as error:
        raise UserError(f"MODEL.WEIGHTS: {error}") from error
    logger.info("%s", report.format())
    if comm.is_main_process():
        report.write(Path(run) / "weights_report.json")
    return report


def _published(architecture: str, insert: bool) -> str:
    """The published weights of an architecture; with ``insert``, of the plain network behind it."""
    row = find_spec(architecture)
    plain = twin_name(row, se=False) if insert and row.se is not None else architecture
    if plain is None:
        raise WeightsError(
            f"no plain network is {architecture} without SE, so that none has published weights to insert SE into: "
            "give a file"
        )
    return published_weights(plain)
