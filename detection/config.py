"""The detection config: Detectron2's keys, ours, and the checks between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detection.backbone import add_se_config
from detection.config_rules import detection_rules
from detection.task_info import DETECTION
from engine import compat
from engine.config import dialect as engine_config
from engine.config.defaults import add_engine_defaults, check_engine_settings
from engine.config.rules import check_rules
from engine.config.se import check_se
from engine.errors import UserError
from engine.train.schedule import follows_evaluations

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_defaults


def get_cfg() -> CfgNode:
    """Every key of a detection config with its default. Ours are named here; the others are Detectron2's."""
    cfg = detectron2_defaults()
    add_engine_defaults(cfg)
    cfg.SEED = 1
    cfg.MODEL.DEVICE = "auto"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.WEIGHTS_NETWORK = (
        ""  # what MODEL.WEIGHTS are of (a name of list_backbones()), where the file does not tell
    )
    cfg.MODEL.ALLOW = []  # names (with *) that MODEL.WEIGHTS may lack or have too many of, a replaced head say
    # The number of classes comes from the data; a number here must agree with it.
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.MODEL.RETINANET.NUM_CLASSES = 0
    # What ImageNet weights of timm and torchvision were trained on: RGB, mean and standard deviation in 0..255.
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.BACKBONE.NAME = "build_se_fpn_backbone"
    add_se_config(cfg)
    # A set of one's own; where JSON is empty, the DATASETS.* names count. JSON is a COCO json, whose images lie in
    # IMAGES; a folder of Pascal VOC, or a list in its ImageSets/Main; or YOLO's data.yaml, or its folder. Of folder and
    # data.yaml, TRAIN takes train and VAL val. A relative path is looked for here first, and then in
    # $DETECTRON2_DATASETS (./datasets by default).
    cfg.DATA = CfgNode({"TRAIN": {"JSON": "", "IMAGES": ""}, "VAL": {"JSON": "", "IMAGES": ""}})
    # The share of images below which the images of a class are repeated (LVIS's repeat-factor sampling); 0: every image
    # is in every epoch once. It is what counts, with either value of Detectron2's SAMPLER_TRAIN.
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.0
    # What each class counts in the loss that tells the regions' classes: numbers in the order of the classes, or
    # [balanced], by the inverse of the classes' numbers of objects. Either way 1 on the average of an epoch's objects;
    # a region without an object counts 1. Empty: alike.
    cfg.SOLVER.CLASS_WEIGHTS = []
    cfg.TEST.IMS_PER_BATCH = 1  # consecutive images of one size only, so that results do not depend on it
    cfg.TEST.LOSS = False  # an evaluation gives the losses of its images too, which takes about as long again
    cfg.OUTPUT_DIR = "output"
    return cfg


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> CfgNode:
    """A config file on the defaults, with ``KEY VALUE`` overrides. Raises as ``engine.config.dialect.load_config``."""
    cfg = engine_config.load_config(get_cfg(), path, overrides, compat.UPSTREAM_ONLY_KEYS)
    _check(cfg)
    if not cfg.INPUT.CROP.TYPE.startswith("absolute"):
        return cfg
    cfg.defrost()
    cfg.INPUT.CROP.SIZE = [int(size) for size in cfg.INPUT.CROP.SIZE]  # pixels; as shares, by default, they have a dot
    cfg.freeze()
    return cfg


# Detectron2's keys that our loop does not read, and what to use in their place.
_NOT_READ = {
    "SOLVER.AMP.ENABLED": "SOLVER.PRECISION (auto, fp32, bf16 or fp16)",
    "SOLVER.REFERENCE_WORLD_SIZE": "SOLVER.IMS_PER_BATCH, which is of all processes together",
    "TEST.AUG.ENABLED": "nothing: one size, no flip",
    "TEST.PRECISE_BN.ENABLED": "SOLVER.EMA.ENABLED",
    "CUDNN_BENCHMARK": "the environment of PyTorch",
}


def _check(cfg: CfgNode) -> None:
    """Refuses values that would be ignored, or fail later in a place that says less."""
    check_se(cfg)
    untouched = detectron2_defaults()
    for key, instead in _NOT_READ.items():
        now, default = cfg, untouched
        for part in key.split("."):
            now, default = now[part], default[part]
        if now != default:
            raise UserError(f"{key} is a key of Detectron2's own loop, which is not used here; use {instead}")
    check_engine_settings(cfg)
    if cfg.DATALOADER.SAMPLER_TRAIN != untouched.DATALOADER.SAMPLER_TRAIN and not cfg.DATALOADER.REPEAT_THRESHOLD:
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN {cfg.DATALOADER.SAMPLER_TRAIN}: set DATALOADER.REPEAT_THRESHOLD, the share of "
            "images below which a class is repeated, above 0"
        )
    if cfg.SOLVER.MAX_ITER < 1:
        raise UserError(f"SOLVER.MAX_ITER must be at least 1 step; got {cfg.SOLVER.MAX_ITER}")
    if (key := follows_evaluations(cfg)) and not 0 < cfg.TEST.EVAL_PERIOD < cfg.SOLVER.MAX_ITER:
        raise UserError(
            f"{key} follows the evaluations: TEST.EVAL_PERIOD must be above 0 and below SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}; got {cfg.TEST.EVAL_PERIOD}"
        )
    check_rules(cfg, detection_rules(cfg))


def config_from_checkpoint(checkpoint: dict) -> CfgNode:
    """The config a checkpoint was trained with. Raises UserError where the checkpoint is of another task."""
    return engine_config.config_from_checkpoint(
        get_cfg(), checkpoint, DETECTION.name, "detection", compat.UPSTREAM_ONLY_KEYS
    )
