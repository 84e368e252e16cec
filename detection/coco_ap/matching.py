"""Which detection found which object, as pycocotools matches them: of a category and an image, the surer ones first,
each the object of the highest IoU that is left."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.coco_ap.evaluators import as_coco
from detection.coco_ap.inputs import EvaluationInput

MAX_DETECTIONS = 100  # of a category in an image that take part, the surest
IOU = 0.5  # from which a detection has found an object


def match_images(given: EvaluationInput, ious: Sequence[float] | None = None) -> list[list[dict | None]]:
    """pycocotools' own record of each image, a list a category; None where an image has neither objects nor detections.

    Args:
        ious: the thresholds; None: COCO's ten.
    """
    images = len(given.image_ids)
    if not images or not given.category_ids:
        return [[None] * images for _ in given.category_ids]
    cocoeval = importlib.import_module("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cocoeval.COCOeval(*as_coco(given), iouType=given.iou_type)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        if ious is not None:
            evaluation.params.iouThrs = np.asarray(ious, np.float64)
        evaluation.evaluate()
    return [evaluation.evalImgs[start : start + images] for start in range(0, len(evaluation.evalImgs), images)]


@dataclass(frozen=True)
class Matches:
    """Who found what at one IoU; N detections and M objects, rows as in the ``EvaluationInput``.

    Attributes:
        counts: (N,) bool, detections that are right or wrong; those that lie in a crowd of their category, or beyond an
            image's hundredth of a category, are neither.
        found: (N,) int64, the row of the object that a detection found; -1: none.
        to_find: (M,) bool, objects that are to be found; crowds are not.
        finder: (M,) int64, the row of the detection that found an object; -1: none.
    """

    counts: np.ndarray
    found: np.ndarray
    to_find: np.ndarray
    finder: np.ndarray


def match(given: EvaluationInput, iou: float = IOU) -> Matches:
    """Matches all detections, whatever their score: leaving out those below a score changes nothing for the others."""
    detections, objects = len(given.detections), len(given.ground_truth)
    matches = Matches(
        np.zeros(detections, bool), np.full(detections, -1), np.zeros(objects, bool), np.full(objects, -1)
    )
    for record in (record for category in match_images(given, [iou]) for record in category if record is not None):
        rows, truths = (np.asarray(record[key], np.int64) - 1 for key in ("dtIds", "gtIds"))  # ids count from 1
        partner = np.asarray(record["dtMatches"], np.int64).reshape(-1) - 1
        matches.to_find[truths] = np.logical_not(record["gtIgnore"])
        matches.counts[rows] = np.logical_not(np.asarray(record["dtIgnore"]).reshape(-1))
        right = matches.counts[rows] & (partner >= 0)
        matches.found[rows[right]], matches.finder[partner[right]] = partner[right], rows[right]
    return matches


def by_score(given: EvaluationInput, rows: np.ndarray) -> np.ndarray:
    """Rows of detections by falling score; of equal scores in the order of the images, as in pycocotools."""
    rows = rows[np.argsort(given.detections.image[rows], kind="stable")]
    return rows[np.argsort(-given.detections.score[rows], kind="stable")]
