"""Pictures of a run's predictions, beside the truth."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from detection.data import DetectionData
from detection.predict.detections import Detections
from detection.predict.draw import draw_comparison
from detection.task_info import DETECTION
from engine import compat  # noqa: F401  (before detectron2)
from engine.images.reading import UnreadableImage, read_image
from engine.images.writing import write_image
from engine.json_files import read_json
from engine.predict.result_names import ResultNames, flat_picture_name

logger = logging.getLogger(__name__)


def write_pictures(
    run: Path, data: DetectionData, count: int = 8, threshold: float = 0.5, max_pixels: int = 0
) -> list[Path]:
    """Draws truth and predictions of some images side by side into ``predictions/``; an image that cannot be read is
    passed over.

    Args:
        run: a run folder with the results of an evaluation on ``data``.
        count: how many, spread evenly over the set.
        threshold: the lowest score that is drawn, 0..1.
        max_pixels: that an image may have; 0: any.

    Returns:
        the files.
    """
    index_of = {category: index for index, category in enumerate(data.category_ids)}
    found: dict[int, list[dict]] = {}
    for result in read_json(Path(run) / DETECTION.predictions_file, "results"):
        if result["score"] >= threshold:
            found.setdefault(result["image_id"], []).append(result)
    records = data.records()
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    paths, folder = [], Path(run) / "predictions"
    names = ResultNames(folder)
    for record in (records[i] for i in chosen):
        try:
            image = read_image(record["file_name"], max_pixels)
        except UnreadableImage as error:
            logger.warning("no picture of %s", error)
            continue
        truth = [a for a in record["annotations"] if not a["iscrowd"]]
        mine = found.get(record["image_id"], [])
        picture = draw_comparison(
            image,
            as_detections(truth, [a["category_id"] for a in truth], with_scores=False),
            as_detections(mine, [index_of[r["category_id"]] for r in mine]),
            data.class_names,
        )
        name = names.unused(flat_picture_name(_below(record["file_name"], data.image_root)))
        paths.append(write_image(folder / name, picture))
    return paths


def _below(path: str, folder: Path) -> str:
    """A path within a folder, relative to it; the name alone of one elsewhere."""
    relative = os.path.relpath(path, folder)
    return os.path.basename(path) if relative.startswith("..") else relative


def as_detections(records: list[dict], classes: list[int], with_scores: bool = True) -> Detections:
    """COCO's records, annotations or results, whose ``bbox`` is x, y, width, height, under class indices."""
    boxes = np.array([r["bbox"] for r in records], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(boxes, [r["score"] for r in records] if with_scores else None, classes)
