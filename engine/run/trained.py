"""A trained model out of a run's checkpoint, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from engine.config.dialect import load_config as merge_config
from engine.device import choose_device
from engine.run.initial_weights import restore_weights
from engine.task import TaskInfo
from engine.train.checkpoint import load_checkpoint


def load_trained(
    weights: str | Path,
    config: str | Path | None,
    device: str,
    overrides: Sequence[str],
    load_config: Callable[[str | Path], CfgNode],
    config_from_checkpoint: Callable[[dict], CfgNode],
    build: Callable[[CfgNode, list[str]], nn.Module],
    task: TaskInfo,
) -> tuple[nn.Module, CfgNode, dict]:
    """A trained model, ready to predict.

    Args:
        weights: one of the task's own checkpoints.
        config: a config file in place of the checkpoint's own.
        device: see ``engine.device.choose_device``.
        overrides: ``KEY VALUE`` pairs on top.
        load_config, config_from_checkpoint: the task's.
        build: (config, class names) → the task's model with weights of any value, on MODEL.DEVICE.
        task: whose unmarked settings are compared where a config file is given.

    Returns:
        the model in eval mode, its config, and the checkpoint, whose "classes" are their names.

    Raises:
        UserError: the file is no checkpoint of the task, or its weights do not fit the config (see ``load_stated``).
    """
    checkpoint = load_checkpoint(Path(weights))
    cfg = config_from_checkpoint(checkpoint) if config is None else load_config(config)
    cfg = merge_config(cfg, None, [*overrides, "MODEL.DEVICE", str(choose_device(device)), "MODEL.WEIGHTS", ""])
    model = build(cfg, list(checkpoint["classes"]))
    restore_weights(model, checkpoint, weights, cfg, task)
    return model.eval(), cfg, checkpoint
