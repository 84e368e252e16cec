"""The two tasks share their backbones: what one trains, the other starts from, every name accounted for."""

import json
from pathlib import Path

import pytest
import torch

from detection.config import load_config as load_detection_config
from detection.initial_weights import load_initial_weights as start_detector
from detection.model import build_detector, load_detector, with_classes
from detection.shapes import generate_shapes
from detection.train import Options as DetectionOptions
from detection.train import run_detection
from places365.config import load_config as load_scene_config
from places365.initial_weights import load_initial_weights as start_classifier
from places365.model import build_network, load_classifier
from places365.train import Options as SceneOptions
from places365.train import run_places365

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
def classifier(tmp_path_factory, write_scenes):
    """The final weights of a trained scene classifier."""
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), {"train": 4, "val": 4}, ("beach", "street"))
    words = [*SCENES, "DATA.ROOT", str(folder), "DATA.CACHE", str(folder / "cache"), "OUTPUT_DIR", str(folder / "run")]
    run_places365(SceneOptions(config=None, overrides=words))
    return folder / "run" / "model_final.pth"


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
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
