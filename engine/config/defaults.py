"""The keys of a config that are the same whatever the task."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fvcore.common.config import CfgNode

from engine.config.automatic import is_automatic
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
LOGGERS = ("tensorboard", "wandb", "mlflow")

# What the values of every task's keys must be.
_RULES = {
    "MODEL.WEIGHTS_NETWORK": Rule(
        "empty, or a network of se_backbones.list_backbones()", lambda name: name in ("", *list_backbones())
    ),
    "MODEL.ALLOW": every(TEXT, what="names"),
    "MODEL.PIXEL_MEAN": every(number(-math.inf), 3, what="numbers, one for each channel"),
    "MODEL.PIXEL_STD": every(POSITIVE, 3, what="numbers, one for each channel"),
    "LOG_PERIOD": COUNT,
    "LOGGERS": every(one_of(LOGGERS), what="loggers"),
    "SEED": Rule("0 or more, and below 2**63 (runs are always seeded)", lambda seed: 0 <= seed < 2**63),
    "OUTPUT_DIR": Rule("the name of the run's folder", bool),
    "INPUT.MAX_PIXELS": Rule("0, for any size, or more", lambda pixels: pixels >= 0),
    "DATALOADER.NUM_WORKERS": Rule("0, to load in the process itself, or up to 1024", lambda n: 0 <= n <= 1024),
    "TEST.IMS_PER_BATCH": COUNT,
    "TEST.PRECISION": one_of(PRECISIONS),
    "SOLVER.IMS_PER_BATCH": Rule("1 or more, or auto", lambda images: is_automatic(images) or images >= 1),
    "SOLVER.ACCUMULATE": Rule("1, for batches in one part, or more", lambda parts: parts >= 1),
    "SOLVER.OPTIMIZER": one_of(("SGD", "AdamW")),
    "SOLVER.LR_SCHEDULER_NAME": one_of(_LR_SCHEDULERS),
    "SOLVER.BASE_LR": NOT_NEGATIVE,
    "SOLVER.MOMENTUM": number(0, 1, below=True),
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": NOT_NEGATIVE,
    "SOLVER.EMA.DECAY": SHARE,
    "SOLVER.PRECISION": one_of(PRECISIONS),
    "SOLVER.KEEP_CHECKPOINTS": COUNT,
    "SOLVER.GAMMA": POSITIVE,
    "SOLVER.PLATEAU.THRESHOLD": NOT_NEGATIVE,
    "SOLVER.PLATEAU.PATIENCE": COUNT,
    "SOLVER.PLATEAU.DROPS": NATURAL,
    "SOLVER.PATIENCE": NATURAL,
    "SOLVER.TIME_LIMIT": NOT_NEGATIVE,
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
    solver.PATIENCE = 0  # the training ends where the main figure was not above its best in so many evaluations; 0: no
    solver.TIME_LIMIT = 0.0  # minutes, of each start of a run, with its last checkpoint and evaluation; 0: any time
    solver.KEEP_CHECKPOINTS = 2  # the newest periodic ones; the final and the best ones are kept besides
    cfg.TEST.FUSE = False  # evaluate the network fused, see se_backbones.fuse: faster, equal up to rounding
    cfg.TEST.PRECISION = "fp32"  # of an evaluation: auto, fp32, bf16 or fp16
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS  # width times height of an image; a larger one may be a trap for memory. 0: any
    cfg.LOG_PERIOD = 20  # steps between two lines on the console and in metrics.jsonl
    cfg.LOGGERS = ["tensorboard"]  # besides those: tensorboard, wandb (Weights & Biases), mlflow
    cfg.CHANNELS_LAST = True  # memory format: faster with tensor cores, and on CPUs
    cfg.COMPILE = False  # torch.compile of the backbone; needs a C++ compiler on a CPU
    return cfg


def check_engine_settings(cfg: CfgNode) -> None:
    """Refuses values of keys that every task has which would be ignored, or fail later in a place that says less.

    Raises:
        UserError: a value that its rule does not let pass, Nesterov's momentum without any, or COMPILE together with
            MODEL.BACKBONE.RECOMPUTE.
    """
    check_rules(cfg, _RULES)
    refuse(
        [
            (
                cfg.SOLVER.NESTEROV and not cfg.SOLVER.MOMENTUM,
                "SOLVER.MOMENTUM must be above 0 with SOLVER.NESTEROV; got 0.0",
            ),
            (
                cfg.COMPILE and cfg.MODEL.BACKBONE.RECOMPUTE,
                "COMPILE and MODEL.BACKBONE.RECOMPUTE do not go together: torch.compile cannot trace it",
            ),
        ]
    )


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
