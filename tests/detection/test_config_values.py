"""A value that cannot be meant is refused when the config is read, by its key, with what is allowed."""

import pytest

from detection.config import get_cfg, load_config
from engine.errors import UserError
from tests.config_keys import not_thought_of

# A group of keys → wrong values of the right type.
NUMBERS_ABOVE_0 = ("0", "-1")
OPTIONS = ("foo", "")
SHARES = ("-0.1", "1.5", "nan")
WEIGHTS = ("-1.0", "nan", "inf")
BOX_WEIGHTS = ("(1.0, 1.0, 1.0)", "(0.0, 1.0, 1.0, 1.0)")
LABELS = ("[0]", "[0, 2]", "[0, 1, 1, 1]")
OVERLAPS = ("[]", "[0.7, 0.3]", "[0.0]", "[1.5]")
LISTS = ("[]", "[[]]", "[[0]]", "[32]", "[['a']]")
WRONG = {
    "VERSION": ("1",),
    "MODEL.LOAD_PROPOSALS": ("True",),
    "MODEL.KEYPOINT_ON": ("True",),
    "MODEL.META_ARCHITECTURE": ("Foo", "", "PanopticFPN", "SemanticSegmentor", "ProposalNetwork"),
    "MODEL.PIXEL_MEAN": ("[1.0]", "[nan, 0.0, 0.0]"),
    "MODEL.PIXEL_STD": ("[0.0, 1.0, 1.0]", "[nan, 1.0, 1.0]"),
    "MODEL.BACKBONE.ARCHITECTURE": ("foo", "se_resnet51"),
    "MODEL.WEIGHTS_NETWORK": ("foo", "resnet51"),
    "INPUT.MAX_PIXELS": ("-1",),
    "MODEL.BACKBONE.FREEZE_AT": ("-1", "9"),
    "MODEL.FPN.IN_FEATURES": ("['res9']", "[2]"),
    "MODEL.FPN.OUT_CHANNELS": NUMBERS_ABOVE_0,
    "MODEL.FPN.NORM": ("foo", "bn"),
    "MODEL.FPN.FUSE_TYPE": OPTIONS,
    "MODEL.PROPOSAL_GENERATOR.NAME": (*OPTIONS, "PrecomputedProposals"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": ("-1",),
    "MODEL.ANCHOR_GENERATOR.NAME": OPTIONS,
    "MODEL.ANCHOR_GENERATOR.SIZES": LISTS,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": LISTS,
    "MODEL.ANCHOR_GENERATOR.OFFSET": ("-0.1", "1.0", "nan"),
    "MODEL.RPN.HEAD_NAME": OPTIONS,
    "MODEL.RPN.BOUNDARY_THRESH": ("-2",),
    "MODEL.RPN.CONV_DIMS": ("[0]", "[]"),
    "MODEL.ROI_HEADS.NAME": OPTIONS,
    "MODEL.ROI_HEADS.NUM_CLASSES": ("-1",),
    "MODEL.ROI_BOX_HEAD.NAME": ("foo",),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": ("()", "(0.5, 2.0, 0.7)"),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": ("()", "((1.0,),)"),
    "MODEL.ROI_BOX_HEAD.NUM_FC": ("-1",),
    "MODEL.ROI_BOX_HEAD.FC_DIM": NUMBERS_ABOVE_0,
    "MODEL.ROI_MASK_HEAD.NAME": OPTIONS,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": OPTIONS,
    "MODEL.RETINANET.NUM_CLASSES": ("-1",),
    "MODEL.RETINANET.NUM_CONVS": ("-1",),
    "MODEL.RETINANET.PRIOR_PROB": ("0.0", "1.0"),
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": NUMBERS_ABOVE_0,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": WEIGHTS,
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": ("-0.5", "2.0", "nan"),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": WEIGHTS,
    "MODEL.RETINANET.NORM": ("foo",),
    "MODEL.RESNETS.DEPTH": ("101",),
    "MODEL.RESNETS.NUM_GROUPS": ("32",),
    "MODEL.RESNETS.WIDTH_PER_GROUP": ("4",),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": ("64",),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": ("32",),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ("[False, True, True, True]",),
    "MODEL.RESNETS.DEFORM_MODULATED": ("True",),
    "MODEL.RESNETS.NORM": OPTIONS,
    "MODEL.RESNETS.RES5_DILATION": ("0", "3"),
    "MODEL.ALLOW": ("[1]",),
    "MODEL.SE.REDUCTION": ("[0]", "[]", "[8, 16]"),
    "MODEL.SE.PLACEMENT": OPTIONS,
    "MODEL.SE.SQUEEZE": OPTIONS,
    "MODEL.SE.GATE": OPTIONS,
    "MODEL.SE.INIT": OPTIONS,
    "MODEL.SE.WITHOUT": ("['layer9.1']", "[3]"),
    "MODEL.SE.HIDDEN": ("[['layer9.1', 4]]", "[['layer4.1', 0]]", "['layer4.1']"),
    "MODEL.BACKBONE.WIDTHS": ("[3]", "[['layer9.1.conv1', 4, 4]]", "[['layer1.0.conv1', 8, 64]]"),
    "INPUT.MIN_SIZE_TRAIN": ("()", "(0, 800)", "(-1,)", "('a',)"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": OPTIONS,
    "INPUT.MAX_SIZE_TRAIN": NUMBERS_ABOVE_0,
    "INPUT.MIN_SIZE_TEST": ("-1",),
    "INPUT.MAX_SIZE_TEST": NUMBERS_ABOVE_0,
    "INPUT.RANDOM_FLIP": ("diagonal", ""),
    "INPUT.CROP.TYPE": OPTIONS,
    "INPUT.CROP.SIZE": ("[0.9]", "[0.0, 0.9]", "[300.0, 300.0]"),
    "INPUT.FORMAT": ("L", ""),
    "INPUT.MASK_FORMAT": OPTIONS,
    "DATASETS.TRAIN": ("(1,)",),
    "DATASETS.TEST": ("(1,)",),
    "DATALOADER.NUM_WORKERS": ("-1", "1000000000"),
    "DATALOADER.SAMPLER_TRAIN": ("RepeatFactorTrainingSampler", "foo"),  # the former without a threshold
    "DATALOADER.REPEAT_THRESHOLD": SHARES,
    "SOLVER.CLASS_WEIGHTS": ("foo", "[1.0, -1.0]", "[0, 0]", "[nan, 1.0]", "['a', 1]"),
    "SOLVER.LR_SCHEDULER_NAME": OPTIONS,
    "SOLVER.MAX_ITER": NUMBERS_ABOVE_0,
    "SOLVER.BASE_LR": WEIGHTS,
    "SOLVER.MOMENTUM": ("-0.1", "1.0", "nan"),
    "SOLVER.WEIGHT_DECAY": WEIGHTS,
    "SOLVER.WEIGHT_DECAY_NORM": WEIGHTS,
    "SOLVER.WEIGHT_DECAY_BIAS": (*WEIGHTS, "foo"),
    "SOLVER.BIAS_LR_FACTOR": WEIGHTS,
    "SOLVER.GAMMA": (*WEIGHTS, "0.0"),
    "SOLVER.STEPS": ("(20, 10)", "(0,)", "('a',)"),
    "SOLVER.PLATEAU.THRESHOLD": WEIGHTS,
    "SOLVER.PLATEAU.PATIENCE": NUMBERS_ABOVE_0,
    "SOLVER.PLATEAU.DROPS": ("-1",),
    "SOLVER.PATIENCE": ("-1",),
    "SOLVER.TIME_LIMIT": (*WEIGHTS, "1:30:00"),
    "SOLVER.WARMUP_FACTOR": SHARES,
    "SOLVER.WARMUP_ITERS": ("-1",),
    "SOLVER.WARMUP_METHOD": OPTIONS,
    "SOLVER.CHECKPOINT_PERIOD": ("-1",),
    "SOLVER.IMS_PER_BATCH": NUMBERS_ABOVE_0,
    "SOLVER.REFERENCE_WORLD_SIZE": ("8",),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": OPTIONS,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (*WEIGHTS, "0.0"),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": ("0.0", "-1.0", "nan"),
    "SOLVER.AMP.ENABLED": ("True",),
    "SOLVER.OPTIMIZER": ("Adam", ""),
    "SOLVER.PRECISION": ("half", ""),
    "TEST.PRECISION": ("half", ""),
    "SOLVER.ACCUMULATE": NUMBERS_ABOVE_0,
    "SOLVER.EMA.DECAY": SHARES,
    "SOLVER.KEEP_CHECKPOINTS": NUMBERS_ABOVE_0,
    "TEST.EVAL_PERIOD": ("-1",),
    "TEST.DETECTIONS_PER_IMAGE": NUMBERS_ABOVE_0,
    "TEST.AUG.ENABLED": ("True",),
    "TEST.PRECISE_BN.ENABLED": ("True",),
    "TEST.IMS_PER_BATCH": NUMBERS_ABOVE_0,
    "OUTPUT_DIR": ("",),
    "SEED": ("-1", str(2**64)),
    "CUDNN_BENCHMARK": ("True",),
    "VIS_PERIOD": ("-1",),
    "LOG_PERIOD": NUMBERS_ABOVE_0,
    "LOGGERS": ("['tensorbord']", "[1]"),
    **{
        f"MODEL.{group}.{key}": values
        for group in ("RPN", "ROI_HEADS", "RETINANET")
        for key, values in {"IOU_THRESHOLDS": OVERLAPS, "IOU_LABELS": LABELS}.items()
    },
    **{
        f"MODEL.{group}.{key}": values
        for group in ("RPN", "ROI_HEADS")
        for key, values in {"BATCH_SIZE_PER_IMAGE": NUMBERS_ABOVE_0, "POSITIVE_FRACTION": SHARES}.items()
    },
    **{f"MODEL.RPN.{a}_NMS_TOPK_{b}": NUMBERS_ABOVE_0 for a in ("PRE", "POST") for b in ("TRAIN", "TEST")},
    **{f"MODEL.{group}.BBOX_REG_LOSS_TYPE": OPTIONS for group in ("RPN", "ROI_BOX_HEAD", "RETINANET")},
    **{f"MODEL.{group}.BBOX_REG_WEIGHTS": BOX_WEIGHTS for group in ("RPN", "ROI_BOX_HEAD", "RETINANET")},
    **{f"MODEL.{group}.BBOX_REG_LOSS_WEIGHT": WEIGHTS for group in ("RPN", "ROI_BOX_HEAD")},
    **{f"MODEL.{group}.SMOOTH_L1_BETA": WEIGHTS for group in ("RPN", "ROI_BOX_HEAD")},
    "MODEL.RPN.LOSS_WEIGHT": WEIGHTS,
    "MODEL.RPN.NMS_THRESH": SHARES,
    **{f"MODEL.{group}.SCORE_THRESH_TEST": SHARES for group in ("ROI_HEADS", "RETINANET")},
    **{f"MODEL.{group}.NMS_THRESH_TEST": SHARES for group in ("ROI_HEADS", "RETINANET")},
    **{
        f"MODEL.{head}.{key}": values
        for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD")
        for key, values in {
            "POOLER_RESOLUTION": NUMBERS_ABOVE_0,
            "POOLER_SAMPLING_RATIO": ("-1",),
            "POOLER_TYPE": OPTIONS,
            "NUM_CONV": ("-1",),
            "CONV_DIM": NUMBERS_ABOVE_0,
            "NORM": ("foo",),
        }.items()
    },
}
ANY_VALUE = {  # of their type
    "MODEL.DEVICE": "engine.device",
    "MODEL.WEIGHTS": "a file or source, which is looked for",
    "MODEL.BACKBONE.NAME": "build_detector",
    "MODEL.RPN.IN_FEATURES": "build_detector, which knows the backbone's maps",
    "MODEL.ROI_HEADS.IN_FEATURES": "build_detector",
    "MODEL.RETINANET.IN_FEATURES": "build_detector",
    "MODEL.RESNETS.OUT_FEATURES": "a test of its own: of backbones without a pyramid",
    "MODEL.RESNETS.STRIDE_IN_1X1": "the architecture has its own, and Detectron2's configs come with either",
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": "of layers that are refused",
    "MODEL.SE.STAGES": "a test of its own: stages are named together with reductions",
    "MODEL.ANCHOR_GENERATOR.ANGLES": "rotated boxes are not read here",
    **{
        f"DATA.{split}.{key}": "a file or folder, which is looked for"
        for split in ("TRAIN", "VAL")
        for key in ("JSON", "IMAGES")
    },
}
NOT_READ = (  # parts of Detectron2 that a refused value above switches on, or that its own programs read
    "MODEL.ROI_KEYPOINT_HEAD.", "MODEL.SEM_SEG_HEAD.", "MODEL.PANOPTIC_FPN.", "DATASETS.PROPOSAL_FILES",
    "DATASETS.PRECOMPUTED", "TEST.AUG.", "TEST.PRECISE_BN.", "TEST.EXPECTED_RESULTS", "TEST.KEYPOINT", "GLOBAL.",
    *(f"MODEL.ROI_BOX_HEAD.{key}" for key in ("FED_LOSS", "USE_FED", "USE_SIGMOID")),
    "SOLVER.NUM_DECAYS", "SOLVER.BASE_LR_END", "FLOAT32_PRECISION",
)  # fmt: skip


def test_every_key_is_thought_of():
    left = not_thought_of(get_cfg(), WRONG, ANY_VALUE)
    assert {key for key in left if not key.startswith(NOT_READ)} == set()


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_refused_by_its_key(key):
    for value in WRONG[key]:
        with pytest.raises(UserError) as raised:
            load_config(None, [key, value])
        assert key in str(raised.value), value


def test_what_is_allowed_depends_on_other_keys():
    for right in (
        ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[384, 600]"],
        ["INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", "[384, 600]"],
        ["INPUT.MIN_SIZE_TRAIN", "0"],
        ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(640, 800)"],
        ["MODEL.BACKBONE.NAME", "build_se_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res3']"],
        ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "101"],
        ["SOLVER.CLIP_GRADIENTS.NORM_TYPE", "inf"],
    ):
        load_config(None, right)
    for key, *wrong in (
        ("INPUT.CROP.SIZE", "[0.5, 600]", "INPUT.CROP.TYPE", "absolute"),
        ("INPUT.CROP.SIZE", "[600, 384]", "INPUT.CROP.TYPE", "absolute_range"),
        ("INPUT.MIN_SIZE_TRAIN", "(640, 700, 800)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        ("MODEL.RESNETS.OUT_FEATURES", "['res9']", "MODEL.BACKBONE.NAME", "build_se_backbone"),
        ("MODEL.SE.STAGES", "['res9']"),
    ):
        with pytest.raises(UserError, match=key.removesuffix(".STAGES")):
            load_config(None, [key, *wrong])


def test_crops_in_pixels_are_whole_numbers():
    """As shares, which they are by default, they have a dot, and Detectron2 would cut with it."""
    cfg = load_config(None, ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[384, 600]"])
    assert [type(size) for size in cfg.INPUT.CROP.SIZE] == [int, int] and cfg.is_frozen()
