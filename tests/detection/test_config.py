"""Detection configs: values out of their range are errors, and a run's advice names this room's keys."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detection import train
from detection.config import load_config
from engine.errors import UserError
from engine.train.schedule import build_schedule


@pytest.mark.parametrize(
    "key, value",
    [
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.MAX_ITER", "0"),
        ("INPUT.MAX_PIXELS", "-1"),
        *(("INPUT.FORMAT", order) for order in ("L", "YUV-BT.601", "rgb", "RGBA", "")),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=f"^{key} "):
        load_config(None, [key, value])


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR", "Plateau"])
def test_every_schedule_that_is_let_pass_can_be_built(name):
    cfg = load_config(None, ["SOLVER.LR_SCHEDULER_NAME", name, "TEST.EVAL_PERIOD", "100"])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    build_schedule(cfg, optimizer)


@pytest.mark.parametrize("period", ["0", "40000", "50000"])
def test_a_schedule_that_follows_the_evaluations_wants_some_before_the_end(period):
    for name, setting in (("Plateau", "SOLVER.LR_SCHEDULER_NAME Plateau"), ("PATIENCE 3", "SOLVER.PATIENCE 3")):
        with pytest.raises(UserError, match=rf"{name} .*TEST\.EVAL_PERIOD .*below SOLVER\.MAX_ITER 40000"):
            load_config(None, [*setting.split(), "TEST.EVAL_PERIOD", period])


@pytest.mark.usefixtures("runs_in_this_process")
def test_a_detector_that_gets_no_better_ends_early_and_is_whole(tiny, tmp_path):
    """By AP: the first evaluation is the best, at the second the rate drops, and the third is the end."""
    words = [
        "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.LR_SCHEDULER_NAME", "Plateau",
        "SOLVER.PLATEAU.PATIENCE", "1", "SOLVER.PLATEAU.DROPS", "1", "SOLVER.PLATEAU.THRESHOLD", "1000.0",
        "TEST.EVAL_PERIOD", "1", "SOLVER.MAX_ITER", "9", "LOG_PERIOD", "1", "SOLVER.WARMUP_ITERS", "0",
    ]  # fmt: skip
    (tmp_path / "config.yaml").write_text(tiny(*words).dump())
    result = train.run_detection(train.Options(config=str(tmp_path / "config.yaml")))
    assert result["iteration"] == 3 and "AP" in result["bbox"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [round(row["lr"], 6) for row in rows] == [0.01, 0.01, 0.001]


def test_the_advice_for_a_loss_that_is_not_finite_names_detections_keys(tiny, tmp_path, monkeypatch):
    class Made(Exception):
        pass

    def keep(start, trainer, task, *_):
        raise Made(task)

    cfg = tiny("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(train.experiment, "train", keep)
    with pytest.raises(Made) as made:
        train._train(train.Options(), cfg, torch.device("cpu"))
    task = made.value.args[0]
    assert "SOLVER.WARMUP_ITERS" in task.advice and "annotations" in task.advice
    assert task.name_images([{"image_id": 3, "file_name": "a.png"}]) == "3 (a.png)"


@pytest.mark.parametrize(
    ("size", "overrides", "side"),
    [
        ((40, 80), ("INPUT.MIN_SIZE_TRAIN", "(32, 64)"), 64),
        ((40, 80), ("INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.MAX_SIZE_TRAIN", "48"), 64),
        ((40, 40), ("INPUT.MIN_SIZE_TRAIN", "(32,)"), 32),
        ((40, 80), ("INPUT.MIN_SIZE_TRAIN", "0"), 96),
        ((40, 80), ("INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.CROP.ENABLED", "True"), 32),
    ],
)
def test_the_smallest_image_is_that_of_the_smallest_size_padded(size, overrides, side):
    """Its map is 1×1 at stride 32 where its longer side is 32."""
    data = SimpleNamespace(coco={"images": [{"width": 500, "height": 400}, {"width": size[1], "height": size[0]}]})
    assert train._smallest_side(data, load_config(None, overrides), 32) == side
