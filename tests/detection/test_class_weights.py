"""What each class counts where a detector tells the regions' classes."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detection.class_weights import weigh_classes
from detection.data import make_data, objects_of_an_epoch
from detection.model import build_detector, with_classes
from detection.train import Options, run_detection
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.class_weights import class_weights
from tests.detection.conftest import CONFIGS, TINY
from tests.detection.test_data import config, folder, rare_classes  # noqa: F401  (a fixture)
from tests.detection.test_losses import RETINANET

from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
WEIGHTS = torch.tensor([0.5, 3.0, 1.5])


def built(tiny, *words):
    return build_detector(with_classes(tiny("MODEL.DEVICE", "cpu", *words), 3, "a test"))


def regions(classes):
    found = Instances((64, 64))
    found.gt_classes = torch.tensor(classes, dtype=torch.int64)
    found.proposal_boxes = found.gt_boxes = Boxes(torch.tensor([[4.0, 4.0, 30.0, 40.0]] * len(classes)).view(-1, 4))
    return found


def losses(predictor, classes):
    """Of two images' regions."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(len(classes), 4, generator=generator)
    deltas = torch.zeros(len(classes), predictor.bbox_pred.out_features)
    with EventStorage(0):
        return scores, predictor.losses((scores, deltas), [regions(classes[:2]), regions(classes[2:])])


@pytest.mark.parametrize("words", [[], CASCADE], ids=["faster", "cascade"])
def test_every_box_predictor_weighs_the_classes_and_a_region_without_an_object_counts_1(words, tiny):
    model = built(tiny, *words)
    names = list(model.state_dict())
    plain = copy.deepcopy(model)
    weigh_classes(model, WEIGHTS)
    model = copy.deepcopy(model)  # as averaged weights are made
    assert list(model.state_dict()) == names
    classes, each = [0, 1, 3, 2, 3, 1, 3], torch.tensor([0.5, 3, 1, 1.5, 1, 3, 1])
    predictors = [(path, one) for path, one in model.named_modules() if isinstance(one, FastRCNNOutputLayers)]
    assert len(predictors) == (3 if words else 1)
    for path, predictor in predictors:
        scores, found = losses(predictor, classes)
        expected = (F.cross_entropy(scores, torch.tensor(classes), reduction="none") * each).mean()
        torch.testing.assert_close(found["loss_cls"], expected)
        other = losses(plain.get_submodule(path), classes)[1]
        assert found.keys() == other.keys() and found["loss_box_reg"] == other["loss_box_reg"]
        assert losses(predictor, [])[1]["loss_cls"] == losses(plain.get_submodule(path), [])[1]["loss_cls"] == 0


def test_a_detector_with_another_loss_is_refused(tiny):
    with pytest.raises(UserError, match="has a loss of another kind: leave the key empty"):
        weigh_classes(built(tiny, *RETINANET), WEIGHTS)


@pytest.mark.parametrize("threshold", ["0.0", "1.0"])
def test_objects_count_as_often_as_their_image_is_in_an_epoch_and_crowds_do_not(folder, threshold):  # noqa: F811
    content = rare_classes()
    content["annotations"].append({**content["annotations"][0], "id": 99, "iscrowd": 1, "category_id": 3})
    data = make_data("set", folder / "instances.json", folder, content)
    labels, factors = objects_of_an_epoch(data, config(folder, content, "DATALOADER.REPEAT_THRESHOLD", threshold))
    counts = np.bincount(labels, minlength=len(data.class_names))
    assert sorted(counts[counts > 0]) == [1, 9]  # without the crowd
    rare = np.flatnonzero(counts[labels] == 1)
    if threshold == "0.0":
        assert factors is None
    else:  # of nine images two have a dog, one as a crowd, which Detectron2's factors count: r = sqrt(1 / (2 / 9))
        assert sorted(factors) == pytest.approx([1] * 7 + [4.5**0.5] * 3) and factors[rare] == pytest.approx(4.5**0.5)
    weights = class_weights(["balanced"], labels, data.class_names, factors)
    assert np.average(weights.numpy()[labels], weights=factors) == pytest.approx(1)


def test_a_training_takes_them_of_its_own_set(shapes, tmp_path, monkeypatch):
    class Taken(Exception):
        pass

    def take(model, weights):
        raise Taken(weights.tolist())

    monkeypatch.setattr("detection.train.weigh_classes", take)
    paths = [
        "DATA.TRAIN.JSON", str(shapes.train_json), "DATA.TRAIN.IMAGES", str(shapes.train_images), "DATA.VAL.JSON",
        str(shapes.val_json), "DATA.VAL.IMAGES", str(shapes.val_images), "OUTPUT_DIR", str(tmp_path / "run"),
    ]  # fmt: skip
    found = json.loads(shapes.train_json.read_text())
    order = [category["id"] for category in found["categories"]]
    labels = np.array([order.index(one["category_id"]) for one in found["annotations"]])
    for given, expected in (
        ("balanced", class_weights(["balanced"], labels, order).tolist()),
        ("[1.0, 2.0, 1.0, 1.0, 4.0]", class_weights([1, 2, 1, 1, 4], labels, order).tolist()),
    ):
        words = [*paths, *TINY, "SOLVER.CLASS_WEIGHTS", given]
        with pytest.raises(Taken) as taken:
            run_detection(Options(config=str(CONFIGS / "demo.yaml"), overrides=words))
        assert taken.value.args[0] == pytest.approx(expected)
    with pytest.raises(UserError, match=r"SOLVER\.CLASS_WEIGHTS has 2 numbers, and there are 5 classes"):
        run_detection(Options(config=str(CONFIGS / "demo.yaml"), overrides=[*words[:-1], "[1.0, 2.0]"]))
