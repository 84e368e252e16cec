"""The weights a run begins with, or evaluates, whatever the task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.run.statements import (
    WORDS,
    is_ours,
    load_stated,
    preprocessing,
    setting_differences,
    steps_of,
    understand,
)
from engine.task import TaskInfo
from engine.train.checkpoint import load_checkpoint, newest_checkpoint
from se_backbones import find_spec, twin_name
from se_backbones.weights import LoadReport, WeightsError, WeightsFile, load_weights, read_state_dict
from se_backbones.weights.inserting import load_weights_inserting_se
from se_backbones.weights.sources.published import published_weights

from detectron2.utils import comm

logger = logging.getLogger(__name__)

PRETRAINED = "pretrained"


def load_initial_weights(
    model: nn.Module, cfg: CfgNode, run: Path, allow: Sequence[str], task: TaskInfo | None = None
) -> LoadReport:
    """Loads MODEL.WEIGHTS for a training to start from; ``pretrained`` stands for the published ImageNet weights of
    the architecture. With MODEL.SE.INSERT they are a plain network's, and SE is put into them so that the model
    computes what it would without (see ``se_backbones.insert_se``).

    Every name must fit, or be allowed by ``allow`` or by MODEL.ALLOW. The account of all names is logged, and kept as
    ``weights_report.json`` in the folder ``run``.

    Args:
        task: whose unmarked settings are compared; a training may change them, so that a difference is a warning.

    Raises:
        UserError: the weights cannot be had, do not fit, or were trained with another network (stride, pooling, SE) or
            another preprocessing; SE is to be inserted into weights that have it, or into none.
    """
    insert = cfg.MODEL.SE.INSERT
    if insert and not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.SE.INSERT puts SE into a trained network: give its weights, MODEL.WEIGHTS FILE")
    allow = (*allow, *cfg.MODEL.ALLOW)
    try:
        source = cfg.MODEL.WEIGHTS
        if source == PRETRAINED:
            source = published_for(cfg.MODEL.BACKBONE.ARCHITECTURE, insert)
        network = cfg.MODEL.WEIGHTS_NETWORK or None
        weights = read_state_dict(source, network)
        load = load_weights_inserting_se if insert else load_weights
        report = load(model, weights, allow, preprocessing=preprocessing(cfg), network=network)
    except WeightsError as error:
        raise UserError(f"MODEL.WEIGHTS: {error}") from error
    report.warnings += setting_differences(weights, cfg, task) if task is not None else []
    _keep(report, run)
    return report


def find_trained_weights(cfg: CfgNode, run: Path, asked_for: bool) -> WeightsFile:
    """What to evaluate: the run folder's final weights, else its newest checkpoint, else MODEL.WEIGHTS.

    Args:
        asked_for: MODEL.WEIGHTS comes first, if it names some. In a run's own config they are what it started from.

    Raises:
        UserError: there is nothing, or it cannot be read.
    """
    named = cfg.MODEL.WEIGHTS not in ("", PRETRAINED)  # ImageNet weights alone know nothing of the task
    if not (named and asked_for):
        final = Path(run) / "model_final.pth"
        path = final if final.exists() else newest_checkpoint(run)
        if path is not None:
            return understand(load_checkpoint(path), path)
    if not named:
        raise UserError(f"nothing to evaluate: {run} holds no checkpoint. Give one: MODEL.WEIGHTS FILE")
    try:
        return read_state_dict(cfg.MODEL.WEIGHTS, cfg.MODEL.WEIGHTS_NETWORK or None)
    except WeightsError as error:
        raise UserError(f"MODEL.WEIGHTS: {error}") from error


def load_trained_weights(model: nn.Module, weights: WeightsFile, cfg: CfgNode, task: TaskInfo, run: Path) -> None:
    """Loads what ``find_trained_weights`` found. Every name must fit; MODEL.ALLOW counts for the weights that
    MODEL.WEIGHTS names, and of a run's own checkpoint it excuses no name.

    The account of others' files is logged, and kept as ``weights_report.json`` in the folder ``run``.

    Raises:
        UserError: as ``load_stated``.
    """
    allow = allowed(weights, cfg)
    report = load_stated(model, weights, cfg, task, allow)
    if not is_ours(weights):
        _keep(report, run)
        return
    logger.info("weights: %s, after step %s", weights.source, steps_of(weights))
    for warning in report.warnings:
        logger.warning("%s", warning)


def allowed(weights: WeightsFile, cfg: CfgNode) -> list[str]:
    """What of MODEL.ALLOW counts for weights that are evaluated."""
    if weights.source != cfg.MODEL.WEIGHTS:
        return []
    return [word for word in cfg.MODEL.ALLOW if word in WORDS or not is_ours(weights)]


def restore_weights(model: nn.Module, checkpoint: dict, source: str | Path, cfg: CfgNode, task: TaskInfo) -> None:
    """Puts a checkpoint's weights, the averaged ones where there are any, into a model that the config describes.

    Raises:
        UserError: as ``load_stated``.
    """
    load_stated(model, understand(checkpoint, source), cfg, task)


def _keep(report: LoadReport, run: Path) -> None:
    logger.info("%s", report.format())
    if comm.is_main_process():
        report.write(Path(run) / "weights_report.json")


def published_for(architecture: str, insert: bool) -> str:
    """The named source of an architecture's published weights; with ``insert``, of the plain network behind it.

    Raises:
        WeightsError: none are published.
    """
    row = find_spec(architecture)
    plain = twin_name(row, se=False) if insert and row.se is not None else architecture
    if plain is None:
        raise WeightsError(
            f"no plain network is {architecture} without SE, so that none has published weights to insert SE into: "
            "give a file"
        )
    return published_weights(plain)
