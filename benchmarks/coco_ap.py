"""The COCO AP command on a set of COCO's size, and its imports: processor time of whole commands."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Setting
from detection.coco_ap.average_precision import compare_evaluators, evaluate_coco

ROOT = Path(__file__).resolve().parents[1]
IMAGES, EACH, CATEGORIES = 5000, 98, 80  # COCO's validation set, and detections of each image


def drawn_set(folder: Path, images: int) -> tuple[Path, Path]:
    """Ground truth and detections by chance, as COCO's files hold them: paths in a folder."""
    random = np.random.default_rng(0)
    annotations, detections = [], []
    ids = range(13, 13 + 7 * images, 7)
    listed = [{"id": one, "height": 480, "width": 640, "file_name": f"{one:012}.jpg"} for one in ids]
    for image in listed:
        count = int(random.integers(2, 13))
        corner, side = random.uniform(0, 300, (count, 2)), random.uniform(8, 180, (count, 2))
        labels = random.integers(1, CATEGORIES + 1, count)
        own = {"image_id": image["id"]}
        for box, label in zip(np.hstack((corner, side)).round(2).tolist(), labels.tolist(), strict=True):
            shape = [box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3]] * 4
            annotations.append(
                {"id": len(annotations) + 1, **own, "category_id": label, "bbox": box, "area": box[2] * box[3] * 0.8,
                 "iscrowd": int(random.random() < 0.01), "segmentation": [shape]}
            )  # fmt: skip
        near = random.integers(0, count, EACH)
        boxes = np.hstack((corner, side))[near]
        boxes[:, :2] += random.normal(0, 0.1, (EACH, 2)) * boxes[:, 2:]
        boxes[EACH // 2 :, :2] = random.uniform(0, 300, (EACH - EACH // 2, 2))
        scores, found = random.random(EACH).tolist(), labels[near].tolist()
        detections += [
            {**own, "category_id": label, "bbox": box, "score": score}
            for box, label, score in zip(boxes.tolist(), found, scores, strict=True)
        ]
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, CATEGORIES + 1)]
    truth = {"images": listed, "annotations": annotations, "categories": categories}
    paths = folder / "truth.json", folder / "detections.json"
    for path, value in zip(paths, (truth, detections), strict=True):
        path.write_text(json.dumps(value))
    return paths


def processor_seconds(words: Sequence[str | Path]) -> float:
    """Of a whole command of Python's, its threads' together."""
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def coco_ap(setting: Setting, images: int = IMAGES) -> dict:
    """tools/evaluate_coco.py on 5,000 images and 490,000 detections: processor time of the whole command, of reading
    and evaluating alone, and of the import; the largest difference of any element from pycocotools' arrays."""
    with tempfile.TemporaryDirectory() as folder:
        paths = drawn_set(Path(folder), images)
        command = ["tools/evaluate_coco.py", *paths, "--no-categories"]
        whole, imports, inside = [], [], []
        for _ in range(setting.rounds):
            whole.append(processor_seconds(command))
            imports.append(processor_seconds(["-c", "import detection.coco_ap.average_precision"]))
            begin = time.process_time()
            evaluate_coco(*paths)
            inside.append(time.process_time() - begin)
        rows = compare_evaluators(*paths)
    seconds = {"command": whole, "imports": imports, "reading_and_evaluating": inside}
    return {
        "theirs": f"{rows[-1]['evaluator']} {rows[-1]['version']}",
        "detections": images * EACH,
        "processor_seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "evaluators": [
            {"evaluator": f"{row['evaluator']} {row['version']}", "seconds": round(row["seconds"], 3),
             "largest_difference": row["largest_difference"]}
            for row in rows
        ],
    }  # fmt: skip
