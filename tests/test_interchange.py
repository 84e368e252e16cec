"""The two tasks share their backbones: what one trains, the other starts from, every name accounted for."""

import json
from pathlib import Path

import pytest
import torch

from classification.config import load_config as load_scene_config
from classification.initial_weights import load_initial_weights as start_classifier
from classification.model import build_network
from classification.trained import load_classifier
from detection.config import load_config as load_detection_config
from detection.initial_weights import load_initial_weights as start_detector
from detection.model import build_detector, with_classes
from detection.task_info import DETECTION as DETECTION_TASK
from detection.train import Options as DetectionOptions
from detection.train import run_detection
from detection.trained import load_detector
from engine.errors import UserError
from engine.run.experiment import description
from engine.train.checkpoint import save_checkpoint
from places365.train import Options as SceneOptions
from places365.train import run_places365
from synthetic.shapes import generate_shapes

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCENES = [
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "INPUT.TRAIN_SIZE", "32",
    "INPUT.TEST_RESIZE", "32", "INPUT.TEST_SIZE", "32", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "2",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip
DETECTION = [
    "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "4",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


def features(network, image):
    with torch.inference_mode():
        return network.eval().forward_features(image)


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, write_scenes, runs_in_this_process):
    """The final weights of a trained scene classifier."""
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), {"train": 4, "val": 4}, ("beach", "street"))
    words = [*SCENES, "DATA.ROOT", str(folder), "DATA.CACHE", str(folder / "cache"), "OUTPUT_DIR", str(folder / "run")]
    run_places365(SceneOptions(config=None, overrides=words))
    return folder / "run" / "model_final.pth"


@pytest.fixture(scope="module")
def detector(tmp_path_factory, runs_in_this_process):
    """The final weights of a trained detector."""
    folder = tmp_path_factory.mktemp("shapes")
    shapes = generate_shapes(folder / "shapes", train=4, val=2, size=64)
    words = [
        "DATA.TRAIN.JSON", str(shapes.train_json), "DATA.TRAIN.IMAGES", str(shapes.train_images),
        "DATA.VAL.JSON", str(shapes.val_json), "DATA.VAL.IMAGES", str(shapes.val_images),
        *DETECTION, "OUTPUT_DIR", str(folder / "run"),
    ]  # fmt: skip
    run_detection(DetectionOptions(config=str(CONFIGS / "demo.yaml"), overrides=words))
    return folder / "run" / "model_final.pth"


def accounted(report, loaded, missing, unexpected):
    assert set(report["loaded"]) == loaded
    assert set(report["missing"]) | set(report["derived"]) == missing  # derived: a new norm's count of batches
    assert set(report["unexpected"]) == unexpected


def test_a_scene_classifier_starts_a_detector(classifier, image, tmp_path):
    scenes = load_classifier(classifier, device="cpu")[0].network
    cfg = load_detection_config(CONFIGS / "demo.yaml", [*DETECTION, "MODEL.WEIGHTS", str(classifier)])
    model = build_detector(with_classes(cfg, 5, "here"))
    start_detector(model, cfg, tmp_path)
    net = model.backbone.bottom_up.net
    theirs = features(scenes, image)
    for name, ours in features(net, image).items():
        assert torch.equal(ours, theirs[name]), name
    names = set(model.state_dict())
    backbone = {f"backbone.bottom_up.net.{name}" for name in net.state_dict()}
    accounted(
        json.loads((tmp_path / "weights_report.json").read_text()),
        loaded=backbone,
        missing=names - backbone,
        unexpected={"fc.weight", "fc.bias"},
    )


