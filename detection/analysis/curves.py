"""Precision and recall of each category at IoU 0.50, and from which score on they are in balance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection.coco_ap.inputs import EvaluationInput
from detection.coco_ap.matching import Matches, by_score

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's
RULE = (
    "the score from which on precision and recall at IoU 0.50 have their highest F1 on the validation set, midway "
    "between the last detection that counts and the next"
)


@dataclass(frozen=True)
class Threshold:
    """A category's own threshold, and what it gives on the set that it was found on.

    Attributes:
        score: detections count from it on, itself included.
        precision, recall, f1: 0..1.
    """

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Curve:
    """One category's detections by falling score; D of them are right or wrong.

    Attributes:
        scores: (D,).
        right: (D,) bool.
        objects: how many there are to find.
    """

    scores: np.ndarray
    right: np.ndarray
    objects: int

    def precisions(self) -> np.ndarray | None:
        """(101,) precision at COCO's recalls, 0..1, as pycocotools interpolates it: the highest at this recall or a
        higher one, 0 where no detection reaches it. None without objects."""
        if not self.objects:
            return None
        hits, misses = (np.cumsum(flags).astype(np.float64) for flags in (self.right, ~self.right))
        precision = hits / (misses + hits + np.spacing(1))  # by pycocotools' own operations
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits / self.objects, RECALLS, side="left")
        reached = places < len(precision)
        found = np.zeros(len(RECALLS))
        found[reached] = precision[places[reached]]
        return found

    def best(self) -> Threshold | None:
        """The threshold of maximal F1 (``RULE``), the highest of equals; None without objects, or where none is found:
        nothing speaks for a score then. A network that rounds otherwise, a fused one say, keeps the same detections
        for its being midway."""
        if not self.right.any() or not self.objects:
            return None
        hits, kept = np.cumsum(self.right), np.arange(1, len(self.right) + 1)
        precision, recall, f1 = hits / kept, hits / self.objects, 2 * hits / (kept + self.objects)
        last_of_equals = np.append(self.scores[1:] != self.scores[:-1], True)  # a threshold lets in all of them
        place = int(np.argmax(np.where(last_of_equals, f1, -1.0)))
        score, below = self.scores[place], self.scores[place + 1 : place + 2]
        if len(below) and (middle := (score + below[0]) / 2) > below[0]:  # between neighbours there is no number
            score = middle
        return Threshold(float(score), *(float(values[place]) for values in (precision, recall, f1)))


def curves(given: EvaluationInput, matches: Matches) -> list[Curve]:
    """The curve of each category, in the order of ``category_ids``."""
    found = []
    for category in range(len(given.category_ids)):
        rows = by_score(given, np.flatnonzero((given.detections.category == category) & matches.counts))
        objects = np.count_nonzero((given.ground_truth.category == category) & matches.to_find)
        found.append(Curve(given.detections.score[rows], matches.found[rows] >= 0, objects))
    return found
