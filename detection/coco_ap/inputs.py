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
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from detection.annotations.box_forms import FORMS, other_form
from detection.annotations.categories import class_name
from detection.annotations.values import as_id, is_finite, is_id, kind_of, require_lists, shown
from detection.coco_ap.columns import Columns, boxes, crowds, mask_area, masks, numbers, require
from engine.errors import UserError
from engine.json_files import read_json
from engine.names import printable
from se_backbones.text import writable

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
    image_files: list[str]  # empty where the file gives none
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
    - detections of categories that the ground truth does not list take no part, as in pycocotools, where at least one
      is of a listed category. Said in `notes`.
    - whether an annotation is a crowd is for `detection.annotations.values.read_crowd` to say, as in training.
    - boxes that as a whole look like something else than x, y, width, height are taken as they are. Said in `notes`.

    Raises:
        UserError: naming the record, the key and what is wrong.
    """
    if iou_type not in IOU_TYPES:
        raise UserError(f"unknown IoU type {iou_type!r}: one of {', '.join(IOU_TYPES)}")
    notes: list[str] = []
    listed = what_is_listed(ground_truth["images"], ground_truth["categories"])
    image_index = {key: index for index, key in enumerate(listed.image_ids)}
    category_index = {key: index for index, key in enumerate(listed.category_ids)}
    sizes = listed.image_sizes
    return EvaluationInput(
        iou_type,
        *listed,
        _ground_truth_columns(ground_truth["annotations"], image_index, category_index, sizes, iou_type, notes),
        _detection_columns(detections, image_index, category_index, sizes, iou_type, notes),
        notes,
    )


class Listed(NamedTuple):
    """What the ground truth lists, as EvaluationInput has it."""

    image_ids: list
    image_sizes: np.ndarray
    image_files: list[str]
    category_ids: list
    category_names: list[str]


def what_is_listed(images: list, categories: list) -> Listed:
    """The two lists of a ground truth, in ascending order of their ids. Raises UserError, as `build_input`."""
    image_of, category_of = _by_id(images, "images"), _by_id(categories, "categories")
    sizes = np.array([_size(record) for record in image_of.values()], dtype=np.int64).reshape(-1, 2)
    category_ids = [as_id(key) for key in category_of]
    names = [_name(record, key, categories) for key, record in category_of.items()]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name} (id {key})" if name in repeated else name for name, key in zip(names, category_ids, strict=True)]
    files = [str(record.get("file_name", "")) for record in image_of.values()]
    return Listed([as_id(key) for key in image_of], sizes, files, category_ids, names)


def _ground_truth_columns(annotations, image_index, category_index, sizes, iou_type, notes) -> Columns:
    def name(index):
        identity = annotations[index].get("id") if isinstance(annotations[index], dict) else None
        return f"ground truth annotation {index}" + ("" if identity is None else f" (id {identity})")

    require(annotations, ("image_id", "category_id"), name)
    kept = [i for i, a in enumerate(annotations) if a["image_id"] in image_index and a["category_id"] in category_index]
    if len(kept) < len(annotations):
        _refuse_other_kinds(annotations, {"image_id": image_index, "category_id": category_index}, name)
        notes.append(f"{len(annotations) - len(kept)} annotations of unlisted images or categories take no part")
    rows = [annotations[i] for i in kept]

    def name_kept(index):
        return name(kept[index])

    given = [row["id"] for row in rows if row.get("id") is not None]
    wrong = next((i for i, row in enumerate(rows) if row.get("id") is not None and not is_id(row["id"])), None)
    if wrong is not None:
        raise UserError(f"ground truth annotation {kept[wrong]}: `id` is {kind_of(rows[wrong]['id'])}, not an id")
    ids = Counter(given)
    if 0 in ids:
        notes.append("an annotation has the id 0; it is evaluated (pycocotools counts a match with it as a miss)")
    if len(ids) < len(given):
        notes.append(f"{sum(count > 1 for count in ids.values())} annotation ids occur more than once; all evaluated")
    image = np.array([image_index[row["image_id"]] for row in rows], dtype=np.int64)
    category = np.array([category_index[row["category_id"]] for row in rows], dtype=np.int64)
    crowd = crowds(rows, name_kept)
    if texts := sum(isinstance(row.get("iscrowd"), str) for row in rows):
        notes.append(f"{texts} annotations have a text as `iscrowd`, read as it says (to pycocotools always a crowd)")
    box, own_area, mask = _shapes(rows, image, sizes, iou_type, iou_type == "segm", name_kept)
    without_area = np.array([row.get("area") is None for row in rows], dtype=bool)
    if without_area.any():
        shape = "mask" if iou_type == "segm" else "box"
        notes.append(f"{without_area.sum()} annotations have no area; the {shape}'s is used")
    areas = [0.0 if none else row["area"] for row, none in zip(rows, without_area, strict=True)]
    area = np.where(without_area, own_area, numbers(areas, "area", name_kept))
    if (area < 0).any():
        notes.append(f"{(area < 0).sum()} annotations have a negative area: they do not count, as in pycocotools")
    note_box_form("annotations", box, image, sizes, iou_type, notes)
    return Columns(image, category, box, area, crowd, np.zeros(len(rows)), mask)


def _detection_columns(given, image_index, category_index, sizes, iou_type, notes) -> Columns:
    def name_given(index):
        return f"detections record {index}"

    require(given, ("image_id", "category_id", "score"), name_given)
    if unlisted := _unlisted(given, "image_id", image_index):
        raise UserError(_of_unlisted(given, unlisted, "image_id", "images", image_index))
    kept, records = range(len(given)), given
    if unlisted := _unlisted(given, "category_id", category_index):
        if len(unlisted) == len(given):
            raise UserError(_of_unlisted(given, unlisted, "category_id", "categories", category_index))
        _refuse_other_kinds(given, {"category_id": category_index}, name_given)
        notes.append(
            f"{len(unlisted)} of {len(given)} detections are of categories that the ground truth does not list "
            f"({_first(unlisted)}) and take no part, as in pycocotools; were class indices written instead of category "
            "ids, the figures mean nothing"
        )
        kept = [i for i, record in enumerate(given) if record["category_id"] in category_index]
        records = [given[i] for i in kept]

    def name(index):
        return name_given(kept[index])

    image = np.array([image_index[record["image_id"]] for record in records], dtype=np.int64)
    category = np.array([category_index[record["category_id"]] for record in records], dtype=np.int64)
    score = numbers([record["score"] for record in records], "score", name)
    from_masks = iou_type == "segm" or (
        bool(records)
        and not any("bbox" in record for record in records)
        and all("segmentation" in record for record in records)
    )
    box, area, mask = _shapes(records, image, sizes, iou_type, from_masks, name)
    note_box_form("detections", box, image, sizes, iou_type, notes)
    return Columns(image, category, box, area, np.zeros(len(records), dtype=bool), score, mask)


def note_box_form(what: str, box: np.ndarray, image: np.ndarray, sizes: np.ndarray, iou_type: str, notes) -> None:
    """Adds what boxes look like where it is not x, y, width, height. ``what`` they are of, for the note."""
    if iou_type == "bbox" and (form := other_form(box, sizes[image])):
        notes.append(f"{what}: {FORMS[form]}. They are taken as they are")


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


def _name(record: dict, key: int | str, records: list) -> str:
    """A category's name as tables and files can hold it; its id where it has none."""
    value = record.get("name")
    name = class_name(value) if isinstance(value, str) else "" if value is None else shown(value)
    if not name:
        return printable(str(as_id(key)))
    if writable(name) != name:
        index = next(i for i, one in enumerate(records) if one is record)
        raise UserError(
            f"ground truth: the `name` of categories[{index}] (id {shown(key)}) is '{printable(name):.60}', with half "
            "of a surrogate pair, which is no character"
        )
    return printable(name)


