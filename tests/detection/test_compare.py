"""Detectors against each other on the same images."""

import json

import numpy as np
import pytest
from PIL import Image

from detection.coco_ap.average_precision import evaluate_coco
from detection.compare import DetectorAnswers
from detection.task_info import DETECTION
from engine.compare.comparison import compare
from engine.compare.page import write_page
from engine.compare.runs import runs_of_one_task
from tests.engine.compare.made_runs import write_detector
from tests.engine.report.test_summary import check

SIDE = 60


@pytest.fixture
def truth(tmp_path):
    """A json with one object in each of four images, one of them in a folder; the second image has none."""
    names = ["0.png", "1.png", "night/2.png", "3.png"]
    images = [{"id": 10 * i, "file_name": name, "height": SIDE, "width": SIDE} for i, name in enumerate(names, 1)]
    boxes = [
        {"id": i, "image_id": 10 * i, "category_id": 7, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
        for i in (1, 3, 4)
    ]
    for name in names:
        (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((SIDE, SIDE, 3), 120, np.uint8)).save(tmp_path / "val" / name)
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "lamp"}]}))
    return path


def found(image, score=0.9, box=(10, 10, 30, 30)):
    return {"image_id": image, "category_id": 7, "bbox": list(box), "score": score}


@pytest.fixture
def made(tmp_path, truth):
    """(name, detections) → a run's folder."""

    def make(name, detections, json_path=truth):
        figure = evaluate_coco(json_path, detections).figures["bbox"]["AP"]
        return write_detector(tmp_path / name, detections, json_path, tmp_path / "val", figure)

    return make


def compared(*folders):
    return compare(runs_of_one_task(folders), DETECTION, DetectorAnswers)


def test_the_images_that_differ_come_by_what_is_right_wrong_and_missed(made, tmp_path):
    everything = [found(10), found(30), found(40)]
    spoilt = [found(10), found(20, 0.8), found(30), found(30, 0.7, (0, 0, 5, 5)), found(40, 0.3)]
    told = compared(made("a", everything), made("b", spoilt))
    assert not told.problems and told.images == 4
    # 20: nothing to find, and something found; 40: sure of nothing; 30: one right, one wrong.
    assert [case.image for case in told.cases] == ["1.png", "3.png", "night/2.png"]
    words = {case.image: case.said["b"].words.partition(" (")[0] for case in told.cases}
    assert words == {
        "1.png": "0 right, 1 wrong, 0 not found",
        "3.png": "0 right, 0 wrong, 1 not found",
        "night/2.png": "1 right, 1 wrong, 0 not found",
    }
    assert told.cases[0].truth.words == "truth: 0 objects"
    assert told.cases[0].truth.picture.shape == told.cases[0].said["b"].picture.shape
    assert (told.cases[0].truth.picture != told.cases[0].said["b"].picture).any()  # a box and its name
    page = check(write_page(told, tmp_path / "c.html"))
    assert page.tags.count("img") == 3 * 3 + 2  # truth and two runs of each; AP and losses


def test_the_difference_is_tested_by_drawing_images_anew(made):
    [pair] = compared(made("a", [found(10), found(30), found(40)]), made("b", [found(10)])).pairs
    assert pair.difference < -60 and 0 < pair.test.p <= 1
    assert "b less a is -" in pair.verdict and "paired bootstrap" in pair.verdict


def test_other_annotations_are_not_compared(made, truth, tmp_path):
    content = json.loads(truth.read_text())
    content["annotations"][0]["bbox"] = [12, 12, 30, 30]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    told = compared(made("a", [found(10)]), made("b", [found(10)], other))
    assert "other annotations of them" in told.pairs[0].verdict and not told.cases


def test_images_that_are_gone_are_named(made, tmp_path):
    runs = made("a", [found(10)]), made("b", [])
    (tmp_path / "val" / "0.png").unlink()
    told = compared(*runs)
    assert not told.cases and "the images are not shown: " in told.problems[0] and "0.png" in told.problems[0]
    assert told.pairs[0].test is not None
