"""Classification configs: epochs become steps, contradictions are errors."""

from pathlib import Path

import pytest

from classification.config import config_from_checkpoint, get_cfg, in_steps, load_config
from engine.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "configs"


PLATEAU = ("SOLVER.LR_SCHEDULER_NAME", "Plateau")


def test_the_papers_recipe_in_steps():
    cfg = in_steps(load_config(FOLDER / "places365_se_resnet50.yaml"), images=10_240)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (1000, (300, 600, 900))
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (10, 10)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.GAMMA) == (0.6, 0.9, 1e-4, 0.1)
    assert in_steps(cfg_with("SOLVER.EPOCHS", "2", "SOLVER.IMS_PER_BATCH", "4"), images=9).SOLVER.MAX_ITER == 6
    assert in_steps(cfg_with("SOLVER.MAX_ITER", "7"), images=9).SOLVER.MAX_ITER == 7
    kept = cfg_with("SOLVER.FREEZE_NORM_EPOCHS", "1.5", "SOLVER.IMS_PER_BATCH", "5")
    assert in_steps(kept, images=20).SOLVER.FREEZE_NORM_ITERS == 6
    assert in_steps(cfg_with("SOLVER.FREEZE_NORM_EPOCHS", "50"), images=256).SOLVER.FREEZE_NORM_ITERS == 30


def cfg_with(*overrides):
    return load_config(None, overrides)


def test_a_config_in_steps_leaves_the_original_alone():
    cfg = get_cfg()
    in_steps(cfg, 100)
    assert cfg.SOLVER.MAX_ITER == 0 and "STEPS" not in cfg.SOLVER


def test_twins_differ_in_the_architecture_alone():
    for name in ("resnet50", "resnet152"):
        plain, se = (load_config(FOLDER / f"places365_{prefix}{name}.yaml").clone() for prefix in ("", "se_"))
        assert (plain.MODEL.BACKBONE.ARCHITECTURE, se.MODEL.BACKBONE.ARCHITECTURE) == (name, f"se_{name}")
        for cfg in (plain, se):
            cfg.defrost()
            cfg.MODEL.BACKBONE.ARCHITECTURE = cfg.OUTPUT_DIR = ""
        assert plain == se


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["INPUT.TEST_SIZE", "300"], ["INPUT.TEST_SIZE 300", "INPUT.TEST_RESIZE"]),
        (["TEST.CROPS", "5"], ["TEST.CROPS"]),
        (["INPUT.SCALE", "[0.5, 0.1, 2]"], ["INPUT.SCALE"]),
        (["INPUT.SCALE", "[]"], ["INPUT.SCALE", "two"]),
        (["INPUT.SCALE", "[1.0, 0.08]"], ["INPUT.SCALE", "smaller first", "[1.0, 0.08]"]),
        (["INPUT.MIX_PROBABILITY", "3.0"], ["INPUT.MIX_PROBABILITY", "0..1", "3.0"]),
        (["SOLVER.HEAD_LR_FACTOR", "-1.0"], ["SOLVER.HEAD_LR_FACTOR", "-1.0"]),
        (["SOLVER.MAX_ITER", "-1"], ["SOLVER.MAX_ITER", "-1"]),
        (["SOLVER.IMS_PER_BATCH", "0"], ["SOLVER.IMS_PER_BATCH", "1 or more"]),
        (["SOLVER.STEP_EPOCHS", "[3]"], ["SOLVER.STEP_EPOCHS", "WarmupMultiStepLR"]),
        (["MODEL.HEAD", "old"], ["MODEL.HEAD"]),
        (["MODEL.BACKBONE.ARCHITECTURE", "resnet50", "MODEL.SE.GATE", "tanh"], ["MODEL.SE", "plain"]),
        (["SOLVER.STEPS", "(1,)"], ["SOLVER.STEPS", "SOLVER.STEP_EPOCHS"]),
        ([*PLATEAU, "DATA.VAL", ""], ["Plateau", "DATA.VAL is empty"]),
        (["SOLVER.PATIENCE", "3", "DATA.VAL", ""], ["SOLVER.PATIENCE 3 follows", "DATA.VAL is empty"]),
        (["SOLVER.PATIENCE", "3", "TEST.EVAL_EPOCHS", "0"], ["SOLVER.PATIENCE 3 follows", "TEST.EVAL_EPOCHS"]),
        ([*PLATEAU, "TEST.EVAL_EPOCHS", "0"], ["Plateau", "TEST.EVAL_EPOCHS", "0.0"]),
        ([*PLATEAU, "TEST.EVAL_EPOCHS", "30"], ["Plateau", "TEST.EVAL_EPOCHS", "below SOLVER.EPOCHS"]),
        ([*PLATEAU, "INPUT.TRAIN_SIZE_START", "96"], ["Plateau", "INPUT.TRAIN_SIZE_START"]),
        ([*PLATEAU, "SOLVER.FREEZE_NORM_EPOCHS", "1"], ["Plateau", "SOLVER.FREEZE_NORM_EPOCHS"]),
        (["SOLVER.FREEZE_NORM_EPOCHS", "1", "MODEL.BACKBONE.NORM", "GN"], ["SOLVER.FREEZE_NORM_EPOCHS", "GN"]),
    ],
)
def test_what_cannot_be_meant_is_an_error(overrides, words):
    with pytest.raises(UserError) as error:
        cfg_with(*overrides)
    for word in words:
        assert word in str(error.value)


def test_the_ends_of_the_ranges_may_be_meant():
    ends = ["SOLVER.HEAD_LR_FACTOR", "0", "INPUT.MIX_PROBABILITY", "0", "INPUT.SCALE", "[1.0, 1.0]"]
    cfg = cfg_with(*ends, "SOLVER.BASE_LR", "0", "SOLVER.EMA.DECAY", "1", "DATALOADER.NUM_WORKERS", "0")
    assert cfg.INPUT.SCALE == [1.0, 1.0] and cfg.SOLVER.BASE_LR == 0.0


def test_the_images_size_is_a_text_that_may_be_written_as_a_number(tmp_path):
    (tmp_path / "c.yaml").write_text("DATA: {IMAGES: 256}\n")
    assert load_config(tmp_path / "c.yaml").DATA.IMAGES == cfg_with("DATA.IMAGES", "256").DATA.IMAGES == "256"


@pytest.mark.parametrize("task", ["classification", "places365"])
def test_a_classifiers_checkpoint_holds_its_config_whichever_its_data_were(task):
    cfg = cfg_with("SEED", "7")
    assert config_from_checkpoint({"task": task, "config": cfg.dump()}) == cfg


def test_a_detectors_checkpoint_is_no_classifier():
    with pytest.raises(UserError, match="MODEL.WEIGHTS"):
        config_from_checkpoint({"task": "detection", "config": ""})
