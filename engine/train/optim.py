"""Optimizer, gradient clipping, averaged weights and BatchNorm's statistics, from the SOLVER part of a config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError

from detectron2.utils import comm

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


def share_buffers(model: nn.Module) -> None:
    """Gives all processes the first one's buffers, which are those that are saved: each has BatchNorm statistics of its
    own, of its own images. All must call it."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


class KeptStatistics:
    """From a step on, BatchNorm normalises by its running statistics, as in an evaluation, and leaves them as they are;
    scale and shift are trained on.

    SENet-154 was trained so: "the parameters of all BN layers were frozen for the last few training epochs to ensure
    consistency between training and testing" (arXiv 1709.01507, appendix); in Caffe, with which it was trained, the
    parameters of a BatchNorm layer are its statistics, and scale and shift those of another layer.

    Args:
        first: the first step, counted from 0, in which they are kept; from there on all processes have the same.
    """

    def __init__(self, model: nn.Module, first: int):
        self._model, self._first, self._shared = model, first, False
        self._norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def begin(self, step: int) -> None:
        """To be called by all processes at the beginning of each step, behind ``model.train()``."""
        if step < self._first:
            return
        if not self._shared:
            share_buffers(self._model)
            self._shared = True
        for norm in self._norms:
            norm.eval()
