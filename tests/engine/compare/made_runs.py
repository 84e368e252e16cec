"""Folders of runs that were never made, with the files that a comparison reads."""

import json

import cv2
import numpy as np
import yaml

CLASSES = ("coast", "street")


def write_classifier(folder, wrong, data, images=8, **config):
    """A finished run whose first guesses are wrong for the images of these numbers; even ones are coasts."""
    folder.mkdir(parents=True)
    records = []
    for number in range(images):
        label, other = CLASSES[number % 2], CLASSES[1 - number % 2]
        sure = round(0.6 + number / 100, 5)
        top = [[other, sure], [label, 1 - sure]] if number in wrong else [[label, sure], [other, 1 - sure]]
        records.append({"file": f"{label}/{number}.png", "label": label, "top": top})
    (folder / "class_predictions.json").write_text(json.dumps(records))
    top1 = 100 - 100 * len(wrong) / images
    by_class = {
        name: 100 - 100 * sum(number % 2 == place for number in wrong) / (images / 2)
        for place, name in enumerate(CLASSES)
    }
    write_result(folder, "classification", {"classification": {"top1": top1, "top5": 100.0}}, by_class, images)
    network = {"BACKBONE": {"ARCHITECTURE": "resnet18"}}
    own = {"DATA": {"ROOT": str(data), "CACHE": str(folder.parent / "cache")}, "MODEL": network, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(own))
    return folder


def write_result(folder, task, figures, by_class, images):
    group = next(iter(figures))
    result = {**figures, "per_category": {group: by_class}, "images": images, "task": task, "parameters": 1_000}
    (folder / "result.json").write_text(json.dumps(result))
    lines = [{"iteration": i, "total_loss": 3 / i} for i in range(1, 21)]
    lines.append({"iteration": 20, f"{group}/{next(iter(figures[group]))}": next(iter(figures[group].values()))})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


def write_class_folders(folder, images=8):
    """The validation images of those runs."""
    for number in range(images):
        path = folder / "val" / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((30, 40, 3), 25 * number % 256, np.uint8))
    return folder


def write_detector(folder, found, json_path, images, figure):
    """A finished run with these detections, COCO's records, and their AP."""
    folder.mkdir(parents=True)
    (folder / "coco_instances_results.json").write_text(json.dumps(found))
    write_result(folder, "detection", {"bbox": {"AP": figure, "AP50": figure}}, {}, 4)
    config = {"DATA": {"VAL": {"JSON": str(json_path), "IMAGES": str(images)}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
