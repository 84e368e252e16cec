"""The programs that match detections to ground truth, behind one call: columns in, arrays out.

pycocotools is the reference. A faster one is used in the one version whose arrays the tests compare with the
reference's.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import io
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from detection.coco_ap.columns import Columns
from detection.coco_ap.inputs import EvaluationInput
from engine.errors import UserError

logger = logging.getLogger(__name__)

REFERENCE = "pycocotools"
AREAS = ("all", "small", "medium", "large")
MAX_DETECTIONS = (1, 10, 100)

Arrays = tuple[np.ndarray, np.ndarray]

_with_threads: set[str] = set()  # evaluators that have started threads in this process
_without_threads: set[str] = set()  # and in the one that it was forked from: they would wait for them forever
_FORKED = "this process was forked from one in which it had started threads"


def evaluate_with(evaluator: str, given: EvaluationInput) -> Arrays:
    """Runs one evaluator, without a word on stdout.

    Returns:
        precision (10 IoU thresholds 0.50:0.05:0.95, 101 recall thresholds, K categories, 4 areas, 3 maxDets)
        and recall (10, K, 4, 3), float64 in 0..1, -1 where there is nothing to find; areas and maxDets as in
        AREAS and MAX_DETECTIONS, categories in ascending order of their ids.

    Raises:
        UserError: no such evaluator, it is not installed, or its threads have stayed in the process that this one
            was forked from.
    """
    if evaluator not in EVALUATORS:
        raise UserError(f"unknown evaluator {evaluator!r}: one of auto, {', '.join(EVALUATORS)}")
    if evaluator in _without_threads:
        raise UserError(f"the evaluator {evaluator} cannot be used here: {_FORKED}. Use auto.")
    if not given.category_ids or not given.image_ids:
        count = len(given.category_ids)
        return -np.ones((10, 101, count, 4, 3)), -np.ones((10, count, 4, 3))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            precision, recall = EVALUATORS[evaluator].evaluate(given)
    except ImportError as error:
        raise UserError(f"the evaluator {evaluator} cannot be imported: {error}. Install it or use auto.") from None
    return np.asarray(precision), np.asarray(recall)


def evaluator_version(evaluator: str) -> str:
    """The installed version of the evaluator's package, "not installed" without one."""
    try:
        return importlib.metadata.version(evaluator)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def choose_evaluator() -> str:
    """The rule of "auto": the first of EVALUATORS that is installed in its tested version and can be imported.

    Asked once per process, and anew in a forked one; a log line says why a faster one was passed over.
    """
    passed_over = []
    for name in EVALUATORS:
        reason = _reason_against(name)
        if not reason:
            break
        passed_over.append(reason)
    if passed_over:
        logger.warning("COCO AP is computed by %s: %s", name, "; ".join(passed_over))
    return name


def _reason_against(name: str) -> str:
    """Why "auto" passes an evaluator over, "" where it does not."""
    version, tested = evaluator_version(name), EVALUATORS[name].tested_version
    if name == REFERENCE:
        return ""
    if name in _without_threads:
        return f"{name}: {_FORKED}"
    if version != tested:
        return f"{name} is {version} ({tested} is the tested version)"
    try:
        importlib.import_module(EVALUATORS[name].module)
    except ImportError as error:
        return f"{name} {version} cannot be imported ({error})"
    return ""


def _after_fork() -> None:
    _without_threads.update(_with_threads)
    choose_evaluator.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


def largest_difference(first: Arrays, second: Arrays) -> float:
    """The largest absolute difference of any element of two evaluators' arrays; inf where shapes differ."""
    if any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
        return float("inf")
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(first, second, strict=True))


def _pycocotools(given: EvaluationInput) -> Arrays:
    cocoeval = importlib.import_module("pycocotools.cocoeval")
    evaluation = cocoeval.COCOeval(*as_coco(given), iouType=given.iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def as_coco(given: EvaluationInput) -> list:
    """Ground truth and detections as pycocotools holds them, two ``pycocotools.coco.COCO``."""
    coco = importlib.import_module("pycocotools.coco")
    sides = []
    for columns in (given.ground_truth, given.detections):
        side = coco.COCO()
        side.dataset = _dataset(given, columns)
        side.createIndex()
        sides.append(side)
    return sides


def _faster_coco_eval(given: EvaluationInput) -> Arrays:
    package = importlib.import_module("faster_coco_eval")
    evaluator = importlib.import_module("faster_coco_eval.core.faster_eval_api")
    silent = logger.debug
    sides = [
        package.COCO(_dataset(given, columns), print_function=silent)
        for columns in (given.ground_truth, given.detections)
    ]
    evaluation = evaluator.COCOeval_faster(*sides, iouType=given.iou_type, print_function=silent)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _hotcoco(given: EvaluationInput) -> Arrays:
    hotcoco = importlib.import_module("hotcoco")
    _with_threads.add("hotcoco")
    truth, found = given.ground_truth, given.detections
    ground_truth = hotcoco.COCO.from_arrays(
        _images(given),
        _categories(given),
        truth.image + 1,
        truth.category + 1,
        truth.box,
        ids=np.arange(1, len(truth) + 1),
        area=truth.area,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=truth.mask,
    )
    rows = np.empty((len(found), 7))
    rows[:, 0], rows[:, 1:5], rows[:, 5], rows[:, 6] = found.image + 1, found.box, found.score, found.category + 1
    detections = ground_truth.load_res(rows, segmentation=found.mask)
    detections.update_anns(ids=np.arange(1, len(found) + 1), area=found.area)
    evaluation = hotcoco.COCOeval(ground_truth, detections, given.iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    return arrays["precision"], arrays["recall"]


class Evaluator(NamedTuple):
    """A program by the name of its package.

    module: what its package is imported as.
    tested_version: the one that the tests compare with the reference, and that pyproject.toml and constraints.txt
        name; None for the reference.
    """

    module: str
    tested_version: str | None
    evaluate: Callable[[EvaluationInput], Arrays]


# Fastest first. Measured on one core with 5,000 images and some 490,000 boxes: hotcoco 0.9 s, faster-coco-eval 11 s,
# pycocotools 64 s.
EVALUATORS = {
    "hotcoco": Evaluator("hotcoco", "1.3.0", _hotcoco),
    "faster-coco-eval": Evaluator("faster_coco_eval", "1.8.0", _faster_coco_eval),
    REFERENCE: Evaluator("pycocotools", None, _pycocotools),
}


def _dataset(given: EvaluationInput, columns: Columns) -> dict:
    """The columns as a COCO dictionary; ids count from 1, since a match with id 0 is taken for none."""
    values = {
        "image_id": columns.image + 1,
        "category_id": columns.category + 1,
        "bbox": columns.box,
        "area": columns.area,
        "iscrowd": columns.crowd.astype(int),
        "score": columns.score,
    }
    rows = zip(*(column.tolist() for column in values.values()), strict=True)
    annotations = [{"id": index, **dict(zip(values, row, strict=True))} for index, row in enumerate(rows, start=1)]
    if columns.mask is not None:
        for annotation, mask in zip(annotations, columns.mask, strict=True):
            annotation["segmentation"] = dict(mask)
    return {"info": {}, "images": _images(given), "categories": _categories(given), "annotations": annotations}


def _images(given: EvaluationInput) -> list[dict]:
    return [
        {"id": index, "height": height, "width": width, "file_name": ""}
        for index, (height, width) in enumerate(given.image_sizes.tolist(), start=1)
    ]


def _categories(given: EvaluationInput) -> list[dict]:
    return [{"id": index, "name": name} for index, name in enumerate(given.category_names, start=1)]
