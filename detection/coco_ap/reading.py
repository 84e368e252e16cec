"""Two files, or what they hold, to the columns of an evaluation.

Files in which nothing is out of the ordinary go straight into columns, without a dictionary for each record. All others
are read record by record, which takes three times as long, and finds what is wrong or strange, and where.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from detection.annotations.values import MAX_PIXELS_AWAY
from detection.coco_ap.columns import Columns
from detection.coco_ap.inputs import (
    IOU_TYPES,
    EvaluationInput,
    build_input,
    note_box_form,
    read_detections,
    read_ground_truth,
    what_is_listed,
)
from engine.errors import UserError
from engine.json_files import collections_paused

Box = tuple[float, float, float, float]
Source = str | os.PathLike | dict | Sequence[dict]


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: Box
    area: float
    iscrowd: int = 0
    segmentation: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _GroundTruth(msgspec.Struct):
    images: list[dict]
    annotations: list[_Annotation]
    categories: list[dict]


class _Detection(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: Box
    score: float
    segmentation: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def read_input(ground_truth: Source, detections: Source, iou_type: str = "bbox") -> EvaluationInput:
    """``read_inputs`` for one IoU type."""
    return next(read_inputs(ground_truth, detections, (iou_type,)))


def read_inputs(
    ground_truth: Source, detections: Source, iou_types: Sequence[str] | None = ("bbox",)
) -> Iterator[EvaluationInput]:
    """One evaluation after the other.

    Args:
        ground_truth, detections: as for ``evaluate_coco``.
        iou_types: any of IOU_TYPES; None for those that both sides have.

    Raises:
        UserError: naming the file, record and key of what is wrong.
    """
    if iou_types is None or tuple(iou_types) == ("bbox",):
        with collections_paused():
            given = _regular_input(ground_truth, detections, either_type=iou_types is None)
        if given:
            yield given
            return
    data, records = read_ground_truth(ground_truth), read_detections(detections)
    types = available_iou_types(data, records) if iou_types is None else tuple(dict.fromkeys(iou_types))
    if not types:
        raise UserError(f"no IoU type to evaluate: give one or more of {', '.join(IOU_TYPES)}")
    for iou_type in types:
        yield build_input(data, records, iou_type)


def available_iou_types(ground_truth: dict, detections: Sequence[dict]) -> tuple[str, ...]:
    """The IoU types for which the first annotation and the first detection both have something to compare."""
    annotation = next(iter(ground_truth["annotations"]), {})
    record = next(iter(detections), {})
    annotation, record = (one if isinstance(one, dict) else {} for one in (annotation, record))
    masks = bool(annotation.get("segmentation")) and bool(record.get("segmentation"))
    boxes = "bbox" in record or not masks
    return tuple(name for name, present in (("bbox", boxes), ("segm", masks)) if present)


def _regular_input(ground_truth: Source, detections: Source, either_type: bool) -> EvaluationInput | None:
    """What ``build_input`` makes of two files for boxes; None where anything in them asks for a second look."""
    truth, found = _decoded(ground_truth, _GroundTruth), _decoded(detections, list[_Detection])
    if not truth or not truth.annotations or not found:
        return None
    if either_type and msgspec.UNSET not in (truth.annotations[0].segmentation, found[0].segmentation):
        return None
    listed = what_is_listed(truth.images, truth.categories)
    ids = [np.array(some) for some in (listed.image_ids, listed.category_ids)]
    if any(some.dtype != np.int64 for some in ids):
        return None
    try:
        own = _column(truth.annotations, "id", np.int64)
        area, crowd = _column(truth.annotations, "area"), _column(truth.annotations, "iscrowd", np.int64) != 0
        places = [_places(rows, *ids) for rows in (truth.annotations, found)]
    except OverflowError:  # a whole number over 64 bits
        return None
    boxes = [_boxes(truth.annotations), _boxes(found)]
    if any(one is None for one in (*places, *boxes)) or (area < 0).any() or not own.all():
        return None
    if len(np.unique(own)) < len(own):
        return None
    notes: list[str] = []
    for what, (image, _), box in zip(("annotations", "detections"), places, boxes, strict=True):
        note_box_form(what, box, image, listed.image_sizes, "bbox", notes)
    sides = [
        Columns(*places[0], boxes[0], area, crowd, np.zeros(len(area))),
        Columns(
            *places[1],
            boxes[1],
            boxes[1][:, 2] * boxes[1][:, 3],
            np.zeros(len(found), dtype=bool),
            _column(found, "score"),
        ),
    ]
    return EvaluationInput("bbox", *listed, *sides, notes)


def _decoded(source: Source, kind: Any) -> Any:
    """A file's content; None where it is no file, or not of this kind by the letter."""
    if not isinstance(source, str | os.PathLike) or not os.path.isfile(source):  # a pipe can be read but once
        return None
    try:
        with open(source, "rb") as file:
            content = file.read()
        if not content.isascii():
            content.decode()  # what is passed over is not looked at otherwise
        return msgspec.json.decode(content, type=kind)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def _column(rows: list, name: str, kind: type = np.float64) -> np.ndarray:
    return np.fromiter(map(attrgetter(name), rows), kind, len(rows))


def _places(rows: list, image_ids: np.ndarray, category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Each row's image and category as indices; None where one is not listed."""
    found = []
    for name, ids in (("image_id", image_ids), ("category_id", category_ids)):
        given = _column(rows, name, np.int64)
        index = np.searchsorted(ids, given)
        if not (index < len(ids)).all() or not (ids[index] == given).all():
            return None
        found.append(index)
    return found[0], found[1]


def _boxes(rows: list) -> np.ndarray | None:
    """(N, 4); None where one is no box."""
    numbers = chain.from_iterable(map(attrgetter("bbox"), rows))
    box = np.fromiter(numbers, np.float64, 4 * len(rows)).reshape(-1, 4)
    return None if (box[:, 2:] < 0).any() or (np.abs(box) > MAX_PIXELS_AWAY).any() else box
