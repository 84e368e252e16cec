"""Generated ground truth and detections, on which evaluators are compared: small, seeded, full of corners."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from detection.coco_ap.inputs import EvaluationInput, build_input


def hard_case(iou_type: str) -> EvaluationInput:
    """The fixed case whose arrays a faster evaluator must give as the reference does, element by element."""
    return build_input(*random_case(2017, masks=iou_type == "segm", images=12, crowded=True), iou_type)


def random_case(
    seed: int, *, masks: bool = False, images: int = 5, categories: int = 4, crowded: bool = False
) -> tuple[dict, list[dict]]:
    """A ground truth dictionary and a list of detections, the same for the same arguments.

    Among them: crowds, equal scores (a tenth apart, so that ties are many), detections equal to, shifted from
    and unrelated to an object, overlaps exactly at a threshold, areas exactly at and beside 32^2 and 96^2
    (the annotated area differs from the box's, as in COCO), zero-sized boxes, several detections of one
    object, objects with the same box, scores of -0.0 and beyond 0..1, a category without objects, an image
    without objects, one without detections, gapped ids; with `crowded` over 100 detections of one category in
    an image. With `masks`, objects are ellipses, as run lengths or polygons.
    """
    random = np.random.default_rng([seed, images, categories, int(masks)])
    size = 140 if masks else 256
    category_ids = sorted(random.choice(np.arange(1, 91), categories, replace=False).tolist())
    image_ids = sorted(random.choice(np.arange(1, 10_000), images, replace=False).tolist())
    ground_truth = {
        "images": [{"id": one, "height": size, "width": size + 20, "file_name": f"{one}.png"} for one in image_ids],
        "categories": [{"id": one, "name": f"class {one}"} for one in category_ids],
        "annotations": [],
    }
    detections: list[dict] = []
    for position, image_id in enumerate(image_ids):
        # The last category never occurs, nor does anything in the second image; the third image has no
        # detections.
        objects = 0 if position == 1 else int(random.integers(1, 9))
        boxes = [_box(random, size) for _ in range(objects)]
        boxes += [list(box) for box in boxes if random.random() < 0.2]
        for box in boxes:
            crowd = int(random.random() < 0.2)
            annotation = {
                "id": len(ground_truth["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(random.choice(category_ids[:-1])),
                "bbox": box,
                "area": _area(random, box),
                "iscrowd": crowd,
            }
            if masks:
                annotation["segmentation"] = _shape(box, size, polygon=not crowd and random.random() < 0.5)
            ground_truth["annotations"].append(annotation)
        if position == 2:
            continue
        found = []
        for _ in range(int(random.integers(0, 25))):
            near = bool(boxes) and random.random() < 0.8
            box = _moved(random, boxes[int(random.integers(len(boxes)))]) if near else _box(random, size)
            found.append((int(random.choice(category_ids)), _score(random), box))
        if crowded and position == 0:
            found += _hundred_and_more(ground_truth, image_id, category_ids[0], size, masks)
        for category, score, box in found:
            record = {"image_id": image_id, "category_id": category, "score": score}
            record["segmentation" if masks else "bbox"] = _shape(box, size) if masks else box
            detections.append(record)
    random.shuffle(detections)
    return ground_truth, detections


def _hundred_and_more(ground_truth: dict, image_id: int, category: int, size: int, masks: bool) -> list[tuple]:
    """Adds two objects, and returns 130 detections whose 100th and 101st by score find one each."""
    boxes = [[2.0, 3.0, 40.0, 40.0], [60.0, 3.0, 30.0, 40.0]]
    for box in boxes:
        annotation = {
            "image_id": image_id,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        if masks:
            annotation["segmentation"] = _shape(box, size)
        ground_truth["annotations"].append({"id": len(ground_truth["annotations"]) + 1, **annotation})
    nowhere = [size - 30.0, size - 30.0, 20.0, 20.0]
    before = [(category, 20.0 + number // 2, nowhere) for number in range(99)]
    after = [(category, -10.0, nowhere)] * 29
    return [*before, (category, 19.0, boxes[0]), (category, 18.0, boxes[1]), *after]


def _box(random: np.random.Generator, size: int) -> list[float]:
    kind = random.random()
    if kind < 0.15:
        side = 32.0 if random.random() < 0.5 or size < 100 else 96.0
        width, height = side, side
    elif kind < 0.2:
        width, height = 0.0, float(random.integers(0, 20))
    elif kind < 0.25:
        width, height = size * 0.85, size * 0.85
    else:
        width, height = (float(value) for value in random.integers(1, size // 2, 2))
    x, y = (float(value) for value in random.integers(0, size // 2, 2))
    return [x, y, width, height]


def _score(random: np.random.Generator) -> float:
    kind = random.random()
    if kind < 0.7:
        return int(random.integers(0, 11)) / 10
    if kind < 0.8:  # not probabilities, but sortable: logits, and the two zeros, which are equal
        return float(random.choice([-0.0, 0.0, -3.5, 12.0, 1e-300]))
    return float(random.random())


def _moved(random: np.random.Generator, box: list[float]) -> list[float]:
    x, y, width, height = box
    kind = random.random()
    if kind < 0.3:
        return list(box)
    if kind < 0.6:  # inside its object with an overlap of exactly 0.50, 0.55, ..., up to rounding
        return [x, y, width * float(random.integers(10, 20)) / 20, height]
    shift = random.normal(0, 0.1, 4) * [width, height, width, height]
    moved = [x + shift[0], y + shift[1], max(width + shift[2], 0.0), max(height + shift[3], 0.0)]
    return [round(float(value), int(random.integers(0, 4))) for value in moved]


def _area(random: np.random.Generator, box: list[float]) -> float:
    kind = random.random()
    if kind < 0.3:
        return float(random.choice([32.0**2, 96.0**2, np.nextafter(32.0**2, 0), np.nextafter(96.0**2, 1e9), 0.0, 1e11]))
    return box[2] * box[3] * (1.0 if kind < 0.6 else float(random.random()))


def _shape(box: list[float], size: int, polygon: bool = False) -> list | dict:
    """An ellipse in `box`: a polygon, or compressed run lengths of a mask `size` high, `size` + 20 wide."""
    x, y, width, height = box
    if polygon:
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        points = np.stack(
            [x + width / 2 * (1 + np.cos(angle)), y + height / 2 * (1 + np.sin(angle))],
            axis=1,
        )
        return [[round(float(value), 2) for value in points.ravel()]]
    top, left = max(int(y) - 1, 0), max(int(x) - 1, 0)
    inside = np.zeros((size, size + 20), dtype=np.uint8, order="F")
    rows, columns = np.mgrid[top : int(y + height) + 2, left : int(x + width) + 2] + 0.5
    across, down = (
        (columns - x - width / 2) / max(width / 2, 0.5),
        (rows - y - height / 2) / max(height / 2, 0.5),
    )
    window = inside[top : int(y + height) + 2, left : int(x + width) + 2]
    window[:] = (across**2 + down**2 <= 1)[: window.shape[0], : window.shape[1]]
    encoded = coco_mask.encode(inside)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}
