"""AP of resampled images: equal to pycocotools' of the images themselves, so often."""

import numpy as np
import pytest

from detection.coco_ap.average_precision import evaluate_coco
from detection.coco_ap.bootstrap import MatchedDetections, paired_bootstrap, standard_error
from tests.detection.coco_ap.generated import random_case


def ap(truth, found):
    return evaluate_coco(truth, found, evaluator="pycocotools").figures["bbox"]["AP"]


def repeated(truth, found, weights):
    """The set in which each image is there so often, under ids that keep their order."""
    ids = [(image["id"], copy) for image, often in zip(truth["images"], weights, strict=True) for copy in range(often)]
    new = {pair: number for number, pair in enumerate(ids, 1)}
    records = {image["id"]: image for image in truth["images"]}

    def copies(rows):
        return [
            {**row, "image_id": number} for (old, _), number in new.items() for row in rows if row["image_id"] == old
        ]

    annotations = [{**row, "id": number} for number, row in enumerate(copies(truth["annotations"]), 1)]
    images = [{**records[old], "id": number} for (old, _), number in new.items()]
    return {**truth, "images": images, "annotations": annotations}, copies(found)


@pytest.mark.parametrize("seed", range(6))
def test_each_image_once_gives_cocos_own_figure(seed):
    truth, found = random_case(seed, images=12, crowded=True)
    assert MatchedDetections(truth, found).ap() == pytest.approx(ap(truth, found), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_images_drawn_several_times_count_so_often(seed):
    """Equal scores aside: between those the order of the images decides, and copies have an order of their own."""
    truth, found = random_case(seed, images=12, crowded=True)
    random = np.random.default_rng(seed)
    for row, score in zip(found, random.permutation(len(found)), strict=True):
        row["score"] = float(score) / len(found)
    weights = random.multinomial(12, np.full(12, 1 / 12))
    assert weights.max() > 1 and weights.min() == 0
    order = np.argsort([image["id"] for image in truth["images"]])
    truth["images"] = [truth["images"][i] for i in order]
    assert MatchedDetections(truth, found).ap(weights) == pytest.approx(ap(*repeated(truth, found, weights)), abs=1e-9)


def one_object_each(images):
    return {
        "images": [{"id": i, "height": 50, "width": 50, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
            for i in range(1, images + 1)
        ],
    }


def boxes(images, right):
    """One object an image; a detector that finds those in ``right``."""
    found = [{"image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.5 + i / 1000} for i in right]
    return MatchedDetections(one_object_each(images), found)


def test_a_detector_that_finds_more_in_every_draw_is_told_apart():
    worse, better = boxes(60, range(1, 21)), boxes(60, range(1, 56))
    told = paired_bootstrap([worse], [better], resamples=199)
    assert told.p == 2 / 200 and 0 < told.interval[0] < better.ap() - worse.ap() < told.interval[1]
    back = paired_bootstrap([better], [worse], resamples=199)
    assert back.p == told.p and back.interval == pytest.approx((-told.interval[1], -told.interval[0]))


def test_detectors_that_differ_by_chance_are_not():
    """One has images that the other lacks, and as many the other way round."""
    told = paired_bootstrap([boxes(60, range(1, 41))], [boxes(60, range(21, 61))], resamples=199)
    assert told.p > 0.5 and told.interval[0] < 0 < told.interval[1]
    same = boxes(60, range(1, 41))
    assert paired_bootstrap([same], [same], resamples=50).p == 1


def test_the_spread_is_that_of_a_share_where_ap_is_one():
    """One object an image, found or not and never wrong: AP is the share found, but for its rounding to 101 recalls."""
    images, found = 200, 120
    told = paired_bootstrap([boxes(images, ())], [boxes(images, range(1, found + 1))], resamples=1000)
    error = 100 * np.sqrt(found / images * (1 - found / images) / images)
    assert (told.interval[1] - told.interval[0]) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_a_draw_is_the_same_for_the_same_seed():
    pair = [boxes(30, range(1, 16))], [boxes(30, range(8, 26))]
    assert paired_bootstrap(*pair, resamples=50) == paired_bootstrap(*pair, resamples=50)
    assert paired_bootstrap(*pair, resamples=50) != paired_bootstrap(*pair, resamples=50, seed=1)


def test_other_images_are_no_pair():
    with pytest.raises(ValueError, match=r"same images.*\[3, 4\] images"):
        paired_bootstrap([boxes(3, [1])], [boxes(4, [1])])
    empty = MatchedDetections({"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": []}, [])
    assert empty.ap() is None
    with pytest.raises(ValueError, match="objects"):
        paired_bootstrap([empty], [empty])


def test_a_standard_error_is_that_of_a_share_where_ap_is_one():
    half = boxes(100, range(1, 51))
    error = standard_error(half, resamples=400)
    assert error == pytest.approx(100 * np.sqrt(0.5 * 0.5 / 100), rel=0.12)  # its own is 1 / sqrt(2 * 400) of it
    assert error == standard_error(half, resamples=400)
    assert standard_error(boxes(20, range(1, 21))) == 0
    with pytest.raises(ValueError, match="no object to find"):
        standard_error(MatchedDetections({"images": [], "annotations": [], "categories": []}, []))


def test_counts_are_those_of_the_detections_that_are_sure_enough():
    """Two objects in the first image: one found twice, the other by a box that is too far off."""
    truth = one_object_each(3)
    truth["annotations"].append({**truth["annotations"][0], "id": 9, "bbox": [30, 30, 10, 10], "area": 100})
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 19], "score": 0.8},
        {"image_id": 1, "category_id": 1, "bbox": [30, 38, 10, 10], "score": 0.6},
        {"image_id": 2, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.4},
    ]
    matched = MatchedDetections(truth, found)
    assert matched.image_ids == [1, 2, 3]
    assert matched.counts(0.5).tolist() == [[1, 2, 1], [0, 0, 1], [0, 0, 1]]
    assert matched.counts(0.7).tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1]]
    assert matched.counts(0.0).tolist() == [[1, 2, 1], [1, 0, 0], [0, 0, 1]]
