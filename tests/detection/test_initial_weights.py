"""The weights a detector starts from."""

import json

import pytest
import torch

from detection.initial_weights import load_initial_weights
from detection.model import build_detector, with_classes
from engine.checkpoint import save_checkpoint
from engine.errors import UserError
from se_backbones import create_backbone
from se_backbones.weights import IMAGENET_RGB


@pytest.fixture
def classifier(tmp_path):
    """A classifier's file with what it was trained on inside."""
    torch.manual_seed(7)
    model = create_backbone("se_resnet18", 10)
    content = {"task": "places365", "backbone": "se_resnet18", "model": model.state_dict(), "iteration": 1}
    rgb = {"channel_order": "RGB", "scale": 1, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    path = save_checkpoint(
        tmp_path / "classifier.pth", {**content, "preprocessing": rgb, "classes": list("abcdefghij")}
    )
    return model.eval(), path


def detector(tiny, *overrides):
    cfg = with_classes(tiny("MODEL.DEVICE", "cpu", *overrides), 5, "test")
    return build_detector(cfg).eval(), cfg


def test_a_classifiers_backbone_becomes_the_detectors(tiny, classifier, tmp_path):
    source, path = classifier
    model, cfg = detector(tiny, "MODEL.WEIGHTS", str(path))
    image = torch.randn(1, 3, 64, 64)
    net = model.backbone.bottom_up.net
    with torch.no_grad():
        assert not torch.allclose(net.forward_features(image)["res5"], source.forward_features(image)["res5"])
        load_initial_weights(model, cfg, tmp_path)
        for name, value in net.forward_features(image).items():
            torch.testing.assert_close(value, source.forward_features(image)[name], rtol=1e-5, atol=1e-5)
    report = json.loads((tmp_path / "weights_report.json").read_text())
    assert len(report["loaded"]) >= 120


def test_weights_trained_on_another_preprocessing_are_refused(tiny, classifier, tmp_path):
    _, path = classifier
    model, cfg = detector(tiny, "MODEL.WEIGHTS", str(path), "INPUT.FORMAT", "BGR")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match="(?s)BGR.*RGB|RGB.*BGR"):
        load_initial_weights(model, cfg, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_architectures_weights_are_refused(tiny, classifier, tmp_path):
    _, path = classifier
    model, cfg = detector(tiny, "MODEL.WEIGHTS", str(path), "MODEL.BACKBONE.ARCHITECTURE", "resnet18")
    with pytest.raises(UserError, match="squeeze-and-excitation and the model has none"):
        load_initial_weights(model, cfg, tmp_path)


def test_imagenet_preprocessing_is_the_configs_default(tiny):
    _, cfg = detector(tiny)
    scaled = [255 * value for value in IMAGENET_RGB.as_dict()["mean"]]
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx(scaled) and cfg.INPUT.FORMAT == "RGB"


def test_pretrained_without_published_weights_says_which_variant_has_some(tiny, tmp_path):
    model, cfg = detector(tiny, "MODEL.WEIGHTS", "pretrained")
    with pytest.raises(UserError, match="se_resnet18_caffe"):
        load_initial_weights(model, cfg, tmp_path)
