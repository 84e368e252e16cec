"""SOLVER.CLASS_WEIGHTS in a detector: what each class counts where the regions' classes are told."""

from __future__ import annotations

import types
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError

from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances


def weigh_classes(model: nn.Module, weights: Tensor) -> None:
    """Has each of a detector's box predictors, of which a cascade has several, weigh its ``loss_cls``: the mean over
    the regions of their cross-entropy times the weight of their class, and 1 for those without an object.

    The mean is not divided by the weights, so that a batch is worth what its regions are, whichever they are.

    Args:
        weights: (K,) as of ``class_weights``.

    Raises:
        UserError: the detector has no box predictor with a cross-entropy (RetinaNet).
    """
    predictors = [module for module in model.modules() if isinstance(module, FastRCNNOutputLayers)]
    if not predictors or any(getattr(one, "use_sigmoid_ce", False) for one in predictors):
        raise UserError(
            "SOLVER.CLASS_WEIGHTS are for the cross-entropy of regions' classes, as Faster, Mask and Cascade R-CNN "
            "have it, and this detector has a loss of another kind: leave the key empty. DATALOADER.REPEAT_THRESHOLD, "
            "which shows images of rare classes more often, works with every detector"
        )
    for one in predictors:
        one.register_buffer("class_weights", torch.cat((weights, weights.new_ones(1))), persistent=False)
        one.class_weights = one.class_weights.to(next(one.parameters()).device)
        one.losses = types.MethodType(_losses, one)


def _losses(
    predictor: FastRCNNOutputLayers, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
) -> dict[str, Tensor]:
    """As Detectron2's ``losses``, with ``loss_cls`` weighed."""
    losses = type(predictor).losses(predictor, predictions, proposals)
    scores = predictions[0]
    if scores.numel():
        classes = torch.cat([regions.gt_classes for regions in proposals])
        total = F.cross_entropy(scores, classes, predictor.class_weights.to(scores.dtype), reduction="sum")
        losses["loss_cls"] = total / len(classes) * predictor.loss_weight.get("loss_cls", 1.0)
    return losses
