"""The keys of a config that are the same whatever the task."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from .errors import UserError


def add_engine_defaults(cfg: CfgNode) -> CfgNode:
    """Adds the training loop's keys to a config that has Detectron2's SOLVER keys, and returns it."""
    solver = cfg.SOLVER
    solver.OPTIMIZER = "SGD"  # or AdamW
    solver.PRECISION = "auto"  # auto, fp32, bf16 or fp16; see engine.device.choose_precision
    solver.ACCUMULATE = 1  # a step's batch is computed in this many parts
    solver.EMA = CfgNode({"ENABLED": False, "DECAY": 0.9998})
    solver.KEEP_CHECKPOINTS = 2  # the newest periodic ones; the final one is kept besides
    cfg.LOG_PERIOD = 20  # steps between two lines on the console and in metrics.jsonl
    cfg.CHANNELS_LAST = True  # memory format: faster with tensor cores, and on CPUs
    cfg.COMPILE = False  # torch.compile of the backbone; needs a C++ compiler on a CPU
    return cfg


def check_engine_settings(cfg: CfgNode) -> None:
    """Refuses values of keys that every task has which would be ignored, or fail later in a place that says less.

    Raises:
        UserError: a negative SEED, COMPILE together with MODEL.BACKBONE.RECOMPUTE, or an empty OUTPUT_DIR.
    """
    if cfg.SEED < 0:
        raise UserError(f"SEED must be 0 or more (runs are always seeded); got {cfg.SEED}")
    if cfg.COMPILE and cfg.MODEL.BACKBONE.RECOMPUTE:
        raise UserError("COMPILE and MODEL.BACKBONE.RECOMPUTE do not go together: torch.compile cannot trace it")
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR is empty: name the run's folder")
