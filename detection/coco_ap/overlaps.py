"""How much a detection and objects overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from detection.coco_ap.inputs import EvaluationInput


def overlaps(given: EvaluationInput, detection: int, objects: Sequence[int]) -> np.ndarray:
    """(n,) IoU, 0..1, of the box of a detection and those of objects, rows of the columns, by pycocotools' operation;
    crowds are objects like any other here."""
    if not len(objects):
        return np.zeros(0)
    truths = np.ascontiguousarray(given.ground_truth.box[list(objects)])
    return coco_mask.iou(given.detections.box[detection][None], truths, [0] * len(truths))[0]
