"""Pictures of a run's predictions, beside the truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detection.data import DetectionData
from detection.predict.detections import Detections
from detection.predict.draw import draw_comparison
from detection.task_info import DETECTION
from engine import compat  # noqa: F401  (before detectron2)
from engine.json_files import read_json
from se_backbones.files import atomic_path

from detectron2.data import detection_utils as d2_utils


def write_pictures(run: Path, data: DetectionData, count: int = 8, threshold: float = 0.5) -> list[Path]:
    """Draws truth and predictions of some images side by side into ``predictions/``.

    Args:
        run: a run folder with the results of an evaluation on ``data``.
        count: how many, spread evenly over the set.
        threshold: the lowest score that is drawn, 0..1.
    """
    index_of = {category: index for index, category in enumerate(data.category_ids)}
    found: dict[int, list[dict]] = {}
    for result in read_json(Path(run) / DETECTION.predictions_file, "results"):
        if result["score"] >= threshold:
            found.setdefault(result["image_id"], []).append(result)
    records = data.records()
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    paths = []
    for record in (records[i] for i in chosen):
        image = d2_utils.read_image(record["file_name"], format="RGB")
        truth = [a for a in record["annotations"] if not a["iscrowd"]]
        mine = found.get(record["image_id"], [])
        picture = draw_comparison(
            image,
            Detections(_corners(truth), None, [a["category_id"] for a in truth]),
            Detections(_corners(mine), [r["score"] for r in mine], [index_of[r["category_id"]] for r in mine]),
            data.class_names,
        )
        path = Path(run) / "predictions" / f"{Path(record['file_name']).stem}.jpg"
        with atomic_path(path) as temporary:
            cv2.imwrite(str(temporary), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
        paths.append(path)
    return paths


def _corners(records: list[dict]) -> np.ndarray:
    """(N, 4) x0 y0 x1 y1 from COCO's x, y, width, height."""
    boxes = np.array([r["bbox"] for r in records], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
