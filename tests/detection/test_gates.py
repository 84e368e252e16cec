"""A detector's gates on a validation set."""

import json

import numpy as np
import pytest
import torch

from detection.data import TestSet
from detection.formats.read import image_folder
from detection.gates import look_at_detector
from detection.model import build_detector, with_classes
from detection.trained import load_detector
from engine.errors import UserError
from engine.gates.options import Options
from engine.train.checkpoint import save_checkpoint
from se_backbones import find_network, sites_of
from tests.se_backbones.networks import randomised

pytestmark = pytest.mark.usefixtures("rough_figures")
NETWORK = ["MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
FEW = ["MODEL.RPN.POST_NMS_TOPK_TEST", "7"]


@pytest.fixture(scope="module")
def detector(tiny, shapes, tmp_path_factory):
    """(config file) → a checkpoint of it with random weights."""

    def make(config, *overrides):
        content = json.loads(shapes.val_json.read_text())
        names = [category["name"] for category in content["categories"]]
        cfg = with_classes(tiny(*NETWORK, *FEW, *overrides, config=config), len(names), "a test")
        model = build_detector(cfg)
        randomised(find_network(model))
        content = {"task": "detection", "model": model.state_dict(), "config": cfg.dump(), "classes": names}
        ids = list(range(1, len(names) + 1))
        folder = tmp_path_factory.mktemp("run")
        return save_checkpoint(folder / "model_final.pth", {**content, "category_ids": ids})

    return make


def test_an_image_counts_for_every_class_that_it_holds(detector, shapes, val_data, tmp_path):
    weights = detector("demo.yaml")
    found = look_at_detector(Options(weights, output=tmp_path, device="cpu"))
    records = val_data.records()
    held = [{one["category_id"] for one in record["annotations"]} for record in records]
    assert any(len(classes) > 1 for classes in held)
    counts = [sum(number in classes for classes in held) for number in range(len(val_data.class_names))]
    assert (found["images"], found["images_of_classes"]) == (7, counts)
    assert "each class that it holds objects of" in found["counted"]
    # By hand, the backbone alone, one image at a time.
    model, cfg, _, _ = load_detector(weights, None, "cpu")
    site, values = sites_of(model)[-1], []
    site.gate.register_forward_hook(lambda module, inputs, gate: values.append(gate[0, :, 0, 0].numpy()))
    with torch.inference_mode():
        for entry in map(TestSet(records, cfg).__getitem__, range(len(records))):
            model.backbone(model.preprocess_image([entry]).tensor)
    for number in range(len(counts)):
        own = [value for value, classes in zip(values, held, strict=True) if number in classes]
        shown = found["gates"][-1]["by_class"]["channels"]
        np.testing.assert_allclose(
            found["gates"][-1]["by_class"]["mean"][number], np.mean(own, axis=0)[shown], atol=2e-5
        )


def test_the_gates_of_a_stage_in_the_head_see_regions(detector, tmp_path):
    weights = detector("faster_rcnn_se_r50_c4.yaml")
    found = look_at_detector(Options(weights, output=tmp_path, device="cpu", images=3))
    gates = {gate["path"]: gate for gate in found["gates"]}
    assert list(gates) == [f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]
    for path, gate in gates.items():
        assert gate["images"] == 3
        assert gate["values"] == 3 if not path.startswith("layer4") else 3 < gate["values"] <= 3 * 7
        assert gate["scale"] == "of the normalisation that is its absorber"


def test_another_set_is_named_by_its_json_and_its_images_are_found(detector, shapes, tmp_path):
    weights = detector("demo.yaml")
    found = look_at_detector(Options(weights, shapes.train_json, tmp_path, images=2, device="cpu"))
    assert (found["data"], found["images"], found["of_images"]) == (str(shapes.train_json), 2, 12)
    assert image_folder(shapes.train_json) == shapes.train_images.absolute()
    assert image_folder(tmp_path / "_annotations.coco.json") == tmp_path


def test_what_cannot_be_looked_at_is_said_and_nothing_is_written(detector, shapes, tmp_path):
    def refused(weights, data=None, **change):
        with pytest.raises(UserError) as error:
            look_at_detector(Options(weights, data, tmp_path / "out", device="cpu", **change))
        assert not (tmp_path / "out").exists()
        return str(error.value)

    weights = detector("demo.yaml")
    assert "is no detection set" in refused(weights, shapes.val_images)
    assert "there is no file" in refused(weights, tmp_path / "nowhere.json")
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert "empty.json" in refused(weights, tmp_path / "empty.json")
    plain = detector("demo.yaml", "MODEL.BACKBONE.ARCHITECTURE", "resnet18")
    assert "resnet18 has no SE here" in refused(plain)