def test_a_detector_starts_a_scene_classifier(detector, image, tmp_path):
    trained = load_detector(detector, device="cpu")[0]
    cfg = load_scene_config(None, [*SCENES, "MODEL.WEIGHTS", str(detector)])
    network = build_network(cfg, 3)
    head = network.fc.weight.clone()
    start_classifier(network, cfg, tmp_path, ["a", "b", "c"])
    theirs = features(trained.backbone.bottom_up.net, image)
    for name, ours in features(network, image).items():
        if name in theirs:  # the detector has no use for the stem
            assert torch.equal(ours, theirs[name]), name
    assert {"res2", "res3", "res4", "res5"} <= set(theirs)
    assert torch.equal(network.fc.weight, head), "the new classifier is the one that was initialised"
    own = {name for name in network.state_dict() if not name.startswith("fc.")}
    parts = {name for name in trained.state_dict() if not name.startswith("backbone.bottom_up.net.")}
    report = json.loads((tmp_path / "weights_report.json").read_text())
    accounted(report, loaded=own, missing=set(), unexpected=parts & set(report["unexpected"]))
    assert parts - set(report["unexpected"]) <= set(report["ignored"]), "a name of the detector is not accounted for"


def save_detector(path, config, *overrides):
    """An untrained detector of a published config, on se_resnet18, and its checkpoint. No two tensors are alike."""
    words = [*DETECTION, "MODEL.WEIGHTS", "", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "SEED", "3", *overrides]
    cfg = with_classes(load_detection_config(CONFIGS / config, words), 2, "here")
    model = build_detector(cfg).eval()
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:  # of a normalisation, or a bias
            tensor.uniform_(0.5, 1.5, generator=generator)
    return model, save_checkpoint(path, {**description(DETECTION_TASK, cfg, ["a", "b"]), "model": model.state_dict()})


@pytest.mark.parametrize(
    "config, overrides",
    [
        ("faster_rcnn_se_r50.yaml", ()),
        ("faster_rcnn_se_r50_c4.yaml", ()),
        # Dilation leaves no mark on the weights; without it both compute the same.
        ("faster_rcnn_se_r50_dc5.yaml", ("MODEL.RESNETS.RES5_DILATION", "1")),
        ("retinanet_se_r50.yaml", ()),
    ],
    ids=("fpn", "c4", "dc5", "retinanet"),
)
def test_a_detector_of_any_form_starts_a_scene_classifier(config, overrides, image, tmp_path):
    detector, path = save_detector(tmp_path / "detector.pth", config, *overrides)
    net = getattr(detector.backbone, "bottom_up", detector.backbone).net
    theirs = features(net, image)
    backbone = {name for name in detector.state_dict() if name.startswith("backbone.") and ".net." in name}
    if "res5" not in theirs:  # C4: the ROI heads have it
        backbone |= {name for name in detector.state_dict() if name.startswith("roi_heads.res5.")}
        with torch.inference_mode():
            theirs["res5"] = detector.roi_heads.res5(theirs["res4"])
    cfg = load_scene_config(None, [*SCENES, "MODEL.WEIGHTS", str(path)])
    network = build_network(cfg, 3)
    start_classifier(network, cfg, tmp_path, ["a", "b", "c"])
    ours = features(network, image)
    for name in theirs:  # the detector's normalisation is frozen, which rounds otherwise
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
    report = json.loads((tmp_path / "weights_report.json").read_text())
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    own = {name for name in network.state_dict() if not name.startswith("fc.")}
    rest = set(detector.state_dict()) - backbone
    accounted(report, loaded=own - counters, missing=counters, unexpected=rest)
    assert set(report["converted"].values()) == backbone


def test_a_stage_in_the_roi_heads_must_fit_as_any_other(tmp_path):
    _, path = save_detector(tmp_path / "detector.pth", "faster_rcnn_se_r50_c4.yaml")
    words = [*SCENES, "MODEL.WEIGHTS", str(path), "MODEL.SE.WITHOUT", "['layer4.1']"]
    cfg = load_scene_config(None, words)
    with pytest.raises(UserError, match=r"units without SE are none in the file and layer4\.1 in the model") as refused:
        start_classifier(build_network(cfg, 3), cfg, tmp_path, ["a", "b", "c"])
    message = str(refused.value)
    assert "4 names are unaccounted for" in message and "roi_heads.res*.*.se.fc*.weight ×2" in message
    assert "allow the rest" not in message  # it is allowed
