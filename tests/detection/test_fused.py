"""Detectors with a fused network find what they found before."""

import copy

import pytest
import torch
from torch import nn

from detection import evaluate
from detection.config import load_config
from detection.evaluate import detect
from detection.fused import detector_for_inference
from detection.model import build_detector, with_classes
from detection.predict.predictor import Predictor
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from se_backbones import FusedBackbone, find_network, fuse
from tests.detection.conftest import CONFIGS as FOLDER
from tests.detection.test_predict import picture, small_config
from tests.se_backbones.networks import images, randomised

from detectron2.layers import Conv2d

ARCHITECTURE = ("MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "")
CONFIGS = ("faster_rcnn_se_r50", "faster_rcnn_se_r50_c4", "faster_rcnn_se_r50_dc5", "retinanet_se_r50")


def largest(found, expected):
    return max(((found[k].to(v) - v).abs().max() / v.abs().max()).item() for k, v in expected.items())


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_every_kind_of_detector_gets_the_same_maps(name):
    model = build_detector(load_config(FOLDER / f"{name}.yaml", ARCHITECTURE)).eval()
    randomised(find_network(model))
    fused, x = fuse(model), images(96, 128)
    assert isinstance(find_network(fused), FusedBackbone) and not isinstance(find_network(model), FusedBackbone)
    assert largest(fused.backbone(x), maps := model.backbone(x)) < 1e-5
    if name.endswith("c4"):
        x = maps["res4"]
        assert largest({"res5": fused.roi_heads.res5(x)}, {"res5": model.roi_heads.res5(x)}) < 1e-5


HEADS = {
    "faster_rcnn_se_r50": ["MODEL.FPN.NORM", "BN", "MODEL.ROI_BOX_HEAD.NUM_CONV", "1", "MODEL.ROI_BOX_HEAD.NORM", "BN"],
    "faster_rcnn_r50": ["MODEL.FPN.NORM", "GN"],
    "mask_rcnn_se_r50": ["MODEL.FPN.NORM", "FrozenBN"],
    "retinanet_se_r50": [],
}


@pytest.mark.parametrize("name", HEADS)
@torch.inference_mode()
def test_pyramids_and_heads_compute_the_same(name):
    """On Winograd's tiles where they fit, with their normalisation, wherever Detectron2 keeps them."""
    words = [*ARCHITECTURE, *HEADS[name], "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18" if "se" in name else "resnet18"]
    model = build_detector(with_classes(load_config(FOLDER / f"{name}.yaml", words), 3, "a test")).eval()
    for part in (model.backbone, getattr(model, "head", None) or model.proposal_generator.rpn_head):
        randomised(part)
    fast, x = detector_for_inference(model), images(96, 128)
    left = [path for path, module in fast.named_modules() if type(module) in (nn.Conv2d, Conv2d)]
    assert all(module.norm is not None for module in map(fast.get_submodule, left)) and bool(left) == (
        name == "faster_rcnn_r50"
    )
    expected = model.backbone(x)
    assert largest(fast.backbone(x), expected) < 1e-5
    maps = list(expected.values())
    if name == "retinanet_se_r50":
        pairs = zip(sum(fast.head(maps), []), sum(model.head(maps), []), strict=True)
    else:
        pairs = zip(*(sum(one.proposal_generator.rpn_head(maps), []) for one in (fast, model)), strict=True)
    assert max(largest({"": ours}, {"": theirs}) for ours, theirs in pairs) < 1e-5
    if name == "mask_rcnn_se_r50":
        for count in (3, 0):  # no object in the image
            features = images(14, 14, count=3)[:count, :1].expand(-1, 256, -1, -1)
            ours, theirs = (one.roi_heads.mask_head.layers(features) for one in (fast, model))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * (theirs.abs().max() if count else 1))


def detector():
    model = build_detector(small_config()).eval()
    with torch.no_grad():
        for parameter in model.roi_heads.box_predictor.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@torch.inference_mode()
def test_a_prediction_is_the_detectors_own_up_to_rounding():
    model, pictures = detector(), [picture(90, 120), picture(120, 90, 1)]
    predictor = Predictor(model, small_config(), ["a", "b", "c"], threshold=0.1)
    exact = copy.copy(predictor)
    exact.model = model
    for ours, theirs in zip(predictor.predict(pictures), exact.predict(pictures), strict=True):
        assert len(ours.scores) == len(theirs.scores) > 0 and (ours.classes == theirs.classes).all()
        assert abs(ours.scores - theirs.scores).max() < 1e-4 and abs(ours.boxes - theirs.boxes).max() < 1e-2
    again = copy.copy(predictor)
    again.model = detector_for_inference(predictor.model)  # what is fused stays so
    assert (again.predict(pictures[:1])[0].scores == predictor.predict(pictures[:1])[0].scores).all()


@torch.inference_mode()
def test_a_prediction_in_bf16():
    predictor = Predictor(detector(), small_config(), ["a", "b", "c"], threshold=0.1, precision="bf16")
    seen = []
    predictor.model.backbone.register_forward_hook(lambda module, inputs, maps: seen.append(maps["p2"].dtype))
    (found,) = predictor.predict([picture(90, 120)])
    assert seen == [torch.bfloat16] and len(found.scores) and found.scores.dtype == "float32"
    with pytest.raises(UserError, match="precision must be one of"):
        Predictor(detector(), small_config(), ["a"], precision="half")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_evaluation_is_fused_and_in_a_precision_where_it_is_asked_for(fused, precision, monkeypatch):
    cfg = small_config(**{"TEST.FUSE": fused, "TEST.PRECISION": precision})
    model, seen = detector(), []

    class Data:
        category_ids = (1, 2, 3)

        def records(self):
            return [None]

    def run(module, inputs, maps):
        seen.append((any(isinstance(part, FusedBackbone) for part in module.modules()), maps["p2"].dtype))

    model.backbone.register_forward_hook(run)  # goes with the copy, too
    image = {"image": torch.zeros(3, 64, 64), "height": 64, "width": 64, "image_id": 5}
    monkeypatch.setattr(evaluate, "test_batches", lambda records, cfg: [[image]])
    results = detect(model, Data(), cfg)
    assert seen == [(fused, torch.bfloat16 if precision == "bf16" else torch.float32)]
    assert all(result["image_id"] == 5 for result in results)
