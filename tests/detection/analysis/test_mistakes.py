"""What is taken for what: each object and each detection has one place in the table, and each mistake its kind."""

import numpy as np
import pytest

from detection.analysis.confusion import confusion_counts, decide
from detection.analysis.mistakes import BOTH, CLASS, DUPLICATE, MISSED, NOTHING, PLACE, find_mistakes
from detection.coco_ap.inputs import build_input
from detection.coco_ap.matching import match
from tests.detection.coco_ap.generated import random_case

CAT, DOG = 3, 8
HERE, THERE = [10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 40.0, 40.0]


def scene(objects, found):
    """One image; objects are (category, box), found (category, box, score)."""
    truth = {
        "images": [{"id": 7, "height": 200, "width": 200, "file_name": "a.jpg"}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0, **more}
            for i, (c, b, more) in enumerate(((*o, {})[:3] for o in objects), 1)
        ],
    }
    given = build_input(truth, [{"image_id": 7, "category_id": c, "bbox": b, "score": s} for c, b, s in found], "bbox")
    return given, match(given)


def moved(box, share):
    return [box[0] + share * box[2], *box[1:]]


@pytest.mark.parametrize(
    "found, kind, truth",
    [
        ((CAT, HERE, 0.8), DUPLICATE, "cat"),  # the surer one at the same place has it
        ((DOG, HERE, 0.8), CLASS, "cat"),
        ((CAT, moved(THERE, 0.6), 0.8), PLACE, "cat"),  # IoU 0.4 / 1.6
        ((DOG, moved(THERE, 0.6), 0.8), BOTH, "cat"),
        ((CAT, [150.0, 10.0, 20.0, 20.0], 0.8), NOTHING, None),
        ((CAT, moved(THERE, 0.85), 0.8), NOTHING, None),  # IoU 0.15 / 1.85: less than 0.1
    ],
)
def test_each_kind_of_mistake(found, kind, truth):
    given, matches = scene([(CAT, HERE), (CAT, THERE)], [(CAT, HERE, 0.9), found])
    mistakes, counts = find_mistakes(given, matches, decide(given, matches, [0.5, 0.5]), ["cat", "dog"])
    (wrong,) = [m for group in mistakes.values() for m in group if m.kind != MISSED]
    assert (wrong.kind, wrong.truth, wrong.score, wrong.file) == (kind, truth, 0.8, "a.jpg")
    assert wrong.group == wrong.predicted == {CAT: "cat", DOG: "dog"}[found[0]] and wrong.details["box"] == found[1]
    missed = [m for group in mistakes.values() for m in group if m.kind == MISSED]
    assert [m.details["truth_box"] for m in missed] == [THERE] and sum(counts.values()) == 2


def test_below_the_threshold_nothing_counts_and_crowds_are_no_mistakes():
    objects, found = (
        [(CAT, HERE), (DOG, THERE, {"iscrowd": 1})],
        [(CAT, HERE, 0.4), (DOG, THERE, 0.9), (DOG, HERE, 0.8)],
    )
    given, matches = scene(objects, found)
    assert confusion_counts(given, matches, decide(given, matches, [0.5, 0.5])).tolist() == [
        [0, 1, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert confusion_counts(given, matches, decide(given, matches, [0.4, 0.5])).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [0, 1, 0],
    ]
    assert confusion_counts(given, matches, decide(given, matches, [0.5, 0.85])).tolist() == [
        [0, 0, 1],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_an_object_goes_to_its_own_class_before_a_surer_other_one():
    given, matches = scene([(CAT, HERE), (CAT, moved(HERE, 0.1))], [(DOG, HERE, 0.99), (CAT, HERE, 0.6)])
    assert confusion_counts(given, matches, decide(given, matches, [0.5, 0.5])).tolist() == [
        [1, 1, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("seed", range(4))
def test_every_object_and_every_detection_is_counted_once(seed):
    truth, found = random_case(seed, images=12, crowded=True)
    given = build_input(truth, found, "bbox")
    matches, thresholds = match(given), np.linspace(0.1, 0.7, 4)
    counts = confusion_counts(given, matches, decide(given, matches, thresholds))
    kept = matches.counts & (given.detections.score >= thresholds[given.detections.category])
    for category in range(4):
        own = given.detections.category == category
        assert counts[category].sum() == (matches.to_find & (given.ground_truth.category == category)).sum()
        assert counts[:, category].sum() == (kept & own).sum()
        assert counts[category, category] == (kept & own & (matches.found >= 0)).sum()  # as in precision and recall
    assert counts[-1, -1] == 0 and counts[:-1, -1].any() and counts[-1, :-1].any()
    mistakes, totals = find_mistakes(given, matches, decide(given, matches, thresholds), list("abcd"))
    off_the_diagonal = counts.sum(axis=0)[:-1] - counts.diagonal()[:-1]
    assert [totals[name] for name in "abcd"] == (off_the_diagonal + counts[:-1, -1]).tolist()
    for name, group in mistakes.items():
        scores = [m.score for m in group if m.kind != MISSED]
        assert scores == sorted(scores, reverse=True) and {m.group for m in group} <= {name}
    assert [m.kind == MISSED for m in mistakes["a"][:3]] == [False, False, True]


def test_without_detections_all_is_missed():
    given, matches = scene([(CAT, HERE), (DOG, THERE)], [])
    assert confusion_counts(given, matches, decide(given, matches, [0.5, 0.5])).tolist() == [
        [0, 0, 1],
        [0, 0, 1],
        [0, 0, 0],
    ]
    assert find_mistakes(given, matches, decide(given, matches, [0.5, 0.5]), ["cat", "dog"])[1] == {"cat": 1, "dog": 1}
