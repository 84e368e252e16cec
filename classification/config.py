"""The classification config: every key with its default, and the checks between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from classification.images.crops import TRAIN_CROPS
from classification.images.transforms import TEST_CROPS
from engine import compat
from engine.config import dialect as engine_config
from engine.config.defaults import NORM_NAMES, add_engine_defaults, check_engine_settings, freeze_rule, refuse
from engine.config.rules import (
    CLASS_WEIGHTS,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Rule,
    check_rules,
    every,
    number,
    one_of,
)
from engine.config.se import add_se_defaults, check_se
from engine.train.sampling import steps_per_epoch
from engine.train.schedule import follows_evaluations

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_defaults

# What a classifier's checkpoint says it is of: the names of all tasks that have this config.
TASKS = ("classification", "places365")


def get_cfg() -> CfgNode:
    """Every key of a classification config with its default.

    SOLVER has Detectron2's keys, with lengths in epochs in place of steps.
    """
    cfg = CfgNode()
    cfg.MODEL = CfgNode(
        {
            "DEVICE": "auto",
            "WEIGHTS": "",  # a file, a named source, or "pretrained": the published ImageNet weights
            "HEAD": "new",  # new: MODEL.WEIGHTS' classifier is left aside; keep: it must fit, classes and all
            "WEIGHTS_NETWORK": "",  # what MODEL.WEIGHTS are of (of list_backbones()), where the file does not tell
            "ALLOW": [],  # names (with *) that MODEL.WEIGHTS may lack or have too many of
            # What ImageNet weights of timm and torchvision were trained on, in 0..255.
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
            "BACKBONE": {
                "ARCHITECTURE": "se_resnet50",  # any of se_backbones.list_backbones()
                "NORM": "BN",  # BN, SyncBN, GN or FrozenBN
                "FREEZE_AT": 0,  # leading stages that are not trained: 1 the stem, 2 res2 too, … 5 all: a linear probe
                "DROPOUT": 0.0,  # before the classifier
                "RECOMPUTE": False,  # gradient checkpointing: less memory, more time
            },
        }
    )
    add_se_defaults(cfg)
    cfg.DATA = CfgNode(
        {
            "ROOT": "",  # folder, or archive; Places365 is looked for in $PLACES365_DATASETS (./datasets), too
            "TRAIN": "train",  # the split, a folder in ROOT; of Places365 also train-standard or train-challenge
            "VAL": "val",  # empty: no evaluation
            "IMAGES": "auto",  # of Places365, which comes in two sizes: 256, large, or whichever is there
            "CACHE": "",  # folder of the index; empty: se-backbones in the user's cache folder
            "MAX_BROKEN_SHARE": 0.01,  # of the files; with more that cannot be read, a run stops
        }
    )
    cfg.INPUT = CfgNode(
        {
            "FORMAT": "RGB",  # or BGR
            "TRAIN_SIZE": 224,  # side in pixels of what is seen in training
            "TRAIN_SIZE_START": 0,  # with it the side grows during the run, from this to TRAIN_SIZE; 0: it does not
            "TRAIN_CROP": "area",  # what part of an image is seen: area, pad or shorter_side; see TrainCrop
            "SCALE": [0.08, 1.0],  # area: its share of the image's area,
            "RATIO": [0.75, 1.3333333333333333],  # and its width over height, before it is resized
            "PAD": 4,  # pad: pixels of the mean on each side
            "SHORTER_SIDE": [256, 480],  # shorter_side: that of the image which the crop is cut from, in pixels
            "FLIP": 0.5,  # probability of the mirror image
            "COLOR_JITTER": 0.0,  # brightness, contrast and saturation, each by up to this factor
            "RAND_AUGMENT": {"OPS": 0, "MAGNITUDE": 9},  # arXiv 1909.13719; magnitude 0..30
            "CUTOUT": 0,  # side in pixels of a square without content, arXiv 1708.04552; 0: none
            "MIXUP": 0.0,  # alpha of arXiv 1710.09412
            "CUTMIX": 0.0,  # alpha of arXiv 1905.04899; with both, one of the two is drawn for each batch
            "MIX_PROBABILITY": 1.0,  # of a batch being mixed at all
            "TEST_RESIZE": 256,  # shorter side; 0: as it is
            "TEST_SIZE": 224,  # the crop
        }
    )
    cfg.SOLVER = detectron2_defaults().SOLVER
    cfg.TEST = CfgNode({"EVAL_EPOCHS": 1.0, "IMS_PER_BATCH": 64, "CROPS": 1})  # 1, 10 or 12; epochs 0: at the end
    add_engine_defaults(cfg)
    for in_steps in ("STEPS", "WARMUP_ITERS", "CHECKPOINT_PERIOD", "AMP", "REFERENCE_WORLD_SIZE"):
        cfg.SOLVER.pop(in_steps, None)
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.IMS_PER_BATCH = 256
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.EPOCHS = 30.0
    cfg.SOLVER.MAX_ITER = 0  # steps in place of EPOCHS; 0: EPOCHS counts
    cfg.SOLVER.STEP_EPOCHS = []  # where WarmupMultiStepLR multiplies the learning rate by GAMMA
    cfg.SOLVER.WARMUP_EPOCHS = 0.0
    cfg.SOLVER.CHECKPOINT_EPOCHS = 1.0
    cfg.SOLVER.FREEZE_NORM_EPOCHS = 0.0  # so many last epochs in which BatchNorm uses and keeps its statistics
    cfg.SOLVER.HEAD_LR_FACTOR = 1.0  # the classifier's learning rate over that of the rest
    cfg.SOLVER.LABEL_SMOOTHING = 0.0
    # What an image of each class counts in the loss, a number a class in their order; or balanced: the inverse of the
    # classes' numbers of images. Either way 1 on the average of an epoch's images. Empty: alike.
    cfg.SOLVER.CLASS_WEIGHTS = []
    # How far rare classes are shown more often: 0, as they are; 1, all classes alike; 0.5, by the square root.
    cfg.DATALOADER = CfgNode({"NUM_WORKERS": 4, "CLASS_BALANCE": 0.0})
    cfg.SEED = 1
    cfg.OUTPUT_DIR = "output"
    return cfg


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> CfgNode:
    """A config file on the defaults, with ``KEY VALUE`` overrides. Raises as ``engine.config.dialect.load_config``."""
    cfg = engine_config.load_config(get_cfg(), path, overrides, compat.UPSTREAM_ONLY_KEYS)
    _check(cfg)
    return cfg


def config_from_checkpoint(checkpoint: dict) -> CfgNode:
    """The config a checkpoint was trained with. Raises UserError where the checkpoint is of another task."""
    task = checkpoint.get("task")
    return engine_config.config_from_checkpoint(
        get_cfg(), checkpoint, task if task in TASKS else TASKS[0], "classification", compat.UPSTREAM_ONLY_KEYS
    )


def in_steps(cfg: CfgNode, images: int) -> CfgNode:
    """The config with what is given in epochs in steps, as the training loop and Detectron2's schedules want it.

    Args:
        images: in the training set. An epoch is ``steps_per_epoch`` of them and SOLVER.IMS_PER_BATCH.
    """
    cfg = cfg.clone()
    cfg.defrost()
    epoch = steps_per_epoch(images, cfg.SOLVER.IMS_PER_BATCH)

    def steps(epochs: float) -> int:
        return max(round(epochs * epoch), 1) if epochs > 0 else 0

    solver = cfg.SOLVER
    solver.MAX_ITER = solver.MAX_ITER or steps(solver.EPOCHS)
    solver.STEPS = tuple(step for step in map(steps, solver.STEP_EPOCHS) if step < solver.MAX_ITER)
    solver.WARMUP_ITERS = min(steps(solver.WARMUP_EPOCHS), solver.MAX_ITER)
    solver.CHECKPOINT_PERIOD = steps(solver.CHECKPOINT_EPOCHS)
    solver.FREEZE_NORM_ITERS = min(steps(solver.FREEZE_NORM_EPOCHS), solver.MAX_ITER)
    cfg.TEST.EVAL_PERIOD = steps(cfg.TEST.EVAL_EPOCHS)
    cfg.freeze()
    return cfg


_PIXELS = Rule("at least 32 pixels", lambda side: side >= 32)  # the stride of most networks


def _two(what: str, highest: float = math.inf) -> Rule:
    """A range of numbers above 0."""
    at_most = f", {highest:g} at most" if highest < math.inf else ""
    return Rule(
        f"two {what} above 0{at_most}, the smaller first",
        lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] <= highest and pair[1] < math.inf,
    )


# What the values must be.
_RULES = {
    "MODEL.HEAD": one_of(("new", "keep")),
    "MODEL.BACKBONE.NORM": one_of(NORM_NAMES),
    "MODEL.BACKBONE.DROPOUT": number(0, 1, below=True),
    "DATA.IMAGES": one_of(("auto", "256", "large")),
    "DATA.MAX_BROKEN_SHARE": SHARE,
    "INPUT.FORMAT": one_of(("RGB", "BGR")),
    "INPUT.TRAIN_SIZE": _PIXELS,
    "INPUT.TEST_SIZE": _PIXELS,
    "INPUT.TEST_RESIZE": NATURAL,
    "INPUT.TRAIN_CROP": one_of(TRAIN_CROPS),
    "INPUT.SCALE": _two("shares of the area", 1),
    "INPUT.RATIO": _two("ratios"),
    "INPUT.FLIP": SHARE,
    "INPUT.COLOR_JITTER": number(0, 1, below=True),
    "INPUT.RAND_AUGMENT.OPS": NATURAL,
    "INPUT.RAND_AUGMENT.MAGNITUDE": number(0, 30),
    "INPUT.MIXUP": NOT_NEGATIVE,
    "INPUT.CUTMIX": NOT_NEGATIVE,
    "INPUT.MIX_PROBABILITY": SHARE,
    "SOLVER.EPOCHS": NOT_NEGATIVE,
    "SOLVER.MAX_ITER": Rule("0, for SOLVER.EPOCHS to count, or more", lambda steps: steps >= 0),
    "SOLVER.STEP_EPOCHS": every(POSITIVE, ascending=True, what="epochs"),
    "SOLVER.WARMUP_EPOCHS": NOT_NEGATIVE,
    "SOLVER.CHECKPOINT_EPOCHS": NOT_NEGATIVE,
    "SOLVER.FREEZE_NORM_EPOCHS": NOT_NEGATIVE,
    "SOLVER.HEAD_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.LABEL_SMOOTHING": number(0, 1, below=True),
    "SOLVER.CLASS_WEIGHTS": CLASS_WEIGHTS,
    "DATALOADER.CLASS_BALANCE": SHARE,
    "TEST.EVAL_EPOCHS": NOT_NEGATIVE,
    "TEST.CROPS": one_of(TEST_CROPS),
}


def _check(cfg: CfgNode) -> None:
    """Refuses values that would be ignored, or fail later in a place that says less."""
    check_se(cfg)
    check_engine_settings(cfg)
    check_rules(cfg, {**_RULES, "MODEL.BACKBONE.FREEZE_AT": freeze_rule(cfg)})
    given, solver = cfg.INPUT, cfg.SOLVER
    refuse(
        [
            (
                given.TRAIN_SIZE_START != 0 and not 32 <= given.TRAIN_SIZE_START <= given.TRAIN_SIZE,
                f"INPUT.TRAIN_SIZE_START must be 0, or from 32 to INPUT.TRAIN_SIZE; got {given.TRAIN_SIZE_START}",
            ),
            (
                0 < given.TEST_RESIZE < given.TEST_SIZE,
                f"INPUT.TEST_SIZE {given.TEST_SIZE} is larger than the image it is cut from, INPUT.TEST_RESIZE "
                f"{given.TEST_RESIZE}",
            ),
            (solver.EPOCHS <= 0 and solver.MAX_ITER <= 0, "there is nothing to do: SOLVER.EPOCHS and MAX_ITER are 0"),
            (
                solver.STEP_EPOCHS != [] and solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR",
                "SOLVER.STEP_EPOCHS are for SOLVER.LR_SCHEDULER_NAME WarmupMultiStepLR, not "
                f"{solver.LR_SCHEDULER_NAME}",
            ),
            (
                solver.FREEZE_NORM_EPOCHS > 0 and cfg.MODEL.BACKBONE.NORM in ("GN", "FrozenBN"),
                "SOLVER.FREEZE_NORM_EPOCHS keeps BatchNorm's statistics; MODEL.BACKBONE.NORM "
                f"{cfg.MODEL.BACKBONE.NORM} has none that change",
            ),
        ]
    )
    _check_crop(cfg.INPUT)
    if key := follows_evaluations(cfg):
        _check_following(cfg, key)


def _check_following(cfg: CfgNode, name: str) -> None:
    """Refuses what a training that may end by its evaluations, by the key that is named, cannot have."""
    solver = cfg.SOLVER
    length = math.inf if solver.MAX_ITER else solver.EPOCHS  # of MAX_ITER it is known where the images are
    refuse(
        [
            (not cfg.DATA.VAL, f"{name} follows the evaluations, and DATA.VAL is empty: name the split to evaluate on"),
            (
                not 0 < cfg.TEST.EVAL_EPOCHS < length,
                f"{name} follows the evaluations: TEST.EVAL_EPOCHS must be above 0 and below SOLVER.EPOCHS; got "
                f"{cfg.TEST.EVAL_EPOCHS}",
            ),
            (
                solver.FREEZE_NORM_EPOCHS > 0,
                f"{name} may end a run before SOLVER.EPOCHS, from which SOLVER.FREEZE_NORM_EPOCHS is counted back",
            ),
            (
                cfg.INPUT.TRAIN_SIZE_START != 0,
                f"{name} may end a run before SOLVER.EPOCHS, over which INPUT.TRAIN_SIZE_START grows to TRAIN_SIZE",
            ),
        ]
    )


_OF_A_CROP = {"SCALE": "area", "RATIO": "area", "PAD": "pad", "SHORTER_SIDE": "shorter_side"}


def _check_crop(given: CfgNode) -> None:
    """Refuses crops for training that are larger than what they are cut from, and settings of another kind of crop."""
    crop, sides, smallest = given.TRAIN_CROP, given.SHORTER_SIDE, given.TRAIN_SIZE_START or given.TRAIN_SIZE
    defaults = get_cfg().INPUT
    two = len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides) and sides[0] <= sides[1]
    refuse(
        [
            *(
                (given[key] != defaults[key], f"INPUT.{key} is for INPUT.TRAIN_CROP {kind}, not {crop}")
                for key, kind in _OF_A_CROP.items()
                if kind != crop
            ),
            (
                not 0 <= given.PAD < given.TRAIN_SIZE,
                f"INPUT.PAD must be in 0..INPUT.TRAIN_SIZE {given.TRAIN_SIZE}, below that; got {given.PAD}",
            ),
            (not two, f"INPUT.SHORTER_SIDE wants two numbers of pixels, the smaller first; got {list(sides)}"),
            (
                crop == "shorter_side" and two and sides[0] < given.TRAIN_SIZE,
                f"INPUT.SHORTER_SIDE {list(sides)} begins below the crop's side, INPUT.TRAIN_SIZE {given.TRAIN_SIZE}",
            ),
            (
                crop == "pad" and given.TRAIN_SIZE_START != 0,
                "INPUT.TRAIN_SIZE_START is not for INPUT.TRAIN_CROP pad, which takes images in the size that they have",
            ),
            (
                not 0 <= given.CUTOUT <= smallest,
                f"INPUT.CUTOUT must be in 0..{smallest}, the smallest side of a training crop; got {given.CUTOUT}",
            ),
        ]
    )
