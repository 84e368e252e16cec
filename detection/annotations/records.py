"""What can be wrong with the annotation records of a COCO-format set."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from detection.annotations.report import Problem
from detection.annotations.values import box_problem, is_id, keys_of, wrong_key

MAX_PIXELS_OUTSIDE = 1.0
"""Pixels that a box may reach outside its image; rounding, and counting pixels from 1, stay within it."""

PUBLISHED_FLAWS = {("000000200365.jpg", 200365), ("000000550395.jpg", 550395)}
"""Images (file, id) of COCO train2017 with a box of height 0 as published (cocodataset/cocoapi issue 355).
They are warnings, so that the official set trains as it is; Detectron2's mapper leaves such boxes out."""

NUMBERS = {int, float}


def check_annotation_records(
    annotations: list, images: dict, category_ids: set, need_masks: bool, problems: list[Problem]
) -> None:
    """Adds what is wrong with each annotation.

    Args:
        images: {id: record} of the sound image records.
        category_ids: ids of the sound categories.
        need_masks: whether segmentations are checked, too.
    """
    seen: set = set()
    keys = {"id": is_id, "image_id": is_id, "category_id": is_id, "bbox": lambda value: value is not None}
    for index, record in enumerate(annotations):
        plainly_right = _is_plainly_right(record, seen, images, category_ids)
        if plainly_right and not need_masks:
            seen.add(record["id"])
            continue
        wrong = "" if plainly_right else what_is_wrong(record, keys)
        if wrong:
            image_id, identity = (record.get(key) if isinstance(record, dict) else None for key in ("image_id", "id"))
            image = images.get(image_id, {}) if is_id(image_id) else {}
            name = image.get("file_name")
            ids = (as_text(image_id), as_text(identity))
            problems.append(Problem("annotation_record", "annotations", index, wrong, name, *ids))
            continue
        identity, image_id = as_text(record["id"]), as_text(record["image_id"])
        image = images.get(image_id)

        def add(kind: str, message: str, index=index, image=image, image_id=image_id, identity=identity) -> None:
            name = image["file_name"] if image else None
            problems.append(Problem(kind, "annotations", index, message, name, image_id, identity))

        if need_masks:
            _check_mask(record.get("segmentation"), image, add)
        if plainly_right:
            seen.add(identity)
            continue
        if identity in seen:
            add("duplicate_annotation_id", f"its id {identity} is taken by an earlier annotation")
        seen.add(identity)
        if image is None:
            add("unknown_image", f"no usable image record has the id {image_id}")
        if record["category_id"] not in category_ids:
            add("unknown_category", f"no usable category record has the id {record['category_id']}")
        _check_box(record["bbox"], image, add)


def _is_plainly_right(record: Any, seen: set, images: dict, category_ids: set) -> bool:
    """Whether one look clears a record of everything but its mask. False means: look closer, not: wrong.

    COCO's 860,000 annotations take under 2 s with this and over 5 s without.
    """
    try:
        x, y, width, height = record["bbox"]
        image = images[record["image_id"]]
        return (
            {type(x), type(y), type(width), type(height)} <= NUMBERS
            and type(record["id"]) is int
            and type(record["category_id"]) is int
            and record["id"] not in seen
            and record["category_id"] in category_ids
            and width > 0
            and height > 0
            and x >= 0
            and y >= 0
            and x + width <= image["width"]
            and y + height <= image["height"]
        )
    except (KeyError, TypeError, ValueError):
        return False


def _check_box(box: Any, image: dict | None, add: Callable[[str, str], None]) -> None:
    problem = box_problem(box)
    if problem in ("not_four", "not_numbers"):
        add("box_format", f"bbox {box!r:.80} is not four numbers x, y, width, height")
        return
    if problem == "not_finite":
        add("box_not_finite", f"bbox {box}")
        return
    x, y, width, height = box
    if width <= 0 or height <= 0:
        published = image and (os.path.basename(image["file_name"]), image["id"]) in PUBLISHED_FLAWS
        if published and min(width, height) == 0:
            add("published_flaw", f"bbox {box} has no area")
        else:
            hint = "; is it x1, y1, x2, y2?" if problem == "negative" else ""
            add("box_without_area", f"bbox {box} (x, y, width, height){hint}")
        return
    if image is None:
        return
    over = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if over > MAX_PIXELS_OUTSIDE:
        size = f"{image['width']} x {image['height']}"
        add("box_outside_image", f"bbox {box} (x, y, width, height) reaches {over:g} px outside of {size}")


def _check_mask(shape: Any, image: dict | None, add: Callable[[str, str], None]) -> None:
    if not shape:
        add("missing_mask", "its segmentation is missing or empty")
    elif isinstance(shape, dict):
        counts, size = shape.get("counts"), shape.get("size")
        if not (counts and isinstance(counts, str | bytes | list)):
            add("bad_mask", "run lengths without `counts`")
        elif image and size != [image["height"], image["width"]]:
            add(
                "bad_mask",
                f"run lengths of size {size}, image [{image['height']}, {image['width']}] (height, width)",
            )
        elif isinstance(counts, list) and image and _sum(counts) != image["height"] * image["width"]:
            add("bad_mask", f"run lengths of {_sum(counts)} pixels, image {image['height'] * image['width']}")
    elif not isinstance(shape, list) or not all(isinstance(polygon, list) for polygon in shape):
        add("bad_mask", f"segmentation {shape!r:.60} is not a list of polygons [[x1, y1, x2, y2, ...]]")
    elif not all(math.isfinite(_sum(polygon)) for polygon in shape):
        add("bad_mask", "a polygon holds something that is not a finite number")
    else:
        bad = [polygon for polygon in shape if len(polygon) < 6 or len(polygon) % 2]
        if bad:
            kind = "bad_mask" if len(bad) == len(shape) else "bad_polygon"
            add(kind, f"a polygon of {len(bad[0])} numbers: at least 6 and an even count are needed")


def what_is_wrong(record: Any, keys: dict[str, Callable[[Any], bool]]) -> str:
    """What is wrong with the first wrong key of a record, "" for none."""
    if not isinstance(record, dict):
        return f"{record!r:.60} is not an object"
    key = wrong_key(record, keys)
    if key is None:
        return ""
    return f"`{key}` is {record[key]!r:.60}" if key in record else f"`{key}` is missing ({keys_of(record)})"


def _sum(values: list) -> float:
    """The sum, NaN where one of the values is no number."""
    try:
        return sum(values)
    except TypeError:
        return math.nan


def as_text(value: Any) -> int | str | None:
    """An id or name for a message, whatever the json holds there."""
    if isinstance(value, np.integer):
        return int(value)
    return value if value is None or isinstance(value, int | str) else repr(value)[:60]
