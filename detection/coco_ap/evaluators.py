"""The programs that match detections to ground truth, behind one call: columns in, arrays out.

pycocotools is the reference. A faster one is used only where it has just been seen to give the reference's
arrays.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import logging
from collections.abc import Callable

import numpy as np

from detection.coco_ap.problems import hard_problem
from detection.coco_ap.records import CocoProblem, Columns
from engine.errors import UserError

TOLERANCE = 1e-9
AREAS = ("all", "small", "medium", "large")
MAX_DETECTIONS = (1, 10, 100)

Arrays = tuple[np.ndarray, np.ndarray]


def evaluate_with(evaluator: str, problem: CocoProblem) -> Arrays:
    """Runs one evaluator, without a word on stdout.

    Returns:
        precision (10 IoU thresholds 0.50:0.05:0.95, 101 recall thresholds, K categories, 4 areas, 3 maxDets)
        and recall (10, K, 4, 3), float64 in 0..1, -1 where there is nothing to find; areas and maxDets as in
        AREAS and MAX_DETECTIONS, categories in ascending order of their ids.

    Raises:
        UserError: no such evaluator, or it is not installed.
    """
    if evaluator not in EVALUATORS:
        raise UserError(f"unknown evaluator {evaluator!r}: one of auto, {', '.join(EVALUATORS)}")
    if not problem.category_ids or not problem.image_ids:
        count = len(problem.category_ids)
        return -np.ones((10, 101, count, 4, 3)), -np.ones((10, count, 4, 3))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            precision, recall = EVALUATORS[evaluator][1](problem)
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
def choose_evaluator(iou_type: str) -> tuple[str, tuple[str, ...]]:
    """The rule of "auto": the first of EVALUATORS that equals pycocotools here and now.

    Each faster one is run on a fixed set of hard cases (crowds, equal scores within and across images, over
    100 detections of a class in an image, areas exactly at 32^2 and 96^2, overlaps exactly at a threshold,
    classes and images without objects, zero-sized boxes) and must give every element of pycocotools'
    precision and recall arrays to 1e-9. Takes some 0.1 s, once per process and IoU type. So another version
    of an evaluator, or another build of it, is used if and only if it is right on these cases on this
    machine.

    Returns:
        the evaluator's name, and for each one passed over a sentence that says why.
    """
    problem = hard_problem(iou_type)
    reference = evaluate_with("pycocotools", problem)
    passed_over = []
    for name in EVALUATORS:
        if name == "pycocotools":
            break
        if importlib.util.find_spec(EVALUATORS[name][0]) is None:
            passed_over.append(f"{name} is not installed")
            continue
        try:
            difference = largest_difference(evaluate_with(name, problem), reference)
        except Exception as error:  # whatever a foreign evaluator does wrong, the reference still works
            passed_over.append(f"{name} {evaluator_version(name)} fails on the test cases: {error}")
            continue
        if difference <= TOLERANCE:
            return name, tuple(passed_over)
        passed_over.append(
            f"{name} {evaluator_version(name)} differs from pycocotools by {difference:.2g} on the test cases"
        )
    return "pycocotools", tuple(passed_over)


def largest_difference(first: Arrays, second: Arrays) -> float:
    """The largest absolute difference of any element of two evaluators' arrays; inf where shapes differ."""
    if any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
        return float("inf")
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(first, second, strict=True))


def _pycocotools(problem: CocoProblem) -> Arrays:
    coco, cocoeval = (
        importlib.import_module("pycocotools.coco"),
        importlib.import_module("pycocotools.cocoeval"),
    )
    sides = []
    for columns in (problem.ground_truth, problem.detections):
        side = coco.COCO()
        side.dataset = _dataset(problem, columns)
        side.createIndex()
        sides.append(side)
    evaluation = cocoeval.COCOeval(*sides, iouType=problem.iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _faster_coco_eval(problem: CocoProblem) -> Arrays:
    package = importlib.import_module("faster_coco_eval")
    evaluator = importlib.import_module("faster_coco_eval.core.faster_eval_api")
    silent = logging.getLogger(__name__).debug
    sides = [
        package.COCO(_dataset(problem, columns), print_function=silent)
        for columns in (problem.ground_truth, problem.detections)
    ]
    evaluation = evaluator.COCOeval_faster(*sides, iouType=problem.iou_type, print_function=silent)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _hotcoco(problem: CocoProblem) -> Arrays:
    hotcoco = importlib.import_module("hotcoco")
    truth, found = problem.ground_truth, problem.detections
    ground_truth = hotcoco.COCO.from_arrays(
        _images(problem),
        _categories(problem),
        truth.image + 1,
        truth.category + 1,
        truth.box,
        ids=np.arange(1, len(truth) + 1),
        area=truth.area,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=truth.mask,
    )
    rows = np.column_stack([found.image + 1, found.box, found.score, found.category + 1])
    detections = ground_truth.load_res(np.ascontiguousarray(rows, dtype=np.float64), segmentation=found.mask)
    detections.update_anns(ids=np.arange(1, len(found) + 1), area=found.area)
    evaluation = hotcoco.COCOeval(ground_truth, detections, problem.iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    return arrays["precision"], arrays["recall"]


# Fastest first; the name is that of the package, beside it the module to import. Measured on one core with
# 5,000 images and some 490,000 boxes: hotcoco 0.9 s, faster-coco-eval 11 s, pycocotools 64 s.
EVALUATORS: dict[str, tuple[str, Callable[[CocoProblem], Arrays]]] = {
    "hotcoco": ("hotcoco", _hotcoco),
    "faster-coco-eval": ("faster_coco_eval", _faster_coco_eval),
    "pycocotools": ("pycocotools", _pycocotools),
}


def _dataset(problem: CocoProblem, columns: Columns) -> dict:
    """The columns as a COCO dictionary; ids count from 1, since a match with id 0 is taken for none."""
    rows = zip(
        columns.image.tolist(),
        columns.category.tolist(),
        columns.box.tolist(),
        columns.area.tolist(),
        columns.crowd.tolist(),
        columns.score.tolist(),
        strict=True,
    )
    annotations = [
        {
            "id": index,
            "image_id": image + 1,
            "category_id": category + 1,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
            "score": score,
        }
        for index, (image, category, box, area, crowd, score) in enumerate(rows, start=1)
    ]
    if columns.mask is not None:
        for annotation, mask in zip(annotations, columns.mask, strict=True):
            annotation["segmentation"] = dict(mask)
    return {
        "info": {},
        "images": _images(problem),
        "categories": _categories(problem),
        "annotations": annotations,
    }


def _images(problem: CocoProblem) -> list[dict]:
    return [
        {"id": index, "height": height, "width": width, "file_name": ""}
        for index, (height, width) in enumerate(problem.image_sizes.tolist(), start=1)
    ]


def _categories(problem: CocoProblem) -> list[dict]:
    return [{"id": index, "name": name} for index, name in enumerate(problem.category_names, start=1)]
