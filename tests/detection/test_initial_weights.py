"""The weights a detector starts from."""

import json

import pytest
import torch

from detection.data import test_batches as batches_for_test
from detection.initial_weights import load_initial_weights
from detection.model import build_detector, with_classes
from detection.task_info import DETECTION
from detection.train import Options, describe, run_detection
from engine.errors import UserError
from engine.run.initial_weights import published_for, restore_weights
from engine.train.checkpoint import load_checkpoint, save_checkpoint
from engine.train.optim import build_optimizer
from se_backbones import create_backbone
from se_backbones.weights import IMAGENET_RGB, WeightsError


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


# --- MODEL.SE.INSERT

PLAIN = ["MODEL.BACKBONE.ARCHITECTURE", "resnet18", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
INSERT = ["MODEL.SE.INSERT", "True", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
C4 = [
    "MODEL.BACKBONE.NAME", "build_se_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res4']",
    "MODEL.ROI_HEADS.NAME", "SERes5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", "['res4']",
    "MODEL.RPN.IN_FEATURES", "['res4']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[12, 24, 48]]",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "14",
]  # fmt: skip


@pytest.fixture
def plain_checkpoint(tiny, val_data, tmp_path):
    """(*overrides) → a plain detector with statistics as after a training, and its checkpoint."""

    def make(*overrides):
        model, cfg = detector(tiny, *PLAIN, *overrides)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif name.endswith("running_mean"):
                    tensor.normal_(0, 0.1)
        content = {**describe(cfg, val_data), "iteration": 1, "model": model.state_dict()}
        return model, save_checkpoint(tmp_path / "plain.pth", content)

    return make


@pytest.mark.parametrize("form", [[], C4], ids=["fpn", "c4"])
def test_a_plain_detectors_checkpoint_becomes_its_se_twin(tiny, plain_checkpoint, val_data, tmp_path, form):
    plain, path = plain_checkpoint(*form)
    model, cfg = detector(tiny, *INSERT, *form, "MODEL.WEIGHTS", str(path), "MODEL.SE.REDUCTION", "8")
    load_initial_weights(model, cfg, tmp_path)
    batch = next(iter(batches_for_test(val_data.records()[:2], cfg)))
    with torch.no_grad():
        for ours, theirs in zip(model(batch), plain(batch), strict=True):
            assert len(ours["instances"]) > 0
            assert torch.equal(ours["instances"].pred_boxes.tensor, theirs["instances"].pred_boxes.tensor)
            assert torch.equal(ours["instances"].scores, theirs["instances"].scores)
    gates = [name for name in model.state_dict() if ".se." in name]
    assert len(gates) == 8 * 4 and (not form or any(name.startswith("roi_heads.res5.0.se") for name in gates))
    report = json.loads((tmp_path / "weights_report.json").read_text())
    assert "SE inserted into 8 units" in report["notes"][-1] and "reduction 8" in report["notes"][-1]
    assert report["missing"] == report["unexpected"] == report["wrong_shape"] == [] and report["allowed"] == {}
    assert sorted(name for name in report["derived"] if ".se." in name) == sorted(gates)


def test_a_classifiers_plain_backbone_takes_se_too(tiny, tmp_path):
    torch.manual_seed(7)
    source = create_backbone("resnet18", 10).eval()
    path = tmp_path / "plain.pth"
    torch.save({"architecture": "resnet18", "state_dict": source.state_dict()}, path)
    model, cfg = detector(tiny, *INSERT, "MODEL.WEIGHTS", str(path))
    load_initial_weights(model, cfg, tmp_path)
    assert len(json.loads((tmp_path / "weights_report.json").read_text())["warnings"]) == 1  # others have these names
    image = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    source = source.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for name, value in model.backbone.bottom_up.net.forward_features(image).items():
            assert torch.equal(value, source.forward_features(image)[name])
    stated = [*INSERT, "MODEL.WEIGHTS", str(path), "MODEL.WEIGHTS_NETWORK"]
    load_initial_weights(*detector(tiny, *stated, "resnet18"), tmp_path)
    assert json.loads((tmp_path / "weights_report.json").read_text())["warnings"] == []
    with pytest.raises(UserError, match="is of no resnet34"):
        load_initial_weights(*detector(tiny, *stated, "resnet34"), tmp_path)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["MODEL.SE.PLACEMENT", "post"], "'post'.*gate='relu'"),
        (["MODEL.SE.GATE", "tanh"], "tanh"),
        (["MODEL.BACKBONE.ARCHITECTURE", "resnet18"], "MODEL.BACKBONE.ARCHITECTURE se_resnet18"),
        (["MODEL.SE.GATE", "relu"], r"weight decay \(0.05\).*SOLVER.WEIGHT_DECAY_BIAS 0.0"),
        (["MODEL.SE.WITHOUT", "layer4.2"], "no unit layer4.2"),
    ],
)
def test_settings_that_cannot_start_where_the_plain_network_stopped_are_refused(tiny, overrides, words):
    with pytest.raises(UserError, match=words):
        tiny(*INSERT, *overrides)


