"""COCO average precision: the twelve figures and each category's AP, equal to pycocotools'.

The figures are those of https://cocodataset.org/#detection-eval: AP is the mean over IoU thresholds
0.50:0.05:0.95 and categories of the precision at 101 recall levels; AR the mean of the highest recall, with
at most 1, 10 or 100 detections an image; small, medium, large are areas up to 32^2, 96^2 and above, in square
pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from detection.coco_ap.evaluators import (
    EVALUATORS,
    REFERENCE,
    Arrays,
    choose_evaluator,
    evaluate_with,
    evaluator_version,
    largest_difference,
)
from detection.coco_ap.inputs import EvaluationInput
from detection.coco_ap.reading import read_input, read_inputs
from engine.errors import UserError

# name: (of precision or of recall, index of the IoU threshold or None for all, index of the area, of maxDets)
FIGURES = {
    "AP": ("precision", None, 0, 2),
    "AP50": ("precision", 0, 0, 2),
    "AP75": ("precision", 5, 0, 2),
    "APs": ("precision", None, 1, 2),
    "APm": ("precision", None, 2, 2),
    "APl": ("precision", None, 3, 2),
    "AR1": ("recall", None, 0, 0),
    "AR10": ("recall", None, 0, 1),
    "AR100": ("recall", None, 0, 2),
    "ARs": ("recall", None, 1, 2),
    "ARm": ("recall", None, 2, 2),
    "ARl": ("recall", None, 3, 2),
}


@dataclass
class CocoResult:
    """What one evaluation found. The dictionaries' keys are the IoU types, in the order asked for.

    figures: the twelve by name (the keys of FIGURES), in percent 0..100, None where there is nothing to find.
    per_category: AP by category name in the order of category ids, in percent, None without annotations.
    stats: the twelve as pycocotools gives them, in 0..1 at full precision, -1 where there is nothing to find.
    seconds: from columns to figures; reading and choosing an evaluator not counted.
    notes: what the reader of the figures should know (annotations left out, areas filled in).
    """

    figures: dict[str, dict[str, float | None]]
    per_category: dict[str, dict[str, float | None]]
    stats: dict[str, list[float]]
    evaluator: str
    evaluator_version: str
    seconds: float
    images: int
    ground_truths: int
    detections: int
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """For JSON: {"bbox": {"AP": ...}, "per_category": {"bbox": {name: AP}}, "evaluator": ..., ...}."""
        return {
            **self.figures,
            "per_category": self.per_category,
            "stats": self.stats,
            "evaluator": f"{self.evaluator} {self.evaluator_version}",
            "seconds": round(self.seconds, 3),
            "images": self.images,
            "ground_truths": self.ground_truths,
            "detections": self.detections,
            "notes": self.notes,
        }


def evaluate_coco(
    ground_truth: str | os.PathLike | dict,
    detections: str | os.PathLike | Sequence[dict],
    iou_types: Sequence[str] | None = ("bbox",),
    evaluator: str = "auto",
    class_names: Sequence[str] | None = None,
) -> CocoResult:
    """Evaluates result records against COCO annotations; neither input is changed, nothing is printed.

    Args:
        ground_truth: a COCO instances file or its dictionary (`info` and `licenses` may be missing).
        detections: a results file or its list of {"image_id", "category_id" (the file's own ids), "score",
            "bbox": [x, y, width, height] in pixels and/or "segmentation": run lengths or polygons}. An empty
            list gives 0 (or None where there is nothing to find).
        iou_types: any of "bbox" and "segm"; None for those that both sides have.
        evaluator: "auto" (the fastest in a tested version, see `choose_evaluator`) or the name of one.
        class_names: names to report instead of the file's, in ascending order of category ids.

    Raises:
        UserError: naming the file, record and key of what is wrong.
    """
    used = choose_evaluator() if evaluator == "auto" else evaluator
    result = CocoResult({}, {}, {}, used, evaluator_version(used), 0.0, 0, 0, 0)
    for given in read_inputs(ground_truth, detections, iou_types):
        start, iou_type = time.perf_counter(), given.iou_type
        names = _class_names(given, class_names)
        arrays = evaluate_with(used, given)
        stats = summarize(arrays)
        result.seconds += time.perf_counter() - start
        result.figures[iou_type] = {name: _percent(value) for name, value in zip(FIGURES, stats, strict=True)}
        result.per_category[iou_type] = dict(zip(names, _category_ap(arrays), strict=True))
        result.stats[iou_type] = stats
        result.images = len(given.image_ids)
        result.ground_truths, result.detections = len(given.ground_truth), len(given.detections)
        result.notes += [note for note in given.notes if note not in result.notes]
    return result


def summarize(arrays: Arrays) -> list[float]:
    """The twelve figures, 0..1 or -1, from precision (10, 101, K, 4, 3) and recall (10, K, 4, 3).

    The same sums in the same order as pycocotools' COCOeval.summarize, so equal arrays give equal figures.
    """
    precision, recall = arrays
    stats = []
    for kind, threshold, area, limit in FIGURES.values():
        values = (precision if kind == "precision" else recall)[..., area, limit]
        if threshold is not None:
            values = values[threshold]
        present = values[values > -1]
        stats.append(float(np.mean(present)) if present.size else -1.0)
    return stats


def compare_evaluators(
    ground_truth: str | os.PathLike | dict,
    detections: str | os.PathLike | Sequence[dict],
    iou_type: str = "bbox",
    evaluators: Sequence[str] | None = None,
) -> list[dict]:
    """Times every installed evaluator (or those named) on the same records, pycocotools always and last.

    Returns:
        for each: {"evaluator", "version", "seconds" (columns to figures), "largest_difference" (of any
        element of the precision and recall arrays to pycocotools'), "stats" (the twelve, 0..1)}.
    """
    given = read_input(ground_truth, detections, iou_type)
    names = [name for name in EVALUATORS if evaluators is None or name in evaluators]
    names = [name for name in names if name != REFERENCE and evaluator_version(name) != "not installed"]
    rows, arrays = [], {}
    for name in [*names, REFERENCE]:
        start = time.perf_counter()
        arrays[name] = evaluate_with(name, given)
        stats = summarize(arrays[name])
        seconds = time.perf_counter() - start
        rows.append({"evaluator": name, "version": evaluator_version(name), "seconds": seconds, "stats": stats})
    for row in rows:
        row["largest_difference"] = largest_difference(arrays[row["evaluator"]], arrays[REFERENCE])
    return rows


def format_table(result: CocoResult, categories: bool = True, width: int = 110) -> str:
    """The twelve figures, a line an IoU type, and with `categories` each category's AP, in columns.

    Percent; "-" where there is nothing to find. Lines are at most `width` characters unless a name is longer.
    """
    lines = [" " * 6 + "".join(f"{name:>8}" for name in FIGURES)]
    for iou_type, figures in result.figures.items():
        lines.append(f"{iou_type:<6}" + "".join(f"{_shown(value):>8}" for value in figures.values()))
    if categories:
        lines += [
            "",
            "AP of each category" + (f" ({', '.join(result.figures)})" if len(result.figures) > 1 else ""),
        ]
        lines += _category_lines(list(result.per_category.values()), width)
    lines += [
        "",
        f"{result.images} images, {result.ground_truths} annotations, {result.detections} detections; "
        f"{result.evaluator} {result.evaluator_version}, {result.seconds:.2f} s",
    ]
    return "\n".join(lines + [f"note: {note}" for note in result.notes])


def _category_lines(tables: list[dict[str, float | None]], width: int) -> list[str]:
    names = list(tables[0])
    if not names:
        return ["(no categories)"]
    longest = max(map(len, names))
    cells = [f"{name:<{longest}}" + "".join(f"{_shown(table[name]):>8}" for table in tables) for name in names]
    columns = max(1, min((width + 4) // (len(cells[0]) + 4), -(-len(cells) // 8)))
    rows = -(-len(cells) // columns)
    # Down the columns, so that the order of ids reads like a list.
    return ["    ".join(cells[row::rows]) for row in range(rows)]


def _class_names(given: EvaluationInput, class_names: Sequence[str] | None) -> list[str]:
    if class_names is None:
        return given.category_names
    if len(class_names) != len(given.category_names) or len(set(class_names)) != len(class_names):
        raise UserError(
            f"{len(class_names)} class names ({len(set(class_names))} different) for the ground truth's "
            f"{len(given.category_names)} categories; give one each, in ascending order of category ids"
        )
    return list(class_names)


def _category_ap(arrays: Arrays) -> list[float | None]:
    precision = arrays[0][..., 0, 2]  # (10, 101, K)
    columns = [precision[:, :, index] for index in range(precision.shape[2])]
    return [_percent(float(np.mean(one[one > -1])) if (one > -1).any() else -1.0) for one in columns]


def _percent(value: float) -> float | None:
    return None if value < 0 else 100.0 * value


def _shown(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"
