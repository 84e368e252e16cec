"""The values of COCO records as columns: arrays and masks, each checked, with errors that name the record and the key.

`name` is everywhere a function from a record's index to what a message calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from pycocotools import mask as coco_mask

from detection.annotations.values import box_problem, is_id, is_number, keys_of, kind_of, wrong_key
from engine.errors import UserError

BOX_PROBLEMS = {
    "not_four": "is {}, not four numbers x, y, width, height",
    "not_numbers": "{} holds something that is not a finite number",
    "not_finite": "{} holds something that is not a finite number",
    "negative": "{} has a negative width or height; COCO boxes are x, y, width, height, not x1, y1, x2, y2",
}


@dataclass
class Columns:
    """N annotations or detections; row order is file order.

    image, category: (N,) int64, indices into EvaluationInput.image_ids and .category_ids.
    box: (N, 4) float64, x, y, width, height in pixels.
    area: (N,) float64, square pixels, which COCO's small/medium/large are decided by.
    crowd: (N,) bool. score: (N,) float64 (zeros in ground truth).
    mask: N run-length encodings {"size": [height, width], "counts": bytes}, for "segm" alone.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    score: np.ndarray
    mask: list[dict] | None = None

    def __len__(self) -> int:
        return len(self.image)


def require(records: list, keys: tuple[str, ...], name: Callable[[int], str]) -> None:
    """Raises UserError unless each record is an object with `keys`, which hold ids but for "score"."""
    rights = {key: is_id if key != "score" else lambda value: True for key in keys}
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{name(index)} is {kind_of(record)}, not an object")
        key = wrong_key(record, rights)
        if key in record:
            raise UserError(f"{name(index)}: `{key}` is {kind_of(record[key])}, not an id")
        if key is not None:
            raise UserError(f"{name(index)} has no `{key}` ({keys_of(record)})")


def numbers(values: list, key: str, name) -> np.ndarray:
    """(N,) float64 of finite numbers."""
    array = _array(values, (0,))
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not np.isfinite(array).all():
        for index, value in enumerate(values):
            if not is_number(value) or not np.isfinite(value):
                raise UserError(f"{name(index)}: `{key}` is {kind_of(value)}, not a finite number")
    return array.astype(np.float64)


def boxes(records: list[dict], name) -> np.ndarray:
    """(N, 4) float64 of finite x, y, width, height with width and height at least 0."""
    require(records, (), name)
    values = [record.get("bbox") for record in records]
    array = _array(values, (0, 4))
    good = array.dtype.kind in "iuf" and array.shape == (len(values), 4) and np.isfinite(array).all()
    if not good or (array[:, 2:] < 0).any():
        for index, value in enumerate(values):
            if value is None:
                raise UserError(f"{name(index)} has no `bbox`")
            if problem := box_problem(value):
                raise UserError(f"{name(index)}: `bbox` {BOX_PROBLEMS[problem].format(f'{value!r:.80}')}")
    return array.astype(np.float64)


def _array(values: list, shape_without_values: tuple[int, ...]) -> np.ndarray:
    try:
        return np.array(values) if values else np.zeros(shape_without_values)
    except ValueError:  # of different lengths
        return np.zeros(0, dtype=object)


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
