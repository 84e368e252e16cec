"""Gradient checkpointing that leaves BatchNorm's running statistics as they would have been."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(unit: nn.Module, x: Tensor) -> Tensor:
    """``unit(x)``, whose inner maps are computed again in the backward pass instead of kept.

    The second computation must not count for BatchNorm: it would move the running statistics twice a step.
    """
    return checkpoint(unit, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(unit)))


@contextmanager
def _statistics_kept(unit: nn.Module):
    norms = [m for m in unit.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    saved = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
