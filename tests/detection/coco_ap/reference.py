"""pycocotools' own figures, and how close others have to come."""

import contextlib
import copy
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

MAX_DIFFERENCE = 1e-9  # of an element of the arrays, 0..1: the order of a sum may differ, a match may not


def pycocotools_stats(ground_truth, detections, iou_type):
    """The twelve figures and the precision array by pycocotools' own path from dictionaries, without ours."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]
