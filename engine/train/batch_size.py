"""SOLVER.IMS_PER_BATCH auto: a batch that fills the GPUs, found by trial, and what follows from its size."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.automatic import reference_batch
from engine.device import autocast, choose_precision, device_of
from engine.errors import UserError
from engine.train.launch import raising_everywhere
from engine.train.optim import build_ema, build_optimizer

from detectron2.utils import comm

logger = logging.getLogger(__name__)

_SHARE = 0.9  # of a GPU's memory; the rest is for gradients on their way between processes, and for fragments
_IN_STEPS = ("MAX_ITER", "WARMUP_ITERS", "STEPS", "CHECKPOINT_PERIOD")  # of SOLVER; the tasks have some of them each


def with_batch_size(
    cfg: CfgNode,
    device: torch.device,
    images: int,
    then: CfgNode | None,
    attempt: Callable[[CfgNode], Callable[[int], None]],
) -> CfgNode:
    """The config with a number for SOLVER.IMS_PER_BATCH; as it is, where it has one. All processes must call it.

    In place of a batch of n images, for which the config is made, there is one of k n. As Detectron2's
    ``auto_scale_workers`` does: BASE_LR is multiplied by k (Goyal et al. 2017, arXiv 1706.02677), and what is counted
    in steps is divided by it, so that as many images are seen.

    Args:
        device: this process's own.
        images: of the training set; a batch has no more.
        then: the config of the run that is gone on with, whose batch it keeps; None for a new run.
        attempt: (config with some number) → a step of a training, thrown away, on so many images of the largest shape.

    Raises:
        UserError: on a CPU; not one image fits.
    """
    if isinstance(cfg.SOLVER.IMS_PER_BATCH, int):
        return cfg
    if then is not None:
        return _scaled(cfg, then.SOLVER.IMS_PER_BATCH, "as this run has it")
    if device.type != "cuda":
        raise UserError(
            "SOLVER.IMS_PER_BATCH auto fills the memory of GPUs, and this run is on a CPU: give a number, such as "
            f"SOLVER.IMS_PER_BATCH {reference_batch(cfg.SOLVER.IMS_PER_BATCH)}, for which SOLVER.BASE_LR is"
        )
    world, parts = comm.get_world_size(), cfg.SOLVER.ACCUMULATE
    at_once = 0
    with raising_everywhere(device):
        trial = with_number(cfg, world * parts)
        torch.cuda.set_per_process_memory_fraction(_SHARE, device)
        try:
            with torch.random.fork_rng([device]):
                at_once = largest_batch(lambda: attempt(trial), max(images // (world * parts), 1))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    at_once = min(comm.all_gather(at_once))
    shared = f", {at_once} at a time" if parts > 1 else ""
    return _scaled(cfg, at_once * world * parts, f"what {world} x {torch.cuda.get_device_name(device)} hold{shared}")


def largest_batch(prepare: Callable[[], Callable[[int], None]], most: int) -> int:
    """The largest of 1, 2, 4, … images, up to ``most``, with which a step does not run out of a GPU's memory.

    Args:
        prepare: gives the step, (number of images) → None; what it holds is let go before this returns.

    Raises:
        UserError: not one image fits.
    """
    fits, step = 0, None
    try:
        step = prepare()
        while max(2 * fits, 1) <= most:
            step(max(2 * fits, 1))
            fits = max(2 * fits, 1)
    except torch.cuda.OutOfMemoryError:
        pass
    finally:
        step = None
        gc.collect()  # a step that failed leaves its graph in a circle of frames
        torch.cuda.empty_cache()
    if not fits:
        raise UserError(
            "SOLVER.IMS_PER_BATCH auto: a step on one image does not fit into the GPU's memory. Smaller images, "
            "MODEL.BACKBONE.RECOMPUTE True or SOLVER.PRECISION bf16 need less"
        )
    return fits


def training_step(
    model: nn.Module, cfg: CfgNode, losses: Callable[[nn.Module, Any], dict[str, Tensor]], batch: Callable[[int], Any]
) -> Callable[[int], None]:
    """A step as the training loop makes it, on a model that is thrown away: (number of images) → None.

    Args:
        losses: (model, batch) → {name: scalar}; batch: number of images → a batch of the largest shape.
    """
    for module in model.train().modules():
        if isinstance(module, nn.SyncBatchNorm):  # would wait for processes that have run out of memory
            module.__class__ = _OfOneProcess
    optimizer, device = build_optimizer(model, cfg.SOLVER), device_of(model)
    precision = choose_precision(cfg.SOLVER.PRECISION, device)
    average = build_ema(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None

    def step(images: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            found = losses(model, batch(images))
        sum(found.values()).backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(model)

    return step


class _OfOneProcess(nn.modules.batchnorm._BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:
        """Maps of any dimensions, as SyncBatchNorm takes them."""


def with_number(cfg: CfgNode, images: int) -> CfgNode:
    """The config with so many images in a batch, and nothing else changed."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = images
    cfg.freeze()
    return cfg


def _scaled(cfg: CfgNode, batch: int, why: str) -> CfgNode:
    reference = reference_batch(cfg.SOLVER.IMS_PER_BATCH)
    factor, lr = batch / reference, cfg.SOLVER.BASE_LR
    cfg = with_number(cfg, batch)
    cfg.defrost()
    solver = cfg.SOLVER
    solver.BASE_LR = lr * factor

    def steps(count: int) -> int:
        return max(round(count / factor), 1) if count else 0

    for key in _IN_STEPS:
        if key in solver:
            solver[key] = tuple(map(steps, solver[key])) if key == "STEPS" else steps(solver[key])
    if "EVAL_PERIOD" in cfg.TEST:
        cfg.TEST.EVAL_PERIOD = steps(cfg.TEST.EVAL_PERIOD)
    cfg.freeze()
    logger.info(
        "SOLVER.IMS_PER_BATCH auto: %d images, %s; SOLVER.BASE_LR %.4g, of a batch of %d, becomes %.4g, and what is "
        "counted in steps is divided by %.4g",
        batch, why, lr, reference, solver.BASE_LR, factor,
    )  # fmt: skip
    return cfg
