"""Weights of other programs in a detection run: Detectron2's own detectors, and what a config may not contradict."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from detection.config import load_config
from detection.initial_weights import load_initial_weights
from detection.model import build_detector, with_classes
from detection.train import Options, run_detection
from engine.errors import UserError
from se_backbones import create_backbone

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"
TINY = [
    "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip

STAGES = ["res2", "res3", "res4", "res5"]  # of Detectron2's own ResNet


def randomise(model):
    """Away from every first value, and tame enough for boxes to stay in the image."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.dim() == 1:
                tensor.add_(torch.empty_like(tensor).uniform_(-0.2, 0.2, generator=generator))
    return model.eval()


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_whole_detector_of_detectron2_computes_the_same_here(suffix, tiny, tmp_path):
    """Backbone, FPN, RPN and heads from its own checkpoint, or from the .pkl of its model zoo."""
    common = ("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    own = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", "18")
    own = (*own, "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.OUT_FEATURES", f"{STAGES}")
    with pytest.raises(UserError, match="build_resnet_fpn_backbone does not: name the stages"):
        build_detector(with_classes(tiny(*common, *own), 5, "test"))
    cfg = with_classes(tiny(*common, *own, "MODEL.FPN.IN_FEATURES", f"{STAGES}"), 5, "test")
    theirs = randomise(build_detector(cfg))
    state = theirs.state_dict()
    assert "backbone.bottom_up.res2.0.conv1.norm.running_var" in state
    path = tmp_path / f"model_final{suffix}"
    if suffix == ".pth":
        torch.save({"model": state, "optimizer": {"param_groups": [{"lr": 0.1}]}, "iteration": 9}, path)
    else:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))

    cfg = tiny(*common, "MODEL.BACKBONE.ARCHITECTURE", "resnet18", "MODEL.WEIGHTS", str(path))
    ours = build_detector(with_classes(cfg, 5, "test"))
    load_initial_weights(ours, cfg, tmp_path)
    report = json.loads((tmp_path / "weights_report.json").read_text())
    assert report["layout"] == "detectron2-model" and len(report["loaded"]) == len(ours.state_dict())
    assert not report["missing"] and not report["unexpected"] and not report["allowed"]

    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        first, second = (model.eval()([{"image": image.float()}])[0]["instances"] for model in (ours, theirs))
    assert len(first) == len(second) > 0
    assert torch.equal(first.pred_classes, second.pred_classes)
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(first.scores, second.scores, rtol=1e-4, atol=1e-6)


def test_a_config_that_contradicts_the_weights_ends_the_run_before_it_trains(shapes, tmp_path):
    rgb = {"channel_order": "RGB", "scale": 1, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    content = {"format": "se-backbones-checkpoint/1", "task": "places365", "backbone": "se_resnet18"}
    state = create_backbone("se_resnet18", 3).state_dict()
    torch.save({**content, "model": state, "preprocessing": rgb}, tmp_path / "w.pth")
    paths = [
        "DATA.TRAIN.JSON", str(shapes.train_json), "DATA.TRAIN.IMAGES", str(shapes.train_images),
        "DATA.VAL.JSON", str(shapes.val_json), "DATA.VAL.IMAGES", str(shapes.val_images), "MODEL.DEVICE", "cpu",
    ]  # fmt: skip
    words = [*paths, *TINY, "MODEL.WEIGHTS", str(tmp_path / "w.pth"), "OUTPUT_DIR", str(tmp_path / "run")]
    both = r"(?s)RGB 0–1, mean \[0\.485, 0\.456, 0\.406\].*the config gives {}"
    for change, given in (
        (["INPUT.FORMAT", "BGR"], "BGR 0–255, mean \\[123"),
        (["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]"], "RGB 0–255, mean \\[127"),
        (["MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"], r"RGB 0–255, mean \[123\S+ \S+ \S+ std \[1, 1, 1\]"),
    ):
        with pytest.raises(UserError, match=both.format(given)):
            run_detection(Options(config=str(CONFIG), overrides=[*words, *change], overwrite=True))
        assert not list((tmp_path / "run").glob("*.pth")) and not (tmp_path / "run" / "result.json").exists()
    # Whoever knows better says so, and the report keeps it.
    allowed = [*words, "INPUT.FORMAT", "BGR", "MODEL.ALLOW", "['preprocessing']", "SOLVER.MAX_ITER", "1"]
    run_detection(Options(config=str(CONFIG), overrides=allowed, overwrite=True))
    report = json.loads((tmp_path / "run" / "weights_report.json").read_text())
    assert any("BGR" in warning for warning in report["warnings"])
    assert load_config(tmp_path / "run" / "config.yaml").INPUT.FORMAT == "BGR"
