"""The values of COCO records as arrays and masks, each checked, with errors that name the record and the key.

`name` is everywhere a function from a record's index to what a message calls it.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from pycocotools import mask as coco_mask

from engine.errors import UserError


def require(records: list, keys: tuple[str, ...], name) -> None:
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{name(index)} is {kind_of(record)}, not an object")
        for key in keys:
            if key not in record:
                raise UserError(f"{name(index)} has no `{key}` (its keys: {', '.join(map(str, record)) or 'none'})")
            if key != "score" and not isinstance(record[key], int | str | np.integer):
                raise UserError(f"{name(index)}: `{key}` is {kind_of(record[key])}, not an id")


def numbers(values: list, key: str, name) -> np.ndarray:
    """(N,) float64 of finite numbers."""
    array = np.array(values) if values else np.zeros(0)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not np.isfinite(array).all():
        for index, value in enumerate(values):
            if not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise UserError(f"{name(index)}: `{key}` is {kind_of(value)}, not a finite number")
    return array.astype(np.float64)


def boxes(records: list[dict], name) -> np.ndarray:
    """(N, 4) float64 of finite x, y, width, height with width and height at least 0."""
    require(records, (), name)
    values = [record.get("bbox") for record in records]
    try:
        array = np.array(values) if values else np.zeros((0, 4))
    except ValueError:  # rows of different lengths
        array = np.zeros(0, dtype=object)
    good = array.dtype.kind in "iuf" and array.shape == (len(values), 4) and np.isfinite(array).all()
    if not good or (array[:, 2:] < 0).any():
        for index, value in enumerate(values):
            if value is None:
                raise UserError(f"{name(index)} has no `bbox`")
            if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
                raise UserError(f"{name(index)}: `bbox` is {value!r:.80}, not four numbers x, y, width, height")
            if not all(isinstance(number, int | float | np.number) and np.isfinite(number) for number in value):
                raise UserError(f"{name(index)}: `bbox` {value!r:.80} holds something that is not a finite number")
            if value[2] < 0 or value[3] < 0:
                raise UserError(
                    f"{name(index)}: `bbox` {value!r:.80} has a negative width or height; COCO boxes are "
                    "x, y, width, height, not x1, y1, x2, y2"
                )
    return array.astype(np.float64)


def masks(records: list[dict], image: np.ndarray, sizes: np.ndarray, name) -> list[dict]:
    """N compressed run-length encodings; polygons are rasterised by pycocotools at the image's size."""
    result = []
    for index, record in enumerate(records):
        shape = record.get("segmentation")
        height, width = (int(value) for value in sizes[image[index]])
        if not shape:
            raise UserError(f"{name(index)} has no `segmentation`; without masks evaluate boxes alone (bbox)")
        if isinstance(shape, dict) and "counts" not in shape:
            _bad_mask(name(index), "an object without `counts`")
        size = list(shape.get("size", ())) if isinstance(shape, dict) else [height, width]
        if len(size) != 2 or 0 in size:
            raise UserError(f"{name(index)}: a mask needs a size: neither it nor its image (`height`, `width`) has one")
        if height and size != [height, width]:
            raise UserError(
                f"{name(index)}: its mask is {size[1]} x {size[0]} pixels (width x height), "
                f"its image {width} x {height}: were the masks predicted on a resized image?"
            )
        try:
            if isinstance(shape, dict) and isinstance(shape["counts"], str | bytes):
                counts = shape["counts"]
                result.append({"size": size, "counts": counts.encode() if isinstance(counts, str) else counts})
            elif isinstance(shape, dict):
                result.append(coco_mask.frPyObjects(shape, *size))
            else:
                result.append(coco_mask.merge(coco_mask.frPyObjects(shape, *size)))
        except Exception as error:  # pycocotools raises plain Exception, TypeError and others for what it cannot read
            _bad_mask(name(index), str(error) or type(error).__name__)
    return result


def _bad_mask(name: str, reason: str) -> NoReturn:
    raise UserError(f"{name}: `segmentation` is neither polygons [[x1, y1, x2, y2, ...]] nor run lengths: {reason}")


def mask_area(masks: list[dict]) -> np.ndarray:
    # One at a time: pycocotools 2.0.11 counts the masks of one call in a uint8 under numpy 2, and 256
    # overflow it.
    return np.array([coco_mask.area(mask) for mask in masks], dtype=np.float64)


def kind_of(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return f"{value!r:.60}"
    return {dict: "an object", list: "a list"}.get(type(value), f"a {type(value).__name__}")
