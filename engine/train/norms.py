"""BatchNorm's statistics over a training: one set for all processes, and kept as they are towards its end."""

from __future__ import annotations

import torch
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)

from detectron2.utils import comm


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
