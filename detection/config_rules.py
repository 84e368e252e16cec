"""What the values of Detectron2's keys must be, for the parts of it that are used here.

Detectron2 itself looks most of them up where they are used, in a KeyError or an assertion, or never.
"""

from __future__ import annotations

import math

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.defaults import NORM_NAMES, freeze_rule
from engine.config.rules import (
    CLASS_WEIGHTS,
    COUNT,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    every,
    number,
    one_of,
)
from se_backbones import find_spec
from se_backbones.registry import skeleton

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_defaults

# Built like our pyramids' names, and refused with a reason: what they train on is not read here.
_OTHER_DATA = {
    "PanopticFPN": "panoptic and semantic segmentations",
    "SemanticSegmentor": "semantic segmentations",
    "ProposalNetwork": "no classes, and is not evaluated",
}
_OF_OTHER_BACKBONES = (
    "DEPTH NUM_GROUPS WIDTH_PER_GROUP RES2_OUT_CHANNELS STEM_OUT_CHANNELS DEFORM_ON_PER_STAGE DEFORM_MODULATED"
).split()
_LOSSES = one_of(("smooth_l1", "giou", "diou", "ciou"))
_NORM = one_of(("", *NORM_NAMES, "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"))  # detectron2.layers.get_norm
_POOLER = one_of(("ROIAlignV2", "ROIAlign", "ROIPool", "ROIAlignRotated"))
_BOX_WEIGHTS = every(POSITIVE, 4, what="weights, of x, y, width and height")
_LISTS_OF_LISTS = "lists, one for each map or one for all"
_NOT_HERE = "False: it needs data that are not read here"


def detection_rules(cfg: CfgNode) -> dict[str, Rule]:
    """The rules for a config; some depend on other keys of it."""
    return {**_FIXED, **_names(), **_matching(cfg), **_stages(cfg), **_sizes(cfg)}


