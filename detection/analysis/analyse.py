"""Where a detector is wrong, written down: curves, thresholds, confusions and the worst mistakes of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detection.analysis import confusion, curves, mistakes
from detection.analysis.curve_picture import curve_table, plot_curves
from detection.analysis.mistake_picture import draw_mistake
from detection.coco_ap.matching import match
from detection.coco_ap.reading import read_input
from detection.thresholds import USUAL
from engine.json_files import write_json
from engine.report.confusion import confused_pairs, plot_confusion_with_background
from engine.report.mistakes import FOLDER, write_mistakes


def analyse_detections(
    ground_truth: str | os.PathLike | dict,
    detections: str | os.PathLike | Sequence[dict],
    run: Path,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
    source: str = "",
    max_pixels: int = 0,
) -> dict:
    """Writes into ``run``: ``analysis/`` with ``thresholds.json``, ``precision_recall.json``, ``confusion.json``,
    ``mistakes.json`` and the pictures of mistakes; ``plots/precision_recall.png`` and ``plots/confusion.png``.

    Args:
        ground_truth, detections: as for ``evaluate_coco``; boxes are looked at.
        images: the folder of the images; None: no pictures of mistakes.
        class_names: in place of the file's, in ascending order of category ids.
        source: what the thresholds are said to be from.
        max_pixels: that an image may have to be drawn; 0: any.

    Returns:
        {"thresholds": as in ``thresholds.json``, "confused_pairs": those most often taken for each other: {"truth",
        "predicted", "count", "share" (percent of the truth's objects)}}.

    Raises:
        UserError: as ``evaluate_coco``.
    """
    given = read_input(ground_truth, detections)
    names = given.category_names if class_names is None else list(class_names)
    matches = match(given)
    found = curves.curves(given, matches)
    thresholds = _thresholds(found, names, source)
    scores = [entry["threshold"] for entry in thresholds["classes"].values()]
    scores = [USUAL if score is None else score for score in scores]
    decisions = confusion.decide(given, matches, scores)
    counts = confusion.confusion_counts(given, matches, decisions)
    folder = Path(run) / FOLDER
    write_json(folder / "thresholds.json", thresholds)
    write_json(folder / "precision_recall.json", curve_table(found, names), indent=None)
    matrix = {
        "rule": confusion.RULE,
        "thresholds": scores,
        "classes": [*names, confusion.BACKGROUND],
        "counts": counts.tolist(),
    }
    write_json(folder / "confusion.json", matrix, indent=None)
    plots = Path(run) / "plots"
    for name, drawn in (
        ("precision_recall.png", partial(plot_curves, found, names)),
        ("confusion.png", partial(plot_confusion_with_background, counts, names)),
    ):
        if drawn(plots / name) is None:
            (plots / name).unlink(missing_ok=True)  # of an earlier evaluation
    worst, totals = mistakes.find_mistakes(given, matches, decisions, names)
    draw = None if images is None else partial(draw_mistake, images=Path(images), max_pixels=max_pixels)
    write_mistakes(folder, mistakes.RULE, worst, totals, draw)
    return {"thresholds": thresholds, "confused_pairs": confused_pairs(counts[:-1], names)}


def class_thresholds(
    ground_truth: str | os.PathLike | dict,
    detections: str | os.PathLike | Sequence[dict],
    class_names: Sequence[str],
    source: str = "",
) -> dict:
    """``thresholds.json`` by itself; arguments as for ``analyse_detections``."""
    given = read_input(ground_truth, detections)
    return _thresholds(curves.curves(given, match(given)), class_names, source)


def _thresholds(found: Sequence[curves.Curve], names: Sequence[str], source: str) -> dict:
    classes = {}
    for name, curve in zip(names, found, strict=True):
        best = curve.best()
        values = (None,) * 4 if best is None else (best.score, best.precision, best.recall, best.f1)
        entry = dict(zip(("threshold", "precision", "recall", "f1"), values, strict=True))
        classes[name] = {**entry, "objects": int(curve.objects)}
    return {"rule": curves.RULE, "data": source, "otherwise": USUAL, "classes": classes}