def _size(record: dict) -> tuple[int, int]:
    height, width = record.get("height"), record.get("width")
    ok = all(is_finite(value) and value > 0 for value in (height, width)) and height * width < 2**32
    return (int(height), int(width)) if ok else (0, 0)


def _unlisted(records: list[dict], key: str, index: dict) -> list:
    """What the records have in `key` that is not in `index`, one for each such record."""
    return [record[key] for record in records if record[key] not in index]


def _of_unlisted(records: list, unlisted: list, key: str, what: str, index: dict) -> str:
    example = next(iter(index), None)
    hint = ""
    if isinstance(unlisted[0], str) != isinstance(example, str) and example is not None:
        hint = f" The ground truth's ids look like {shown(example)}, these like {shown(unlisted[0])}."
    elif key == "category_id":
        hint = " Were contiguous class indices written instead of the file's category ids?"
    return (
        f"detections: {len(unlisted)} of {len(records)} records have an `{key}` that the ground truth's "
        f"`{what}` do not have ({_first(unlisted)}).{hint} Is this the ground truth that the detections are for?"
    )


def _first(ids: list) -> str:
    distinct = list(dict.fromkeys(ids))
    names = ", ".join(map(shown, distinct[:10])) + (", ..." if len(distinct) > 10 else "")
    return f"{len(distinct)} distinct: {names}"


def _refuse_other_kinds(records: list[dict], indices: dict[str, dict], name) -> None:
    """Raises UserError where an id is text and those listed are numbers, or the other way round: no record of a file
    that lists other things, but a mistake of whoever wrote it."""
    for key, index in indices.items():
        example = next(iter(index), None)
        for position, record in enumerate(records):
            if example is not None and isinstance(record[key], str) != isinstance(example, str):
                raise UserError(
                    f"{name(position)}: `{key}` is {shown(record[key])}, and the ids that it should be one of look "
                    f"like {shown(example)}: one is text, the other a number; use one kind"
                )