def _names() -> dict[str, Rule]:
    """Keys that name something in a registry of Detectron2, other people's entries included."""
    import detection.backbone  # noqa: F401  (ours are in the registries)

    from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, anchor_generator, proposal_generator
    from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, ROI_KEYPOINT_HEAD_REGISTRY, ROI_MASK_HEAD_REGISTRY

    architectures = sorted({name for name, _ in META_ARCH_REGISTRY} - set(_OTHER_DATA))
    others = "; ".join(f"{name} is for {what}" for name, what in _OTHER_DATA.items())
    known = one_of(architectures)
    registries = {
        "MODEL.PROPOSAL_GENERATOR.NAME": proposal_generator.PROPOSAL_GENERATOR_REGISTRY,
        "MODEL.RPN.HEAD_NAME": proposal_generator.RPN_HEAD_REGISTRY,
        "MODEL.ANCHOR_GENERATOR.NAME": anchor_generator.ANCHOR_GENERATOR_REGISTRY,
        "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
        "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
        "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
        "MODEL.ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    }
    rules = {key: one_of(sorted(name for name, _ in registry)) for key, registry in registries.items()}
    rules["MODEL.META_ARCHITECTURE"] = Rule(f"{known.says} ({others})", known.holds)
    box_heads = [name for name, _ in ROI_BOX_HEAD_REGISTRY]
    rules["MODEL.ROI_BOX_HEAD.NAME"] = one_of(["", *sorted(box_heads)])  # C4 has none
    return rules


def _matching(cfg: CfgNode) -> dict[str, Rule]:
    """Thresholds of overlap, and a label for each of the ranges that they make."""
    rules = {}
    for group in ("RPN", "ROI_HEADS", "RETINANET"):
        thresholds = cfg.MODEL[group].IOU_THRESHOLDS
        rules[f"MODEL.{group}.IOU_THRESHOLDS"] = every(
            number(0, 1, above=True), least=1, ascending=True, what="overlaps"
        )
        rules[f"MODEL.{group}.IOU_LABELS"] = every(
            one_of((-1, 0, 1)), len(thresholds) + 1, what=f"labels, one more than IOU_THRESHOLDS {list(thresholds)}"
        )
    return rules


def _stages(cfg: CfgNode) -> dict[str, Rule]:
    """Stages of the architecture. Other backbones than ours have other names."""
    stages = skeleton(find_spec(cfg.MODEL.BACKBONE.ARCHITECTURE)).stages
    if "_se_" not in cfg.MODEL.BACKBONE.NAME:
        return {}
    untouched = detectron2_defaults().MODEL.RESNETS
    ignored = {key: untouched[key] for key in _OF_OTHER_BACKBONES}
    own = {} if "_fpn_" in cfg.MODEL.BACKBONE.NAME else {"MODEL.RESNETS.OUT_FEATURES": every(one_of(stages), least=1)}
    return {
        **own,
        **{f"MODEL.RESNETS.{key}": _left_alone(default) for key, default in ignored.items()},
        "MODEL.BACKBONE.FREEZE_AT": freeze_rule(cfg),
        "MODEL.FPN.IN_FEATURES": every(one_of(stages), what="stages"),
        "MODEL.RESNETS.NORM": one_of(NORM_NAMES),
        "MODEL.RESNETS.RES5_DILATION": one_of((1, 2)),
    }


def _left_alone(default) -> Rule:
    return Rule(
        f"left at {default}: MODEL.BACKBONE.ARCHITECTURE says which network it is", lambda value: value == default
    )


def _sizes(cfg: CfgNode) -> dict[str, Rule]:
    """Sizes of images, and of crops."""
    ends = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
    minima = every(COUNT, 2, what="sizes, the ends of a range,") if ends else every(COUNT, least=1, what="sizes")
    as_they_are = list(cfg.INPUT.MIN_SIZE_TRAIN) == [0] and not ends
    pixels = Rule("a whole number above 0", lambda value: value >= 1 and value == int(value))
    crops = {
        "absolute": every(pixels, 2, what="sizes, height and width"),
        "absolute_range": Rule(
            "two whole numbers above 0, the smaller first",
            lambda ends: len(ends) == 2 and all(map(pixels.holds, ends)) and ends[0] <= ends[1],
        ),
    }
    relative = every(number(0, 1, above=True), 2, what="shares, of height and width")
    return {
        "INPUT.MIN_SIZE_TRAIN": Rule(f"{minima.says} (or 0 alone)", lambda v: as_they_are or minima.holds(v)),
        "INPUT.CROP.SIZE": crops.get(cfg.INPUT.CROP.TYPE, relative),
    }


_FIXED = {
    "VERSION": one_of((2,)),
    "DATASETS.TRAIN": every(TEXT, what="names of data sets"),
    "DATASETS.TEST": every(TEXT, what="names of data sets"),
    "MODEL.LOAD_PROPOSALS": Rule(_NOT_HERE, lambda value: value is False),
    "MODEL.KEYPOINT_ON": Rule(_NOT_HERE, lambda value: value is False),
    "MODEL.FPN.OUT_CHANNELS": COUNT,
    "MODEL.FPN.NORM": _NORM,
    "MODEL.FPN.FUSE_TYPE": one_of(("sum", "avg")),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": NATURAL,
    "MODEL.ANCHOR_GENERATOR.SIZES": every(
        Rule("one of numbers above 0", lambda sizes: len(sizes) > 0 and all(0 < size < math.inf for size in sizes)),
        least=1,
        what=_LISTS_OF_LISTS,
    ),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": every(
        Rule(
            "one of numbers above 0", lambda ratios: len(ratios) > 0 and all(0 < ratio < math.inf for ratio in ratios)
        ),
        least=1,
        what=_LISTS_OF_LISTS,
    ),
    "MODEL.ANCHOR_GENERATOR.OFFSET": number(0, 1, below=True),
    "MODEL.RPN.BOUNDARY_THRESH": number(-1),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.RPN.POSITIVE_FRACTION": SHARE,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _LOSSES,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": NOT_NEGATIVE,
    "MODEL.RPN.BBOX_REG_WEIGHTS": _BOX_WEIGHTS,
    "MODEL.RPN.SMOOTH_L1_BETA": NOT_NEGATIVE,
    "MODEL.RPN.LOSS_WEIGHT": NOT_NEGATIVE,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": COUNT,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": COUNT,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": COUNT,
    "MODEL.RPN.POST_NMS_TOPK_TEST": COUNT,
    "MODEL.RPN.NMS_THRESH": SHARE,
    "MODEL.RPN.CONV_DIMS": every(Rule("-1 or a number of channels", lambda v: v == -1 or v >= 1), least=1),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NUM_CLASSES": NATURAL,
    "MODEL.RETINANET.NUM_CLASSES": NATURAL,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": NOT_NEGATIVE,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": _BOX_WEIGHTS,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": NOT_NEGATIVE,
    "MODEL.ROI_BOX_HEAD.NUM_FC": NATURAL,
    "MODEL.ROI_BOX_HEAD.FC_DIM": COUNT,
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": every(_BOX_WEIGHTS, least=1, what="lists"),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": every(number(0, 1, above=True), least=1, what="overlaps"),
    **{
        f"MODEL.{head}.{key}": rule
        for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD")
        for key, rule in {
            "POOLER_RESOLUTION": COUNT,
            "POOLER_SAMPLING_RATIO": NATURAL,
            "POOLER_TYPE": _POOLER,
            "NUM_CONV": NATURAL,
            "CONV_DIM": COUNT,
            "NORM": _NORM,
        }.items()
    },
    "MODEL.RETINANET.NUM_CONVS": NATURAL,
    "MODEL.RETINANET.PRIOR_PROB": number(0, 1, above=True, below=True),
    "MODEL.RETINANET.SCORE_THRESH_TEST": SHARE,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": COUNT,
    "MODEL.RETINANET.NMS_THRESH_TEST": SHARE,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": _BOX_WEIGHTS,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": _LOSSES,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": NOT_NEGATIVE,
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": Rule("in 0..1, or -1 for none", lambda value: 0 <= value <= 1 or value == -1),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": NOT_NEGATIVE,
    "MODEL.RETINANET.NORM": _NORM,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of(("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": COUNT,
    "INPUT.MIN_SIZE_TEST": NATURAL,
    "INPUT.MAX_SIZE_TEST": COUNT,
    "INPUT.RANDOM_FLIP": one_of(("horizontal", "vertical", "none")),
    "INPUT.CROP.TYPE": one_of(("relative_range", "relative", "absolute", "absolute_range")),
    "INPUT.FORMAT": one_of(("RGB", "BGR")),
    "INPUT.MASK_FORMAT": one_of(("polygon", "bitmask")),
    "DATALOADER.SAMPLER_TRAIN": one_of(("TrainingSampler", "RepeatFactorTrainingSampler")),
    "DATALOADER.REPEAT_THRESHOLD": SHARE,
    "SOLVER.CLASS_WEIGHTS": CLASS_WEIGHTS,
    "SOLVER.STEPS": every(COUNT, ascending=True, what="steps"),
    "SOLVER.WARMUP_ITERS": NATURAL,
    "SOLVER.CHECKPOINT_PERIOD": NATURAL,
    "TEST.EVAL_PERIOD": NATURAL,
    "TEST.DETECTIONS_PER_IMAGE": COUNT,
    "VIS_PERIOD": NATURAL,
}