def test_weights_with_se_and_no_weights_are_refused(tiny, classifier, tmp_path):
    model, cfg = detector(tiny, *INSERT, "MODEL.WEIGHTS", str(classifier[1]))
    with pytest.raises(UserError, match="hold squeeze-and-excitation already.*MODEL.SE.INSERT False"):
        load_initial_weights(model, cfg, tmp_path)
    with pytest.raises(UserError, match="MODEL.WEIGHTS FILE"):
        load_initial_weights(model, detector(tiny, *INSERT)[1], tmp_path)


def test_pretrained_is_the_plain_architectures():
    assert published_for("se_resnet18", insert=True) == "torchvision://resnet18"
    assert published_for("resnet50_msra", insert=True) == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert published_for("se_resnet50", insert=False) == "timm://seresnet50.ra2_in1k"
    with pytest.raises(WeightsError, match="no plain network is se_resnet50_caffe without SE"):
        published_for("se_resnet50_caffe", insert=True)


def test_an_msra_network_has_no_se_row_and_takes_se_under_its_own_name(tiny):
    cfg = tiny(*INSERT, "MODEL.BACKBONE.ARCHITECTURE", "resnet50_msra", "MODEL.SE.STAGES", "[4, 5]")
    net = build_detector(with_classes(cfg, 5, "test")).backbone.bottom_up.net
    gated = {name.split(".")[0] for name, _ in net.named_parameters() if ".se." in name}
    assert gated == {"layer3", "layer4"} and net.spec.hyper.stride_in_1x1


def test_decay_kept_off_biases_leaves_an_inserted_relu_gate_at_one(tiny, plain_checkpoint, tmp_path):
    _, path = plain_checkpoint()
    relu = ["MODEL.SE.GATE", "relu", "MODEL.SE.PLACEMENT", "post", "SOLVER.WEIGHT_DECAY_BIAS", "0.0"]
    model, cfg = detector(tiny, *INSERT, *relu, "MODEL.WEIGHTS", str(path))
    load_initial_weights(model, cfg, tmp_path)
    before = model.proposal_generator.rpn_head.conv.weight.clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, cfg.SOLVER).step()
    assert not torch.equal(model.proposal_generator.rpn_head.conv.weight, before)  # decay was at work
    biases = [p for name, p in model.named_parameters() if name.endswith("se.fc2.bias")]
    assert len(biases) == 8 and all((bias == 1).all() for bias in biases)


def test_only_a_trainings_beginning_inserts(tiny, plain_checkpoint, tmp_path):
    """Resumed, evaluated or loaded by name, the run's own weights are taken as they are."""
    plain, path = plain_checkpoint()
    cfg = tiny(*INSERT, "MODEL.WEIGHTS", str(path), "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu")
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    first = ["SOLVER.MAX_ITER", "1", "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "1e-6", "LOG_PERIOD", "1"]
    run_detection(Options(str(config), first))
    trained = load_checkpoint(tmp_path / "run" / "model_final.pth")
    norm = trained["model"]["backbone.bottom_up.net.layer1.0.bn2.weight"]
    torch.testing.assert_close(norm, 2 * plain.backbone.bottom_up.net.layer1[0].bn2.weight, rtol=1e-3, atol=1e-3)
    run_detection(Options(str(config), first, resume=True))
    resumed = load_checkpoint(tmp_path / "run" / "model_final.pth")["model"]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in trained["model"].items())
    model = build_detector(with_classes(cfg, 5, "test"))
    restore_weights(model, trained, "final", cfg, DETECTION)
    assert torch.equal(model.backbone.bottom_up.net.layer1[0].bn2.weight, norm)
