"""Curves equal to pycocotools', and thresholds that no other score beats."""

import numpy as np
import pytest

from detection.analysis.curves import Curve, curves
from detection.coco_ap.inputs import build_input
from detection.coco_ap.matching import match
from tests.detection.coco_ap.generated import random_case
from tests.detection.coco_ap.reference import pycocotools_stats


def analysed(seed):
    truth, found = random_case(seed, images=12, crowded=True)
    given = build_input(truth, found, "bbox")
    return truth, found, curves(given, match(given))


@pytest.mark.parametrize("seed", range(4))
def test_precisions_are_pycocotools_own(seed):
    truth, found, ours = analysed(seed)
    _, theirs = pycocotools_stats(truth, found, "bbox")
    assert any(curve.objects for curve in ours) and any(not curve.objects for curve in ours)
    for category, curve in enumerate(ours):
        expected = theirs[0, :, category, 0, 2]
        if curve.objects:
            assert np.array_equal(curve.precisions(), expected)
        else:
            assert curve.precisions() is None and (expected == -1).all()


@pytest.mark.parametrize("seed", range(4))
def test_no_score_gives_a_higher_f1_than_the_threshold(seed):
    """By counting anew at every score."""
    for curve in analysed(seed)[2]:
        best = curve.best()
        if best is None:
            assert not curve.objects or not curve.right.any()
            continue
        by_score = {}
        for score in np.unique(curve.scores):
            kept = curve.scores >= score
            hits = curve.right[kept].sum()
            by_score[score] = (2 * hits / (kept.sum() + curve.objects), hits / kept.sum(), hits / curve.objects)
        last = min(score for score in by_score if score >= best.score)  # that counts
        assert (best.f1, best.precision, best.recall) == pytest.approx(by_score[last])
        assert best.f1 == pytest.approx(max(f1 for f1, *_ in by_score.values()))
        assert last == max(score for score, (f1, *_) in by_score.items() if np.isclose(f1, best.f1, atol=1e-12))


def test_a_threshold_lies_midway_so_that_rounding_changes_nothing():
    right = np.array([True, True, False, False])
    assert Curve(np.array([0.9, 0.5, 0.25, 0.1]), right, 2).best().score == 0.375
    assert Curve(np.array([0.9, 0.5]), right[:2], 2).best().score == 0.5  # nothing is known of what lies below
    for score in (0.3, np.nextafter(0.3, 1), 0.3 + 1e-7):  # neighbours, between which there is no number, too
        close = Curve(np.array([0.9, score, np.nextafter(score, 0), 0.1]), right, 2)
        best = close.best()
        assert (close.scores >= best.score).tolist() == right.tolist()


def test_a_category_of_which_nothing_is_found_has_no_threshold():
    wrong = np.zeros(3, bool)
    assert Curve(np.array([0.9, 0.8, 0.7]), wrong, 5).best() is None
    assert Curve(np.empty(0), np.empty(0, bool), 5).best() is None
    assert not Curve(np.empty(0), np.empty(0, bool), 5).precisions().any()
    assert Curve(np.array([0.9]), ~wrong[:1], 0).best() is None
