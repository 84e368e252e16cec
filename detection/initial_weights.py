"""The weights a detector's training begins with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from detection.task_info import DETECTION
from engine.run import initial_weights
from engine.run.statements import check_classes
from se_backbones import find_network
from se_backbones import weights as any_weights
from se_backbones.weights import LoadReport, detection_head_patterns
from se_backbones.weights.inserting import load_weights_inserting_se

logger = logging.getLogger(__name__)


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
    patterns = _may_differ(model)
    report = initial_weights.load_initial_weights(model, cfg, run, patterns, DETECTION)
    if classes and any(".cls_score" in name for name in report.loaded):
        check_classes(report, classes, "the data", cfg.MODEL.ALLOW)


def load_weights(
    model: nn.Module,
    source: str | os.PathLike | Mapping[str, Tensor],
    allow: Sequence[str] = (),
    *,
    insert_se: bool | None = None,
    network: str | None = None,
    preprocessing: Mapping | None = None,
) -> LoadReport:
    """Weights of any kind into a detector that Detectron2 built on a backbone of ours, in anybody's project:
    ``load_weights(trainer.model, "pretrained")``.

    ``se_backbones.weights.load_weights`` with what a detector may lack and a classifier may have too much allowed, and
    with the input that the detector says it takes (``pixel_mean``, ``pixel_std``, ``input_format``) compared with what
    the weights want. The account of all names is logged.

    Args:
        model: the detector, wrapped (DistributedDataParallel) or not; or an ``SEBackbone``.
        source: ``pretrained``, the published ImageNet weights of the backbone's network; or as there: a file, also one
            that ``DetectionCheckpointer`` wrote, a named source, a dictionary of tensors.
        allow, network: as there.
        insert_se: the weights are a plain network's, or a whole plain detector's: SE is put into them so that the
            model computes what they computed (``se_backbones.insert_se``). None: as MODEL.SE.INSERT says, or the
            ``insert_se`` of the ``SEBackbone``.
        preprocessing: what the network is fed, where the model does not say: ``channel_order, scale, mean, std``.

    Raises:
        WeightsError: none are published, they cannot be had, or they do not fit. The model is then as it was.
    """
    if insert_se is None:
        insert_se = any(getattr(module, "insert_se", False) for module in model.modules())
    if source == initial_weights.PRETRAINED:
        source = initial_weights.published_for(find_network(model).spec.name, insert_se)
    load = load_weights_inserting_se if insert_se else any_weights.load_weights
    allow = (*_may_differ(model), *allow)
    report = load(model, source, allow, network=network, preprocessing=preprocessing or _input_of(model))
    logger.log(logging.WARNING if report.warnings else logging.INFO, "%s", report.format())
    return report


def _may_differ(model: nn.Module) -> tuple[str, ...]:
    return detection_head_patterns(find_network(model).head_paths)


def _input_of(model: nn.Module) -> dict | None:
    """What a detector of Detectron2 says of its input; None where it says nothing."""
    for module in model.modules():
        if getattr(module, "input_format", None) and hasattr(module, "pixel_mean"):
            mean, std = (tensor.flatten().tolist() for tensor in (module.pixel_mean, module.pixel_std))
            return {"channel_order": module.input_format, "scale": 255, "mean": mean, "std": std}
    return None
