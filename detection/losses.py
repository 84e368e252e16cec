"""The losses of a detector's training, taken without training: on images as an evaluation sees them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from detection.data import DetectionData, TrainingSet, to_learn_from
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import autocast, choose_precision, device_of
from engine.train.launch import raising_everywhere
from engine.train.loading import load_batches
from engine.train.sampling import derive_seed, shard
from se_backbones.backbone import detached_stages

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage


def losses_of(model: nn.Module, entry: dict, seed: int) -> dict[str, Tensor]:
    """The losses of one image, ``{loss name: scalar}``. Nothing is learned from it: normalisation uses the statistics
    that it has, nothing is dropped out, and the model is in eval mode again behind the call. The same weights, image
    and seed give the same numbers.

    Args:
        entry: as Detectron2's models take one to train on.
        seed: of the anchors and regions that the heads draw to learn from.
    """
    here = [device] if (device := device_of(model)).type == "cuda" else []
    # A storage of its own, for what the heads say of themselves; at a step at which they draw no pictures.
    with torch.random.fork_rng(here), EventStorage(1), _heads_in_training(model):
        torch.manual_seed(seed)
        return model([entry])


@contextmanager
def _heads_in_training(model: nn.Module) -> Iterator[None]:
    kept = [module for module in model.modules() if isinstance(module, _NormBase | _DropoutNd)]
    # RetinaNet divides by a running mean of the numbers of positive anchors, which it would go on with; an image's own
    # number stands for it, which is what the mean is of.
    running = hasattr(model, "_ema_update")
    model.train()
    for module in (model.backbone, *(stage for _, stage in detached_stages(model)), *kept):
        module.eval()
    if running:
        model._ema_update = lambda _name, value, *_, **__: value
    try:
        yield
    finally:
        if running:
            del model._ema_update
        model.eval()


def seen_as_evaluated(cfg: CfgNode) -> CfgNode:
    """The config whose training sees images as an evaluation does: in one size, whole and not mirrored."""
    cfg = cfg.clone()
    cfg.defrost()
    given = cfg.INPUT
    given.MIN_SIZE_TRAIN, given.MAX_SIZE_TRAIN = (given.MIN_SIZE_TEST,), given.MAX_SIZE_TEST
    given.MIN_SIZE_TRAIN_SAMPLING, given.RANDOM_FLIP, given.CROP.ENABLED = "choice", "none", False
    return cfg


def validation_losses(model: nn.Module, data: DetectionData, cfg: CfgNode) -> dict[str, float | None]:
    """The losses of a set: those of each image by itself, under a seed of its own, and their mean.

    Each process takes its share, every image once, so that the figures depend on weights and set alone.

    Args:
        model: in eval mode, which it keeps.

    Returns:
        ``total_loss`` and its parts, as a training logs them; None for one that is not finite. An empty dict in all
        processes but the first.

    Raises:
        UserError: as ``to_learn_from``; an image cannot be read.
    """
    cfg = seen_as_evaluated(cfg)
    records = to_learn_from(data, cfg)
    mine = shard(len(records), comm.get_rank(), comm.get_world_size())
    with _unsaid("detectron2.data.dataset_mapper"):  # which calls these the augmentations of the training
        dataset = TrainingSet(records, cfg)
    entries = load_batches(dataset, [[(0, index)] for index in mine], _first, cfg.DATALOADER.NUM_WORKERS)
    device, rows = device_of(model), []
    dtype = choose_precision(cfg.TEST.PRECISION, device)
    with raising_everywhere(device), torch.inference_mode(), autocast(device, dtype):
        for index, entry in zip(mine, entries, strict=True):
            rows.append(_numbers(model, entry, derive_seed(cfg.SEED, "validation", index)))
    gathered = [row for part in comm.gather(rows, dst=0) for row in part]
    names = dict.fromkeys(name for row in gathered for name in row)
    means = {name: math.fsum(row.get(name, math.nan) for row in gathered) / len(gathered) for name in names}
    totals = {"total_loss": math.fsum(means.values()), **means} if means else {}
    return {name: value if math.isfinite(value) else None for name, value in totals.items()}


@contextmanager
def _unsaid(name: str) -> Iterator[None]:
    """A block in which that logger says nothing."""
    log = logging.getLogger(name)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _numbers(model: nn.Module, entry: dict, seed: int) -> dict[str, float]:
    try:
        return {name: float(loss) for name, loss in losses_of(model, entry, seed).items()}
    except FloatingPointError:  # Detectron2 looks at its proposals before there is a loss
        return {}


def _first(items: list) -> dict:
    return items[0]
