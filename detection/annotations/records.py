"""What can be wrong with the annotation records of a COCO-format set."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from detection.annotations.box_forms import FORMS, MIN_SHARE_OUTSIDE, other_form
from detection.annotations.masks import BadMask, is_polygon, read_mask
from detection.annotations.report import Problem
from detection.annotations.values import (
    MAX_PIXELS_AWAY,
    as_text,
    box_problem,
    is_finite,
    is_id,
    read_crowd,
    shown,
    what_is_wrong,
)

MAX_PIXELS_OUTSIDE = 1.0
"""Pixels that a box may reach outside its image; rounding, and counting pixels from 1, stay within it."""

PUBLISHED_FLAWS = {("000000200365.jpg", 200365), ("000000550395.jpg", 550395)}
"""Images (file, id) of COCO train2017 with a box of height 0 as published (cocodataset/cocoapi issue 355).
They are warnings, so that the official set trains as it is; Detectron2's mapper leaves such boxes out."""

NUMBERS, IDS = {int, float}, {int, str}
PLAIN_CROWDS = {0: True, 1: True}  # and with them 0.0, False, 1.0, True
_KEYS = {"id": is_id, "image_id": is_id, "category_id": is_id, "bbox": lambda value: value is not None}


def check_annotation_records(
    annotations: list, images: dict, category_ids: set, need_masks: bool, for_evaluation: bool, problems: list[Problem]
) -> None:
    """Adds what is wrong with each annotation, and with all of them together.

    Args:
        images: {id: record} of the sound image records.
        category_ids: ids of the sound categories.
        need_masks: whether segmentations are checked, too.
        for_evaluation: whether areas are checked, too, which the figures for small, medium and large objects need.
    """
    seen: set = set()
    before = len(problems)
    for index, record in enumerate(annotations):
        plainly_right = _is_plainly_right(record, seen, images, category_ids)
        if plainly_right and not need_masks and not for_evaluation:
            seen.add(record["id"])
            continue
        wrong = "" if plainly_right else what_is_wrong(record, _KEYS)
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
        if for_evaluation:
            _check_area(record.get("area"), add)
        if plainly_right:
            seen.add(identity)
            continue
        if identity in seen:
            add("duplicate_annotation_id", f"its id {identity} is taken by an earlier annotation")
        seen.add(identity)
        if image is None:
            add("unknown_image", f"no usable image record has the id {shown(image_id)}{_other_kind(image_id, images)}")
        category_id = record["category_id"]
        if category_id not in category_ids:
            hint = _other_kind(category_id, category_ids)
            add("unknown_category", f"no usable category record has the id {shown(category_id)}{hint}")
        _check_flags(record, add)
        _check_box(record["bbox"], image, add)
    _check_box_form(annotations, images, problems, before)


