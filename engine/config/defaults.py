"""The keys of a config that are the same whatever the task."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fvcore.common.config import CfgNode

from engine.config.rules import (
    COUNT,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    check_rules,
    every,
    number,
    one_of,
    or_none,
)
from engine.device import PRECISIONS
from engine.errors import UserError
from engine.images.by_pillow import MAX_PIXELS
from se_backbones import find_spec, list_backbones
from se_backbones.registry import skeleton

_LR_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "Plateau")  # what every release of Detectron2 has; and ours

# What the values of every task's keys must be, where no sentence of its own says it (see ``check_engine_settings``).
_RULES = {
    "MODEL.WEIGHTS_NETWORK": Rule(
        "empty, or a network of se_backbones.list_backbones()", lambda name: name in ("", *list_backbones())
    ),
    "MODEL.ALLOW": every(TEXT, what="names"),
    "MODEL.PIXEL_MEAN": every(number(-math.inf), 3, what="numbers, one for each channel"),
    "LOG_PERIOD": COUNT,
    "SEED": number(0, 2**63, below=True),
    "DATALOADER.NUM_WORKERS": number(0, 1024),
    "SOLVER.OPTIMIZER": one_of(("SGD", "AdamW")),
    "SOLVER.PRECISION": one_of(PRECISIONS),
    "SOLVER.KEEP_CHECKPOINTS": COUNT,
    "SOLVER.GAMMA": POSITIVE,
    "SOLVER.PLATEAU.THRESHOLD": NOT_NEGATIVE,
    "SOLVER.PLATEAU.PATIENCE": COUNT,
    "SOLVER.PLATEAU.DROPS": NATURAL,
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_METHOD": one_of(("linear", "constant")),
    "SOLVER.BIAS_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_BIAS": or_none(NOT_NEGATIVE),
    "SOLVER.BASE_LR_END": NOT_NEGATIVE,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of(("value", "norm", "full_model")),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Rule("above 0, or inf for the largest", lambda value: value > 0),
}
NORM_NAMES = ("BN", "SyncBN", "GN", "FrozenBN")


def add_engine_defaults(cfg: CfgNode) -> CfgNode:
    """Adds the training loop's keys to a config that has Detectron2's SOLVER keys, and returns it."""
    solver = cfg.SOLVER
    solver.OPTIMIZER = "SGD"  # or AdamW
    solver.PRECISION = "auto"  # auto, fp32, bf16 or fp16; see engine.device.choose_precision
    solver.ACCUMULATE = 1  # a step's batch is computed in this many parts
    solver.EMA = CfgNode({"ENABLED": False, "DECAY": 0.9998})
    # LR_SCHEDULER_NAME Plateau: GAMMA is applied where the main figure has not risen by more than THRESHOLD, in its own
    # units, above the best before for PATIENCE evaluations; after DROPS times the next plateau ends the training.
    solver.PLATEAU = CfgNode({"THRESHOLD": 0.0, "PATIENCE": 10, "DROPS": 3})
    solver.KEEP_CHECKPOINTS = 2  # the newest periodic ones; the final one is kept besides
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS  # width times height of an image; a larger one may be a trap for memory. 0: any
    cfg.LOG_PERIOD = 20  # steps between two lines on the console and in metrics.jsonl
    cfg.CHANNELS_LAST = True  # memory format: faster with tensor cores, and on CPUs
    cfg.COMPILE = False  # torch.compile of the backbone; needs a C++ compiler on a CPU
    return cfg


def check_engine_settings(cfg: CfgNode) -> None:
    """Refuses values of keys that every task has which would be ignored, or fail later in a place that says less.

    Raises:
        UserError: a number outside of its range, an unknown learning-rate schedule, COMPILE together with
            MODEL.BACKBONE.RECOMPUTE, or an empty OUTPUT_DIR.
    """
    solver, mean, std, workers = cfg.SOLVER, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.DATALOADER.NUM_WORKERS
    wrong = [
        (cfg.SEED < 0, f"SEED must be 0 or more (runs are always seeded); got {cfg.SEED}"),
        (workers < 0, f"DATALOADER.NUM_WORKERS must be 0, to load in the process itself, or more; got {workers}"),
        (cfg.INPUT.MAX_PIXELS < 0, f"INPUT.MAX_PIXELS must be 0, for any size, or more; got {cfg.INPUT.MAX_PIXELS}"),
        (solver.IMS_PER_BATCH < 1, f"SOLVER.IMS_PER_BATCH must be at least 1 image; got {solver.IMS_PER_BATCH}"),
        (
            solver.ACCUMULATE < 1,
            f"SOLVER.ACCUMULATE must be 1, for batches in one part, or more; got {solver.ACCUMULATE}",
        ),
        (cfg.TEST.IMS_PER_BATCH < 1, f"TEST.IMS_PER_BATCH must be at least 1 image; got {cfg.TEST.IMS_PER_BATCH}"),
        (
            solver.LR_SCHEDULER_NAME not in _LR_SCHEDULERS,
            f"SOLVER.LR_SCHEDULER_NAME must be {', '.join(_LR_SCHEDULERS[:-1])} or {_LR_SCHEDULERS[-1]}; got "
            f"{solver.LR_SCHEDULER_NAME!r}",
        ),
        (not 0 <= solver.BASE_LR < math.inf, f"SOLVER.BASE_LR must be 0 or more, and finite; got {solver.BASE_LR}"),
        (
            not 0 <= solver.MOMENTUM < 1 or (solver.NESTEROV and not solver.MOMENTUM),
            f"SOLVER.MOMENTUM must be in 0..1, below 1, and above 0 with SOLVER.NESTEROV; got {solver.MOMENTUM}",
        ),
        *(
            (not 0 <= solver[key] < math.inf, f"SOLVER.{key} must be 0 or more, and finite; got {solver[key]}")
            for key in ("WEIGHT_DECAY", "WEIGHT_DECAY_NORM")
        ),
        (not 0 <= solver.EMA.DECAY <= 1, f"SOLVER.EMA.DECAY is a share, 0..1; got {solver.EMA.DECAY}"),
        (len(mean) != 3, f"MODEL.PIXEL_MEAN wants three numbers, one for each channel; got {list(mean)}"),
        (
            len(std) != 3 or not all(value > 0 for value in std),
            f"MODEL.PIXEL_STD wants three numbers above 0, one for each channel; got {list(std)}",
        ),
        (
            cfg.COMPILE and cfg.MODEL.BACKBONE.RECOMPUTE,
            "COMPILE and MODEL.BACKBONE.RECOMPUTE do not go together: torch.compile cannot trace it",
        ),
        (not cfg.OUTPUT_DIR, "OUTPUT_DIR is empty: name the run's folder"),
    ]
    refuse(wrong)
    check_rules(cfg, _RULES)


def freeze_rule(cfg: CfgNode) -> Rule:
    """What MODEL.BACKBONE.FREEZE_AT must be: a number of the architecture's leading stages."""
    stages = len(skeleton(find_spec(cfg.MODEL.BACKBONE.ARCHITECTURE)).stages)
    return Rule(
        f"a number of {cfg.MODEL.BACKBONE.ARCHITECTURE}'s {stages} stages, 0..{stages}", lambda n: 0 <= n <= stages
    )


def refuse(wrong: Iterable[tuple[bool, str]]) -> None:
    """Raises UserError with the first message, of (whether it is wrong, message), whose setting is wrong."""
    for is_wrong, message in wrong:
        if is_wrong:
            raise UserError(message)
