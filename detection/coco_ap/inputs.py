"""Ground truth and detections in COCO's formats, checked once and held as columns.

Every evaluator gets the same columns, so a figure cannot depend on how an evaluator reads files. Image,
category and annotation ids are replaced by their ranks: COCO's figures use ids for identity and order alone,
so gapped, negative or textual ids cannot reach an evaluator that does not expect them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from detection.annotations.values import is_id, is_number, kind_of, require_lists
from detection.coco_ap.columns import Columns, boxes, mask_area, masks, numbers, require
from engine.errors import UserError
from engine.json_files import read_json

IOU_TYPES = ("bbox", "segm")


@dataclass
class EvaluationInput:
    """One evaluation: what an evaluator needs and nothing else.

    image_ids and category_ids are the file's own ids in ascending order: the order that COCO's own evaluation
    walks through, which decides between equal scores.
    """

    iou_type: str
    image_ids: list
    image_sizes: np.ndarray  # (I, 2) int64 height, width; zeros where the file gives none
    category_ids: list
    category_names: list[str]
    ground_truth: Columns
    detections: Columns
    notes: list[str] = field(default_factory=list)


def read_ground_truth(source: str | os.PathLike | dict) -> dict:
    """The COCO dictionary of `source`, a path or the dictionary itself, with its three lists there.

    Raises:
        UserError: unreadable, or not COCO instance annotations.
    """
    data = source if isinstance(source, dict) else read_json(source, "ground truth")
    name = "ground truth" if isinstance(source, dict) else f"ground truth {source}"
    if isinstance(data, list):
        raise UserError(f"{name}: found a list. That is what a detections file holds: are the two files swapped?")
    require_lists(data, name)
    return data


def read_detections(source: str | os.PathLike | Sequence[dict]) -> list[dict]:
    """The list of result records of `source`, a path or the list itself; an empty list is a valid result.

    Raises:
        UserError: unreadable or not a list.
    """
    data = read_json(source, "detections") if isinstance(source, str | os.PathLike) else source
    where = f" {source}" if isinstance(source, str | os.PathLike) else ""
    if isinstance(data, dict):
        hint = " These are annotations: are the two files swapped?" if "annotations" in data else ""
        raise UserError(f"detections{where}: expected a list of result records, found an object.{hint}")
    if not isinstance(data, list | tuple):
        raise UserError(f"detections{where}: expected a list of result records, found {kind_of(data)}")
    return list(data)


def build_input(ground_truth: dict, detections: list[dict], iou_type: str) -> EvaluationInput:
    """Checks both sides and turns them into columns. The inputs are not changed.

    What the format leaves open is decided here, the same for every evaluator:
    - `area` missing in the ground truth: the box's for "bbox", the mask's for "segm"; `iscrowd` missing: 0.
      Said in `notes`.
    - the area of a detection is its box's for "bbox", its mask's for "segm", whatever else the record holds
      (pycocotools would take the box's for a record with both, and come to other small/medium/large figures).
    - detections of "bbox" without any box but with masks: box and area are the mask's, as in pycocotools.
    - annotations of images or categories that the file does not list take no part, as in pycocotools.
    - annotation ids play no part, so an id of 0 is an annotation like any other (pycocotools 2.0 counts its
      match as a miss), and a repeated id does not evaluate one annotation twice. Said in `notes`.

    Raises:
        UserError: naming the record, the key and what is wrong.
    """
    if iou_type not in IOU_TYPES:
        raise UserError(f"unknown IoU type {iou_type!r}: one of {', '.join(IOU_TYPES)}")
    notes: list[str] = []
    images = _by_id(ground_truth["images"], "images")
    categories = _by_id(ground_truth["categories"], "categories")
    image_ids, category_ids = list(images), list(categories)
    sizes = np.array([_size(record) for record in images.values()], dtype=np.int64).reshape(-1, 2)
    names = [str(record.get("name", key)) for key, record in categories.items()]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name} (id {key})" if name in repeated else name for name, key in zip(names, category_ids, strict=True)]
    image_index = {key: index for index, key in enumerate(image_ids)}
    category_index = {key: index for index, key in enumerate(category_ids)}
    return EvaluationInput(
        iou_type,
        image_ids,
        sizes,
        category_ids,
        names,
        _ground_truth_columns(ground_truth["annotations"], image_index, category_index, sizes, iou_type, notes),
        _detection_columns(detections, image_index, category_index, sizes, iou_type),
        notes,
    )


def _ground_truth_columns(annotations, image_index, category_index, sizes, iou_type, notes) -> Columns:
    def name(index):
        identity = annotations[index].get("id") if isinstance(annotations[index], dict) else None
        return f"ground truth annotation {index}" + ("" if identity is None else f" (id {identity})")

    require(annotations, ("image_id", "category_id"), name)
    kept = [i for i, a in enumerate(annotations) if a["image_id"] in image_index and a["category_id"] in category_index]
    if len(kept) < len(annotations):
        notes.append(f"{len(annotations) - len(kept)} annotations of unlisted images or categories take no part")
    rows = [annotations[i] for i in kept]

    def name_kept(index):
        return name(kept[index])

    ids = Counter(row["id"] for row in rows if is_id(row.get("id")))
    if 0 in ids:
        notes.append("an annotation has the id 0; it is evaluated (pycocotools counts a match with it as a miss)")
    if any(count > 1 for count in ids.values()):
        notes.append(f"{sum(count > 1 for count in ids.values())} annotation ids occur more than once; all evaluated")
    image = np.array([image_index[row["image_id"]] for row in rows], dtype=np.int64)
    category = np.array([category_index[row["category_id"]] for row in rows], dtype=np.int64)
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=bool)
    box, own_area, mask = _shapes(rows, image, sizes, iou_type, iou_type == "segm", name_kept)
    without_area = np.array([row.get("area") is None for row in rows], dtype=bool)
    if without_area.any():
        shape = "mask" if iou_type == "segm" else "box"
        notes.append(f"{without_area.sum()} annotations have no area; the {shape}'s is used")
    areas = [0.0 if none else row["area"] for row, none in zip(rows, without_area, strict=True)]
    area = np.where(without_area, own_area, numbers(areas, "area", name_kept))
    return Columns(image, category, box, area, crowd, np.zeros(len(rows)), mask)


def _detection_columns(records, image_index, category_index, sizes, iou_type) -> Columns:
    def name(index):
        return f"detections record {index}"

    require(records, ("image_id", "category_id", "score"), name)
    _check_known(records, "image_id", image_index, "images")
    _check_known(records, "category_id", category_index, "categories")
    image = np.array([image_index[record["image_id"]] for record in records], dtype=np.int64)
    category = np.array([category_index[record["category_id"]] for record in records], dtype=np.int64)
    score = numbers([record["score"] for record in records], "score", name)
    from_masks = iou_type == "segm" or (
        bool(records)
        and not any("bbox" in record for record in records)
        and all("segmentation" in record for record in records)
    )
    box, area, mask = _shapes(records, image, sizes, iou_type, from_masks, name)
    return Columns(image, category, box, area, np.zeros(len(records), dtype=bool), score, mask)


def _shapes(rows, image, sizes, iou_type, from_masks, name) -> tuple[np.ndarray, np.ndarray, list[dict] | None]:
    """(N, 4) boxes, (N,) areas of the boxes or the masks, and the masks for "segm", which compares no boxes."""
    if not from_masks:
        box = boxes(rows, name)
        return box, box[:, 2] * box[:, 3], None
    mask = masks(rows, image, sizes, name)
    if iou_type == "segm":
        return np.zeros((len(rows), 4)), mask_area(mask), mask
    box = np.array([coco_mask.toBbox(one) for one in mask], dtype=np.float64).reshape(-1, 4)
    return box, mask_area(mask), None


def _by_id(records: list, key: str) -> dict:
    """{id: record} in ascending order of ids; of records with one id the last counts, as in pycocotools."""
    for index, record in enumerate(records):
        if not isinstance(record, dict) or "id" not in record:
            raise UserError(f"ground truth: {key}[{index}] has no `id`")
        if not is_id(record["id"]):
            raise UserError(f"ground truth: the id of {key}[{index}] is {kind_of(record['id'])}, not a number")
    unsorted = {record["id"]: record for record in records}
    try:
        return {identity: unsorted[identity] for identity in sorted(unsorted)}
    except TypeError:
        raise UserError(f"ground truth: some ids of `{key}` are numbers and some are text; use one kind") from None


def _size(record: dict) -> tuple[int, int]:
    height, width = record.get("height"), record.get("width")
    ok = all(is_number(value) and 0 < value < 2**31 for value in (height, width))
    return (int(height), int(width)) if ok else (0, 0)


def _check_known(records: list[dict], key: str, index: dict, what: str) -> None:
    unknown = [record[key] for record in records if record[key] not in index]
    if not unknown:
        return
    distinct = list(dict.fromkeys(unknown))
    shown = ", ".join(map(str, distinct[:10])) + (", ..." if len(distinct) > 10 else "")
    example = next(iter(index), None)
    hint = ""
    if isinstance(distinct[0], str) != isinstance(example, str) and example is not None:
        hint = f" The ground truth's ids look like {example!r}, these like {distinct[0]!r}."
    elif key == "category_id":
        hint = " Were contiguous class indices written instead of the file's category ids?"
    raise UserError(
        f"detections: {len(unknown)} of {len(records)} records have an `{key}` that the ground truth's "
        f"`{what}` do not have ({len(distinct)} distinct: {shown}).{hint} "
        "Is this the ground truth that the detections are for?"
    )
