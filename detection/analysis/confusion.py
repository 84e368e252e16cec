"""Which category is taken for which, and what for nothing: the confusion matrix of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.coco_ap.inputs import EvaluationInput
from detection.coco_ap.matching import IOU, Matches, by_score
from detection.coco_ap.overlaps import overlaps

BACKGROUND = "background"
RULE = (
    "Detections from their category's threshold on. First each finds an object of its own category, as in COCO's AP at "
    "IoU 0.50; then the others, the surest first, take the object of any category that is left and overlaps most, from "
    "IoU 0.50 on. What remains is background: objects that nothing found, and detections of nothing. Detections in a "
    "crowd of their category are left out."
)


@dataclass(frozen=True)
class Decisions:
    """What goes to what by ``RULE``; N detections and M objects, rows as in the ``EvaluationInput``.

    Attributes:
        kept: (N,) bool, the detections that count and reach their category's threshold.
        finder: (M,) int64, the row of the detection that each object goes to; -1: none.
    """

    kept: np.ndarray
    finder: np.ndarray


def decide(given: EvaluationInput, matches: Matches, thresholds: Sequence[float]) -> Decisions:
    """``RULE`` applied.

    Args:
        thresholds: (K,) the lowest score that counts, of each category.
    """
    kept = matches.counts & (given.detections.score >= np.asarray(thresholds, np.float64)[given.detections.category])
    finder = np.where(np.append(kept, False)[matches.finder], matches.finder, -1)
    _take_what_is_left(given, matches, np.flatnonzero(kept & (matches.found < 0)), finder)
    return Decisions(kept, finder)


def confusion_counts(given: EvaluationInput, matches: Matches, decisions: Decisions) -> np.ndarray:
    """How often each category (row) was taken for each (column), by ``RULE``.

    The diagonal is the number of right detections, as in the curves of precision and recall; a row's sum the objects of
    a category, a column's its detections.

    Returns:
        (K + 1, K + 1) int64; the last row and column are the background.
    """
    background = len(given.category_ids)
    counts = np.zeros((background + 1, background + 1), np.int64)
    objects = np.flatnonzero(matches.to_find)
    labels = np.append(given.detections.category, background)  # the last one is no detection's
    np.add.at(counts, (given.ground_truth.category[objects], labels[decisions.finder[objects]]), 1)
    alone = np.setdiff1d(np.flatnonzero(decisions.kept), decisions.finder)
    np.add.at(counts[background], labels[alone], 1)
    return counts


def _take_what_is_left(given: EvaluationInput, matches: Matches, rows: np.ndarray, finder: np.ndarray) -> None:
    """Gives the detections in ``rows``, by falling score, the objects that have no ``finder`` yet."""
    left = np.flatnonzero(matches.to_find & (finder < 0))
    images = given.ground_truth.image
    of_image: dict[int, list[int]] = {}
    for row in left.tolist():
        of_image.setdefault(int(images[row]), []).append(row)
    for row in by_score(given, rows).tolist():
        candidates = of_image.get(int(given.detections.image[row]))
        if not candidates:
            continue
        iou = overlaps(given, row, candidates)
        best = int(np.argmax(iou))
        if iou[best] >= IOU:
            finder[candidates.pop(best)] = row
