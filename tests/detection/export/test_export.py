"""Detectors written as files and run from them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detection.config import load_config
from detection.export.export import difference, export_detector
from detection.model import with_classes
from detection.predict.predictor import Predictor
from engine.errors import UserError
from engine.export.formats import FORMATS
from engine.export.options import Options
from engine.train.checkpoint import save_checkpoint
from tests import exports
from tests.detection.conftest import CONFIGS
from tests.detection.export.test_graph import SMALL, detector
from tests.detection.test_predict import picture

FEW_LEVELS = [
    "MODEL.FPN.IN_FEATURES", "['res4', 'res5']", "MODEL.RPN.IN_FEATURES", "['p4', 'p5', 'p6']",
    "MODEL.ROI_HEADS.IN_FEATURES", "['p4', 'p5']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32], [64]]",
    "INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "160",
]  # fmt: skip
CLASSES, IDS = ["red", "green", "blue"], [2, 7, 90]
LEAST = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.4"]


@pytest.fixture(scope="module", autouse=True)
def each_graph_once():
    with exports.each_graph_once():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    cfg = with_classes(load_config(CONFIGS / "faster_rcnn_se_r50.yaml", [*SMALL, *FEW_LEVELS]), 3, "a test")
    model = detector("faster_rcnn_se_r50", *FEW_LEVELS)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight *= 6  # some objects are sure in the pictures, none in a grey one
    content = {"task": "detection", "model": model.state_dict(), "config": cfg.dump(), "classes": CLASSES}
    folder = tmp_path_factory.mktemp("run")
    thresholds = {"otherwise": 0.5, "classes": {"red": {"threshold": 0.45}, "blue": {"threshold": None}}}
    return save_checkpoint(folder / "model_final.pth", {**content, "category_ids": IDS, "thresholds": thresholds})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate([(96, 128), (150, 90)]):
        Image.fromarray(picture(*size, number)).save(folder / f"{number}.png")
    return tuple(sorted(folder.iterdir()))


def exported(checkpoint, pictures, format, **changes):
    options = Options(checkpoint, format, images=pictures, rounds=2, **changes)
    return export_detector(options), options.path


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_of_any_size_finds_what_the_checkpoint_finds(checkpoint, pictures, format):
    report, path = exported(checkpoint, pictures, format, dynamic=("size",), overrides=LEAST)
    found = report["difference"]
    assert found["objects"] == found["matched"] > 2
    assert found["largest_score"] < 1e-3 and found["largest_corner"] < 0.1
    assert report["inputs"] == {"image": [1, 3, "height", "width"], "size": [2]}
    assert json.loads(path.with_name(path.name + ".json").read_text()) == report
    assert not list(path.parent.glob(".export*"))
    own, theirs = (Predictor.from_checkpoint(file, device="cpu", threshold=0.6) for file in (checkpoint, path))
    assert (theirs.classes, theirs.category_ids) == (CLASSES, IDS)
    # Sizes that the capture did not see: one place high, one place wide, the largest.
    nothing = np.full((100, 100, 3), 120, np.uint8)
    for image in (*(picture(*size, 5) for size in ((96, 128), (20, 160), (160, 31), (160, 160))), nothing):
        ours, others = (one.predict([image])[0] for one in (own, theirs))
        assert len(ours) == len(others)
        assert (len(ours) == 0) == (image is nothing)
        np.testing.assert_allclose(np.sort(others.scores), np.sort(ours.scores), atol=1e-3)


def test_a_file_of_one_size_takes_others_with_padding_and_made_smaller(checkpoint, pictures):
    report, path = exported(checkpoint, pictures[:1], "onnx", overrides=LEAST)
    assert report["inputs"]["image"] == [1, 3, 96, 128]  # the pictures' own
    predictor = Predictor.from_checkpoint(path, device="cpu", threshold=0.4)
    for size in ((96, 128), (200, 90), (90, 200)):
        found = predictor.predict([picture(*size)])[0]
        assert len(found) and (found.boxes >= 0).all()
        assert (found.boxes <= np.array([size[1], size[0]] * 2) + 1e-3).all()


def test_a_file_without_the_sure_objects_that_are_asked_for_is_refused(checkpoint, pictures):
    path = exported(checkpoint, pictures[:1], "onnx", overrides=LEAST)[1]
    with pytest.raises(UserError, match="leaves out objects below 0.4"):
        Predictor.from_checkpoint(path, device="cpu", threshold=0.3)
    assert Predictor.from_checkpoint(path, device="cpu", threshold=0.4).predict([picture(96, 128)])
    best = Predictor.from_checkpoint(path, device="cpu", threshold="best")  # they come with the file
    assert best.lowest_scores.tolist() == [0.45, 0.5, 0.5]
    with pytest.raises(UserError, match="has its config in it"):
        Predictor.from_checkpoint(path, "configs/demo.yaml", device="cpu")
    with pytest.raises(UserError, match="export it again"):
        Predictor.from_checkpoint(path, device="cpu", precision="bf16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2}, "one image at a time"),
        ({"dynamic": ("batch",)}, "one image at a time"),
        ({"dynamic": ("sizes",)}, "there is size"),
        ({"images": ()}, "or --images PATH"),
        ({"precision": "int8"}, "cannot hold int8; onnx and openvino can"),
        ({"output": "model.onnx"}, "ends with .pt2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(checkpoint, pictures, changes, message):
    before = sorted(checkpoint.parent.iterdir())
    with pytest.raises(UserError, match=message):
        export_detector(Options(checkpoint, "torch-export", **{"images": pictures, **changes}))
    assert sorted(checkpoint.parent.iterdir()) == before


def test_objects_are_compared_by_place_and_class():
    from detectron2.structures import Boxes, Instances

    def instances(boxes, scores, classes):
        numbers = {"scores": torch.tensor(scores), "pred_classes": torch.tensor(classes)}
        return Instances((100, 100), pred_boxes=Boxes(torch.tensor(boxes)), **numbers)

    own = instances([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]], [0.9, 0.8, 0.1], [0, 1, 2])
    moved = instances([[20.0, 20, 40, 42], [0, 0, 10, 10]], [0.75, 0.9], [1, 2])
    found = difference([(own, moved)])
    # The third is not sure; the first has a partner of another class.
    assert (found["objects"], found["matched"], found["largest_corner"]) == (2, 1, 2.0)
    assert found["largest_score"] == pytest.approx(0.05)
    none = instances(np.zeros((0, 4), np.float32), [], [])
    assert difference([(own, none)])["matched"] == 0
