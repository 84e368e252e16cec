"""Detectors: what must not depend on batch, precision or copying."""

import copy

import pytest
import torch

from detection.data import same_size_batches
from detection.data import test_batches as batches_for_test
from detection.model import build_detector, with_classes
from detection.task_info import DETECTION
from detection.trained import load_detector
from engine.errors import UserError
from engine.run.initial_weights import restore_weights
from engine.train.checkpoint import save_checkpoint


@pytest.fixture
def detector(tiny):
    cfg = with_classes(tiny("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"), 5, "test")
    return build_detector(cfg).eval(), cfg


def test_batched_equals_single(detector, val_data):
    model, cfg = detector
    batch = list(batches_for_test(val_data.records()[:3], cfg))
    images = [image for part in batch for image in part]
    with torch.no_grad():
        together = model(images)
        alone = [model([image])[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(
            a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor, rtol=1e-3, atol=1e-2
        )
        torch.testing.assert_close(a["instances"].scores, b["instances"].scores, rtol=1e-3, atol=1e-4)


def test_evaluation_batches_hold_one_size_each():
    records = [{"height": 64, "width": width} for width in (64, 65, 64, 64, 64, 64, 64)]
    assert same_size_batches(records, 3) == [[0], [1], [2, 3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.RPN.IN_FEATURES", "['p2', 'res4']", "p2, p3, p4, p5 or p6; got"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "['p9']", "p2, p3, p4, p5 or p6; got"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "[]", "1 at least"),
        ("MODEL.BACKBONE.NAME", "build_se_fpn", "the nearest names are build_se_fpn_backbone"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64]]", "cannot build the GeneralizedRCNN"),
        ("MODEL.FPN.IN_FEATURES", "['res4', 'res2']", "a feature pyramid wants maps of twice the stride"),
        ("MODEL.FPN.NORM", "GN", "cannot build the GeneralizedRCNN"),  # 32 groups, and 16 channels here
    ],
)
def test_what_cannot_be_built_is_said_by_its_key(tiny, key, value, said):
    cfg = with_classes(tiny("MODEL.DEVICE", "cpu", key, value), 5, "test")
    with pytest.raises(UserError) as raised:
        build_detector(cfg)
    assert said in str(raised.value) and (key in str(raised.value) or "MODEL.…" in str(raised.value))


def test_the_same_seed_gives_the_same_first_weights(detector):
    model, cfg = detector
    torch.rand(5)
    again = build_detector(cfg)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_boxes_and_scores_stay_in_float32_under_autocast(detector, val_data):
    model, cfg = detector
    seen = {}
    model.roi_heads.box_pooler.register_forward_hook(lambda m, args, out: seen.update(pooled=out.dtype))
    model.roi_heads.box_predictor.register_forward_hook(lambda m, args, out: seen.update(scores=out[0].dtype))
    model.backbone.register_forward_hook(lambda m, args, out: seen.update(maps=out["p2"].dtype))
    image = next(iter(batches_for_test(val_data.records()[:1], cfg)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(image)
    assert seen == {"maps": torch.bfloat16, "pooled": torch.float32, "scores": torch.float32}


def test_a_copy_uses_its_own_weights(detector, val_data):
    """As averaged weights do: a copy that called the original's forward would go unnoticed."""
    model, cfg = detector
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.roi_heads.box_predictor.parameters():
            p.zero_()
        found = twin(next(iter(batches_for_test(val_data.records()[:1], cfg))))[0]["instances"]
    assert torch.allclose(found.scores, torch.full_like(found.scores, 1 / 6))


def test_a_checkpoint_brings_its_config_and_classes(detector, tmp_path):
    model, cfg = detector
    content = {"task": "detection", "model": model.state_dict(), "config": cfg.dump(), "iteration": 3}
    classes = {"classes": list("abcde"), "category_ids": [1, 2, 4, 7, 9]}
    path = save_checkpoint(tmp_path / "model_final.pth", {**content, **classes})
    loaded, loaded_cfg, classes, ids = load_detector(path, device="cpu")
    assert classes == list("abcde") and ids == [1, 2, 4, 7, 9] and not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_weights_that_do_not_fit_change_nothing(detector):
    model, cfg = detector
    state = model.state_dict()
    before = {k: v.clone() for k, v in state.items()}
    wrong = {k: v + 1 for k, v in state.items()}
    wrong["extra"] = wrong.pop("roi_heads.box_predictor.cls_score.weight")
    with pytest.raises(UserError, match="(?s)file.pth does not fit the config.*cls_score.weight.*extra"):
        restore_weights(model, {"model": wrong}, "file.pth", cfg, DETECTION)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
