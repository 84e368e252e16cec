"""What training reads from a json: the same objects that the check counts, and that Detectron2's own reader gives."""

import contextlib
import copy
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detection.annotations.check import check_annotations
from detection.config import load_config
from detection.data import TrainingSet, make_data, training_batches
from detection.evaluate import evaluate_detector
from detection.model import build_detector, with_classes
from detection.train import load_data
from engine.errors import UserError

from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.samplers import RepeatFactorTrainingSampler

SIZE = (30, 40)  # height, width
POLYGON = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]
RUNS = {"size": [30, 40], "counts": [62] + [10, 20] * 9 + [10, 858]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def coco(*objects):
    """Two images, the objects in the first one."""
    plain = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0}
    return {
        "images": [{"id": index + 1, "file_name": f"{index}.png", "height": 30, "width": 40} for index in range(2)],
        "annotations": [{"id": index, **plain, **one} for index, one in enumerate(objects, start=1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def config(folder, content, *overrides, with_masks=False):
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    places = [f"DATA.{split}.{key}" for split in ("TRAIN", "VAL") for key in ("JSON", "IMAGES")]
    values = [str(path), str(folder)] * 2
    masks = ["MODEL.MASK_ON", "True"] if with_masks else []
    pairs = [word for pair in zip(places, values, strict=True) for word in pair]
    small = ["INPUT.MIN_SIZE_TRAIN", "30", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1"]
    return load_config(None, [*pairs, *small, "INPUT.RANDOM_FLIP", "none", *masks, *overrides])


def trained_on(folder, content, *overrides, with_masks=False):
    """The instances of the first image as the model gets them."""
    cfg = config(folder, content, *overrides, with_masks=with_masks)
    data = make_data("set", folder / "instances.json", folder, content, with_masks)
    return TrainingSet(data.records(), cfg)[0, 0]["instances"]


@pytest.mark.parametrize("write", [None, False, 0.0, "0", "false"])
def test_objects_that_are_no_crowds_reach_the_network(folder, write):
    content = coco({"iscrowd": write}, {"iscrowd": write}, {"iscrowd": 1})
    assert check_annotations(content, folder).problems == []
    assert len(trained_on(folder, content)) == 2
    assert make_data("set", folder, folder, content).crowds == 1


@pytest.mark.parametrize("write", [True, 1.0, 2, "1", "true"])
def test_images_of_crowds_alone_are_left_out(folder, write):
    content = coco({"iscrowd": write})
    assert len(trained_on(folder, content)) == 0
    data = make_data("set", folder / "instances.json", folder, content)
    with pytest.raises(UserError, match=r"no image has an annotation to learn from \(its 1 crowds"):
        training_batches(data, config(folder, content), 0, 0, 1)


def test_boxes_over_the_edge_are_clipped(folder):
    content = coco({"bbox": [-5, 3, 20, 10]}, {"bbox": [30, 20, 15, 30]})
    boxes = trained_on(folder, content).gt_boxes.tensor.tolist()
    assert boxes == [[0, 3, 15, 13], [30, 20, 40, 30]]


@pytest.mark.parametrize("number", [int, float])
def test_boxes_and_polygons_keep_their_fractions_when_resized(folder, number):
    content = coco({"bbox": [number(n) for n in (3, 5, 7, 9)], "segmentation": [[number(n) for n in POLYGON]]})
    seen = trained_on(folder, content, "INPUT.MIN_SIZE_TRAIN", "40", with_masks=True)
    scale = np.array([53 / 40, 40 / 30])  # 40 x 30 to 53 x 40
    corners = np.array([[3, 5], [10, 14]]) * scale
    assert np.allclose(seen.gt_boxes.tensor.numpy(), corners.reshape(1, 4), rtol=1e-6)
    assert np.allclose(seen.gt_masks.polygons[0][0], (np.reshape(POLYGON, (-1, 2)) * scale).ravel(), rtol=1e-6)


@pytest.mark.parametrize("number", [float, str])
def test_ids_of_floats_and_texts_are_those_of_whole_numbers(folder, number):
    content = coco({}, {"category_id": 3})
    expected = make_data("set", folder, folder, content).records()
    written = copy.deepcopy(content)
    for record in [*written["images"], *written["annotations"], *written["categories"]]:
        record.update({key: number(record[key]) for key in ("id", "image_id", "category_id") if key in record})
    for image in written["images"]:
        image.update(width=40.0, height=30.0)
    data = make_data("set", folder, folder, written)
    assert data.category_ids == {float: [1, 3], str: ["1", "3"]}[number]
    for mine, one in zip(data.records(), expected, strict=True):
        assert {**mine, "image_id": int(mine["image_id"])} == one
        assert type(mine["width"]) is type(mine["height"]) is int
        json.dumps(mine["image_id"])


SHAPES = {
    "polygon": [POLYGON],
    "two polygons": [POLYGON, [20, 20, 30, 20, 30, 28]],
    "four numbers beside": [POLYGON, [1, 1, 5, 5]],
    "seven numbers before": [[1, 2, 3, 4, 5, 6, 7], POLYGON],
    "nothing beside": [POLYGON, []],
    "run lengths": RUNS,
    "run lengths of floats": {"size": [30.0, 40.0], "counts": [float(run) for run in RUNS["counts"]]},
    "compressed": {"size": [30, 40], "counts": coco_mask.frPyObjects(RUNS, 30, 40)["counts"].decode()},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_are_those_of_detectron2s_own_reader(folder, tmp_path, shape):
    content = coco({"segmentation": SHAPES[shape]})
    assert check_annotations(content, folder, need_masks=True, for_evaluation=True).ok
    (mine,) = make_data("set", folder, folder, content).records()[0]["annotations"]
    theirs = copy.deepcopy(content)
    if "floats" in shape:  # which theirs dies of
        theirs["annotations"][0]["segmentation"] = RUNS
    (tmp_path / "instances.json").write_text(json.dumps(theirs))
    with contextlib.redirect_stdout(io.StringIO()):
        record = load_coco_json(str(tmp_path / "instances.json"), str(folder))[0]["annotations"][0]
    assert _pixels(mine["segmentation"]).tolist() == _pixels(record["segmentation"]).tolist()


def _pixels(segmentation):
    shape = coco_mask.frPyObjects(segmentation, *SIZE) if isinstance(segmentation, list) else [segmentation]
    return coco_mask.decode(coco_mask.merge(shape))


def test_polygons_and_run_lengths_of_one_image_become_bitmasks(folder):
    content = coco(*({"segmentation": shape} for shape in SHAPES.values()))
    masks = trained_on(folder, content, "INPUT.MASK_FORMAT", "bitmask", with_masks=True).gt_masks.tensor
    assert masks.shape == (len(SHAPES), *SIZE) and masks.flatten(1).any(dim=1).all()
    polygons = coco(*({"segmentation": shape} for shape in SHAPES.values() if isinstance(shape, list)))
    assert len(trained_on(folder, polygons, with_masks=True).gt_masks) == 5


def test_run_lengths_need_bitmasks(folder):
    content = coco({"segmentation": RUNS}, {"segmentation": [POLYGON]})
    data = make_data("set", folder / "instances.json", folder, content)
    with pytest.raises(UserError, match="1 of 2 masks are run lengths.*set INPUT.MASK_FORMAT bitmask"):
        training_batches(data, config(folder, content, with_masks=True), 0, 0, 1)


@pytest.mark.parametrize(
    ("overrides", "shapely", "message"),
    [
        ([], None, "by the package shapely, which is not installed"),
        (["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"], "here", "an image without objects does not have"),
    ],
)
def test_crops_that_detectron2_cannot_cut_are_refused(folder, monkeypatch, overrides, shapely, message):
    content = coco({"segmentation": [POLYGON]})
    monkeypatch.setattr("detection.data.find_spec", lambda name: shapely)
    data = make_data("set", folder / "instances.json", folder, content)
    cfg = config(folder, content, "INPUT.CROP.ENABLED", "True", *overrides, with_masks=True)
    with pytest.raises(UserError, match=message):
        training_batches(data, cfg, 0, 0, 1)


def test_what_is_left_out_of_the_truth_goes_with_it(folder, tmp_path, caplog):
    content = coco({}, {"bbox": [1, 1, 0, 5]}, {"bbox": [-5, 3, 20, 10]}, {"iscrowd": 1})
    cfg = config(folder, content)
    with pytest.raises(UserError, match="--drop-bad-records"):
        load_data(cfg, "VAL", tmp_path, drop_bad=False)
    data = load_data(cfg, "VAL", tmp_path, drop_bad=True)
    assert data.left_out == "dropped 0 of 2 images, 1 of 4 annotations"
    assert [one["id"] for one in data.coco["annotations"]] == [1, 3, 4]
    assert data.with_masks is False
    caplog.clear()
    caplog.set_level("INFO")
    load_data(cfg, "TRAIN", tmp_path, drop_bad=True)
    assert "3 annotations (1 of them crowds)" in caplog.text


def test_ap_says_what_was_left_out_of_the_truth(tiny, val_data, tmp_path):
    cfg = with_classes(tiny(), len(val_data.class_names), "shapes")
    data = replace(val_data, left_out="dropped 0 of 7 images, 1 of 30 annotations")
    figures = evaluate_detector(build_detector(cfg).eval(), data, cfg, tmp_path)
    assert figures["notes"][0] == (
        f"of {data.json_path}: dropped 0 of 7 images, 1 of 30 annotations; the figures are of the rest"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"][0].update(area="100"), "has errors"),
        (lambda content: content.update(images=[], annotations=[]), "has no images to evaluate on"),
    ],
)
def test_what_evaluation_could_not_read_is_refused_before_training(folder, tmp_path, change, message):
    content = coco({})
    change(content)
    cfg = config(folder, content)
    load_data(cfg, "TRAIN", tmp_path, drop_bad=False)
    with pytest.raises(UserError, match=message):
        load_data(cfg, "VAL", tmp_path, drop_bad=False)


def rare_classes():
    """Ten images, a cat on each, a dog on one, and one without objects."""
    content = coco()
    content["images"] = [{"id": i, "file_name": f"{i % 2}.png", "height": 30, "width": 40} for i in range(1, 11)]
    own = [(i, 1) for i in range(1, 10)] + [(4, 3)]
    content["annotations"] = [
        {"id": n, "image_id": i, "category_id": c, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0}
        for n, (i, c) in enumerate(own, start=1)
    ]
    return content


@pytest.mark.parametrize("empty", ["True", "False"])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 1.0])
def test_repeat_factors_are_detectron2s(folder, monkeypatch, threshold, empty):
    content, given = rare_classes(), {}
    cfg = config(
        folder, content, "DATALOADER.REPEAT_THRESHOLD", str(threshold), "DATALOADER.FILTER_EMPTY_ANNOTATIONS", empty
    )
    monkeypatch.setattr("detection.data.TrainingBatches", lambda *args, **kwargs: given.update(kwargs) or [])
    data = make_data("set", folder / "instances.json", folder, content)
    training_batches(data, cfg, 0, 0, 1)
    records = [r for r in data.records() if r["annotations"] or empty == "False"]
    theirs = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    assert given["factors"].tolist() == pytest.approx(theirs.tolist()) and len(theirs) == (9 if empty == "True" else 10)


def test_an_image_that_is_repeated_is_augmented_anew_and_the_same_after_a_resume(folder):
    content = rare_classes()
    words = ["DATALOADER.REPEAT_THRESHOLD", "1.0", "INPUT.MIN_SIZE_TRAIN", "(20, 24, 28, 32, 36, 40)"]
    cfg = config(folder, content, *words, "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "12")
    data = make_data("set", folder / "instances.json", folder, content)
    steps = [list(batch) for batch in training_batches(data, cfg, 0, 0, 1)]
    resumed = list(training_batches(data, cfg, 4, 0, 1))
    for one, other in zip(steps[4:], resumed, strict=True):
        assert [image["image_id"] for image in one] == [image["image_id"] for image in other]
        assert all(a["image"].equal(b["image"]) for a, b in zip(one, other, strict=True))
    epoch = [image for batch in steps[:6] for image in batch]  # 9 images, r(dog) = 3: 11, and the first again
    dogs = [image["image"].shape for image in epoch if image["image_id"] == 4]
    assert len(dogs) >= 3 and len(set(dogs)) > 1


def test_a_sampler_without_its_threshold_is_refused(folder):
    with pytest.raises(UserError, match=r"set DATALOADER\.REPEAT_THRESHOLD"):
        config(folder, coco({}), "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    sampler = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.001"]
    assert config(folder, coco({}), *sampler).DATALOADER.REPEAT_THRESHOLD == 0.001
