"""A value that cannot be meant is refused when the config is read, by its key, with what is allowed."""

import pytest

from classification.config import get_cfg, load_config
from engine.errors import UserError
from tests.config_keys import not_thought_of

NUMBERS_ABOVE_0 = ("0", "-1")
OPTIONS = ("foo", "")
SHARES = ("-0.1", "1.5", "nan")
NOT_NEGATIVE = ("-1.0", "nan", "inf")
WRONG = {
    "MODEL.HEAD": OPTIONS,
    "MODEL.ALLOW": ("[1]",),
    "MODEL.PIXEL_MEAN": ("[1.0]", "[inf, 0.0, 0.0]"),
    "MODEL.PIXEL_STD": ("[]", "[1.0, -1.0, 1.0]"),
    "MODEL.BACKBONE.ARCHITECTURE": ("foo", ""),
    "MODEL.BACKBONE.NORM": OPTIONS,
    "MODEL.WEIGHTS_NETWORK": ("foo", "resnet51"),
    "INPUT.MAX_PIXELS": ("-1",),
    "MODEL.BACKBONE.FREEZE_AT": ("-1", "9"),
    "MODEL.BACKBONE.DROPOUT": ("-0.1", "1.0", "nan"),
    "MODEL.SE.REDUCTION": ("[0]", "[]", "[8, 16]"),
    "MODEL.SE.PLACEMENT": OPTIONS,
    "MODEL.SE.SQUEEZE": OPTIONS,
    "MODEL.SE.GATE": OPTIONS,
    "MODEL.SE.INIT": OPTIONS,
    "MODEL.SE.WITHOUT": ("['layer9.1']", "[3]"),
    "MODEL.SE.HIDDEN": ("[['layer9.1', 4]]", "[['layer4.1', 0]]", "['layer4.1']"),
    "MODEL.BACKBONE.WIDTHS": ("[3]", "[['layer9.1.conv1', 4, 4]]", "[['layer1.0.conv1', 8, 64]]"),
    "DATA.IMAGES": ("512", ""),
    "DATA.MAX_BROKEN_SHARE": SHARES,
    "INPUT.FORMAT": OPTIONS,
    "INPUT.TRAIN_SIZE": ("0", "1", "31", "-32"),
    "INPUT.TRAIN_SIZE_START": ("-1", "31", "256"),
    "INPUT.SCALE": ("[]", "[0.0, 1.0]", "[1.0, 0.5]", "[0.5, nan]"),
    "INPUT.RATIO": ("[1.0]", "[0.0, 1.0]", "[2.0, 1.0]", "[1.0, inf]"),
    "INPUT.TRAIN_CROP": OPTIONS,
    "INPUT.PAD": ("-1", "224"),
    "INPUT.SHORTER_SIDE": ("[]", "[256]", "[480, 256]", "[0, 480]", "[223, 480]", "[256.5, 480]"),
    "INPUT.CUTOUT": ("-1", "225"),
    "INPUT.FLIP": SHARES,
    "INPUT.COLOR_JITTER": NOT_NEGATIVE,
    "INPUT.RAND_AUGMENT.OPS": ("-1",),
    "INPUT.RAND_AUGMENT.MAGNITUDE": ("-1", "31"),
    "INPUT.MIXUP": NOT_NEGATIVE,
    "INPUT.CUTMIX": NOT_NEGATIVE,
    "INPUT.MIX_PROBABILITY": SHARES,
    "INPUT.TEST_RESIZE": ("-1", "100"),
    "INPUT.TEST_SIZE": ("0", "31", "-1"),
    "SOLVER.LR_SCHEDULER_NAME": OPTIONS,
    "SOLVER.MAX_ITER": ("-1",),
    "SOLVER.BASE_LR": NOT_NEGATIVE,
    "SOLVER.MOMENTUM": ("-0.1", "1.0", "nan"),
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_BIAS": (*NOT_NEGATIVE, "foo"),
    "SOLVER.BIAS_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.GAMMA": (*NOT_NEGATIVE, "0.0"),
    "SOLVER.PLATEAU.THRESHOLD": NOT_NEGATIVE,
    "SOLVER.PLATEAU.PATIENCE": NUMBERS_ABOVE_0,
    "SOLVER.PLATEAU.DROPS": ("-1",),
    "SOLVER.PATIENCE": ("-1",),
    "SOLVER.TIME_LIMIT": (*NOT_NEGATIVE, "1:30:00"),
    "SOLVER.WARMUP_FACTOR": SHARES,
    "SOLVER.WARMUP_METHOD": OPTIONS,
    "SOLVER.IMS_PER_BATCH": NUMBERS_ABOVE_0,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": OPTIONS,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (*NOT_NEGATIVE, "0.0"),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": ("0.0", "-1.0", "nan"),
    "SOLVER.OPTIMIZER": ("Adam", ""),
    "SOLVER.PRECISION": ("half", ""),
    "TEST.PRECISION": ("half", ""),
    "SOLVER.ACCUMULATE": NUMBERS_ABOVE_0,
    "SOLVER.EMA.DECAY": SHARES,
    "SOLVER.KEEP_CHECKPOINTS": NUMBERS_ABOVE_0,
    "SOLVER.EPOCHS": ("0.0", *NOT_NEGATIVE),
    "SOLVER.STEP_EPOCHS": ("[20, 10]", "[0]", "['a']"),
    "SOLVER.WARMUP_EPOCHS": NOT_NEGATIVE,
    "SOLVER.CHECKPOINT_EPOCHS": NOT_NEGATIVE,
    "SOLVER.FREEZE_NORM_EPOCHS": NOT_NEGATIVE,
    "SOLVER.HEAD_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.LABEL_SMOOTHING": ("-0.1", "1.0", "nan"),
    "TEST.EVAL_EPOCHS": NOT_NEGATIVE,
    "TEST.IMS_PER_BATCH": NUMBERS_ABOVE_0,
    "TEST.CROPS": ("0", "5", "11", "144"),
    "SOLVER.CLASS_WEIGHTS": ("foo", "[1.0, -1.0]", "[0, 0]", "[nan, 1.0]", "['a', 1]"),
    "DATALOADER.CLASS_BALANCE": ("-0.1", "1.5", "nan"),
    "DATALOADER.NUM_WORKERS": ("-1", "1000000000"),
    "LOG_PERIOD": NUMBERS_ABOVE_0,
    "LOGGERS": ("['tensorbord']", "[1]"),
    "SEED": ("-1", str(2**64)),
    "OUTPUT_DIR": ("",),
}
WITH = {  # for keys that are of another key's one value
    "SOLVER.STEP_EPOCHS": ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"),
    "INPUT.PAD": ("INPUT.TRAIN_CROP", "pad"),
    "INPUT.SHORTER_SIDE": ("INPUT.TRAIN_CROP", "shorter_side"),
}
ANY_VALUE = {  # of their type
    "MODEL.DEVICE": "engine.device",
    "MODEL.WEIGHTS": "a file or source, which is looked for",
    "MODEL.SE.STAGES": "as in the detection config",
    "DATA.ROOT": "a folder, which is looked for",
    "DATA.TRAIN": "a split, which is looked for",
    "DATA.VAL": "a split, or none",
    "DATA.CACHE": "a folder, which is made",
}
NOT_READ = ("SOLVER.NUM_DECAYS", "SOLVER.BASE_LR_END", "SOLVER.RESCALE_INTERVAL")  # upstream's, of its own schedules


def test_every_key_is_thought_of():
    assert not_thought_of(get_cfg(), WRONG, ANY_VALUE) <= set(NOT_READ)


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_refused_by_its_key(key):
    for value in WRONG[key]:
        with pytest.raises(UserError) as raised:
            load_config(None, [*WITH.get(key, ()), key, value])
        assert key in str(raised.value), value
