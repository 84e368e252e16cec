"""A training step's losses: all of them finite, or an error that says where they are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.device import autocast
from engine.errors import UserError
from engine.train.launch import any_process
from engine.train.loop_task import Task

from detectron2.utils import comm


class NonFiniteLoss(UserError):
    """A loss became infinite or not a number."""


def finite_losses(
    model: nn.Module, task: Task, part: Any, step: int, device: torch.device, precision: torch.dtype
) -> dict[str, Tensor]:
    """A forward pass of a batch, or of a part of one. All processes must call it.

    Args:
        model: the one to call, wrapped for several processes.
        step: its number, from 1, for the message.

    Raises:
        NonFiniteLoss: in all processes, where any of them has a loss that is not finite.
    """
    losses, trouble = {}, ""
    try:
        with autocast(device, precision):
            losses = task.losses(model, part)
        if not torch.stack([loss.detach().float() for loss in losses.values()]).isfinite().all():
            trouble = ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items())
    except FloatingPointError as error:  # Detectron2 looks at its proposals before there is a loss
        trouble = str(error)
    if not any_process(bool(trouble), device):
        return losses
    found = comm.all_gather(f"({trouble}) on images {task.name_images(part)}" if trouble else "")
    raise NonFiniteLoss(
        f"step {step}: the loss is not finite {'; '.join(filter(None, found))}. "
        f"Nothing of this step was applied. Try a lower SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS.ENABLED True or "
        f"{task.advice}, and go on from the last checkpoint with --resume"
    )


def to_floats(losses: dict[str, Tensor]) -> dict[str, float]:
    """The losses as numbers, averaged over the processes (in the first one)."""
    reduced = comm.reduce_dict({name: loss.detach().float() for name, loss in losses.items()})
    values = torch.stack(list(reduced.values())).tolist()  # one wait for the GPU, not one a loss
    return dict(zip(reduced, values, strict=True))