def _is_plainly_right(record: Any, seen: set, images: dict, category_ids: set) -> bool:
    """Whether one look clears a record of everything but its mask and its area. False means: look closer, not: wrong.

    COCO's 860,000 annotations take under 2 s with this and over 5 s without.
    """
    try:
        x, y, width, height = record["bbox"]
        image = images[record["image_id"]]
        return (
            {type(x), type(y), type(width), type(height)} <= NUMBERS
            and type(record["id"]) is int
            and type(record["category_id"]) is int
            and type(record["image_id"]) in IDS
            and record["id"] not in seen
            and record["category_id"] in category_ids
            and width > 0
            and height > 0
            and x >= 0
            and y >= 0
            and x + width <= image["width"]
            and y + height <= image["height"]
            and (width > 1 or height > 1 or x > 1 or y > 1)
            and record.get("iscrowd", 0) in PLAIN_CROWDS
            and "ignore" not in record
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _other_kind(identity: int | str, ids: dict | set) -> str:
    """The reason why an id is not among others, where it is the one between 1 and "1"."""
    if not isinstance(identity, str):
        twin = str(identity)
    else:
        twin = int(identity) if identity.isdecimal() and len(identity) < 20 else identity
    if twin not in ids:
        return ""
    kinds = ("a text", "the number") if isinstance(identity, str) else ("a number", "the text")
    return f": it is {kinds[0]} here, and {kinds[1]} {twin!r} there; use one kind"


def _check_flags(record: dict, add: Callable[[str, str], None]) -> None:
    try:
        read_crowd(record)
    except ValueError as error:
        add("crowd_flag", str(error))
    if record.get("ignore"):
        add("ignore_flag", f"`ignore` is {shown(record['ignore'])}")


def _check_area(area: Any, add: Callable[[str, str], None]) -> None:
    if area is not None and not (is_finite(area) and area >= 0):
        add("area", f"`area` is {shown(area)}, not a number of square pixels")


def _check_box(box: Any, image: dict | None, add: Callable[[str, str], None]) -> None:
    problem = box_problem(box)
    if problem in ("not_four", "not_numbers"):
        add("box_format", f"bbox {shown(box)} is not four numbers x, y, width, height")
        return
    if problem == "not_finite":
        add("box_not_finite", f"bbox {shown(box)}")
        return
    if problem == "too_large":
        add("box_too_large", f"bbox {shown(box)} holds a number over {MAX_PIXELS_AWAY}")
        return
    x, y, width, height = box
    said = f"bbox {shown(box)} (x, y, width, height)"
    if width <= 0 or height <= 0:
        published = image and (os.path.basename(image["file_name"]), image["id"]) in PUBLISHED_FLAWS
        if published and min(width, height) == 0:
            add("published_flaw", f"bbox {shown(box)} has no area")
        else:
            add("box_without_area", said + ("; is it x1, y1, x2, y2?" if problem == "negative" else ""))
        return
    if image is None:
        return
    size = f"{int(image['width'])} x {int(image['height'])}"
    over = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
        add("box_outside_image", f"{said} lies outside of {size}")
    elif over > MAX_PIXELS_OUTSIDE:
        corners = width > x >= 0 and height > y >= 0 and width <= image["width"] and height <= image["height"]
        hint = "; is it x1, y1, x2, y2?" if corners else ""
        add("box_over_the_edge", f"{said} reaches {over:g} px outside of {size}{hint}")
    elif min(box) >= 0 and max(box) <= 1 and min(image["width"], image["height"]) > 2:
        add("box_fraction", f"{said} holds nothing above 1: is it in fractions of {size}?")


def _check_box_form(annotations: list, images: dict, problems: list[Problem], before: int) -> None:
    """Adds whether the boxes of all are something else than x, y, width, height in pixels."""
    signs = {"box_over_the_edge", "box_outside_image", "box_fraction"}
    odd = sum(problem.kind in signs for problem in problems[before:])
    if odd < MIN_SHARE_OUTSIDE * len(annotations):
        return
    rows = []
    for record in annotations:
        if isinstance(record, dict) and not box_problem(record.get("bbox")) and is_id(record.get("image_id")):
            image = images.get(record["image_id"])
            rows += [(*record["bbox"], image["height"], image["width"])] if image else []
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    if form := other_form(table[:, :4], table[:, 4:]):
        problems.append(Problem("box_form", "annotations", 0, FORMS[form]))


def _check_mask(shape: Any, image: dict | None, add: Callable[[str, str], None]) -> None:
    if not shape:
        add("missing_mask", "its segmentation is missing or empty")
        return
    if image is None:
        return
    try:
        mask = read_mask(shape, int(image["height"]), int(image["width"]))
    except BadMask as error:
        add("bad_mask", str(error))
        return
    if isinstance(mask, list) and len(mask) < len(shape):
        bad = next(polygon for polygon in shape if not is_polygon(polygon))
        add("bad_polygon", f"a polygon of {len(bad)} numbers: at least 6 and an even count are needed")
