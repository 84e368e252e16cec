"""Optimizer, gradient clipping and averaged weights, from the SOLVER part of a config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from engine.errors import UserError

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(
    model: nn.Module, solver: CfgNode, lr_factors: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that are not frozen.

    ``WEIGHT_DECAY_NORM`` holds for normalisation layers; ``BIAS_LR_FACTOR`` and ``WEIGHT_DECAY_BIAS`` for biases.

    Args:
        lr_factors: by what the learning rate is multiplied for the parameters of a module, by the module's name.

    Raises:
        UserError: an unknown ``SOLVER.OPTIMIZER``, or nothing to train.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        factor = lr_factors.get(module_name, 1.0)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr, decay = solver.BASE_LR * factor, solver.WEIGHT_DECAY
            if name == "bias":
                lr *= solver.BIAS_LR_FACTOR
                decay = decay if solver.WEIGHT_DECAY_BIAS is None else solver.WEIGHT_DECAY_BIAS
            if isinstance(module, _NORMS):
                decay = solver.WEIGHT_DECAY_NORM
            groups.setdefault((lr, decay), []).append(parameter)
    if not groups:
        raise UserError("every parameter is frozen: there is nothing to train (see MODEL.BACKBONE.FREEZE_AT)")
    parameters = [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(
            parameters, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, foreach=True
        )
    if solver.OPTIMIZER == "AdamW":
        return torch.optim.AdamW(parameters, lr=solver.BASE_LR, foreach=True)
    raise UserError(f"SOLVER.OPTIMIZER must be SGD or AdamW; got {solver.OPTIMIZER!r}")


def clip_gradients(parameters: Iterable[nn.Parameter], clip: CfgNode) -> None:
    """Clips in place, by SOLVER.CLIP_GRADIENTS.

    ``CLIP_TYPE`` is Detectron2's ``value`` (each element) or ``norm`` (each tensor by itself), or ``full_model``
    (the norm over all tensors together).
    """
    parameters = [p for p in parameters if p.grad is not None]
    if clip.CLIP_TYPE == "value":
        nn.utils.clip_grad_value_(parameters, clip.CLIP_VALUE)
    elif clip.CLIP_TYPE == "norm":
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
    elif clip.CLIP_TYPE == "full_model":
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)
    else:
        raise UserError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be value, norm or full_model; got {clip.CLIP_TYPE!r}")


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights; statistics of normalisation layers are taken as they are.

    The decay after n steps is ``min(decay, (1 + n) / (10 + n))``, as in TensorFlow's ExponentialMovingAverage: a
    constant one would keep most of the first weights through a short run.
    """

    def average(averaged: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
        now = min(decay, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(averaged, current, 1 - now)

    return AveragedModel(model, multi_avg_fn=average).requires_grad_(False)
