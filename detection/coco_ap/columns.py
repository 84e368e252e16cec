"""The values of COCO records as columns: arrays and masks, each checked, with errors that name the record and the key.

`name` is everywhere a function from a record's index to what a message calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detection.annotations.masks import MIN_NUMBERS, BadMask, compress, pixels_of, polygons
from detection.annotations.values import (
    MAX_PIXELS_AWAY,
    box_problem,
    is_finite,
    is_id,
    keys_of,
    kind_of,
    read_crowd,
    shown,
    wrong_key,
)
from engine.errors import UserError

MASKS_AT_ONCE = 4096
BOX_PROBLEMS = {
    "not_four": "is {}, not four numbers x, y, width, height",
    "not_numbers": "{} holds something that is not a finite number",
    "not_finite": "{} holds something that is not a finite number",
    "too_large": f"{{}} holds a number over {MAX_PIXELS_AWAY}",
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
    if _are_plain(records, keys):
        return
    rights = {key: is_id if key != "score" else lambda value: True for key in keys}
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{name(index)} is {kind_of(record)}, not an object")
        key = wrong_key(record, rights)
        if key in record:
            raise UserError(f"{name(index)}: `{key}` is {kind_of(record[key])}, not an id")
        if key is not None:
            raise UserError(f"{name(index)} has no `{key}` ({keys_of(record)})")


def _are_plain(records: list, keys: tuple[str, ...]) -> bool:
    """Whether one look at all records at once finds objects with whole numbers as ids: a third of the time."""
    try:
        return {type(record) for record in records} <= {dict} and all(
            {type(record[key]) for record in records} <= {int} or key == "score" for key in keys
        )
    except KeyError:
        return False


def numbers(values: list, key: str, name) -> np.ndarray:
    """(N,) float64 of finite numbers."""
    array = _array(values, (0,))
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not np.isfinite(array).all():
        for index, value in enumerate(values):
            if not is_finite(value):
                raise UserError(f"{name(index)}: `{key}` is {kind_of(value)}, not a finite number")
    return array.astype(np.float64)


def boxes(records: list[dict], name) -> np.ndarray:
    """(N, 4) float64 of x, y, width, height within `MAX_PIXELS_AWAY`, with width and height at least 0."""
    require(records, (), name)
    values = [record.get("bbox") for record in records]
    array = _array(values, (0, 4))
    good = array.dtype.kind in "iuf" and array.shape == (len(values), 4) and np.isfinite(array).all()
    if not good or (array[:, 2:] < 0).any() or (np.abs(array.astype(np.float64)) > MAX_PIXELS_AWAY).any():
        for index, value in enumerate(values):
            if value is None:
                raise UserError(f"{name(index)} has no `bbox`")
            if problem := box_problem(value):
                raise UserError(f"{name(index)}: `bbox` {BOX_PROBLEMS[problem].format(shown(value))}")
    return array.astype(np.float64)


def crowds(records: list[dict], name) -> np.ndarray:
    """(N,) bool, whether each annotation is a crowd."""
    result = np.zeros(len(records), dtype=bool)
    for index, record in enumerate(records):
        try:
            result[index] = read_crowd(record)
        except ValueError as error:
            raise UserError(f"{name(index)}: {error}") from None
    return result


def _array(values: list, shape_without_values: tuple[int, ...]) -> np.ndarray:
    try:
        return np.array(values) if values else np.zeros(shape_without_values)
    except (ValueError, OverflowError):  # of different lengths
        return np.zeros(0, dtype=object)


def masks(records: list[dict], image: np.ndarray, sizes: np.ndarray, name) -> list[dict]:
    """N compressed run-length encodings; polygons are rasterised by pycocotools at the image's size."""
    result = []
    for index, record in enumerate(records):
        shape = record.get("segmentation")
        height, width = (int(value) for value in sizes[image[index]])
        if not shape:
            raise UserError(f"{name(index)} has no `segmentation`; without masks evaluate boxes alone (bbox)")
        try:
            result.append(compress(shape, height, width) if isinstance(shape, dict) else _filled(shape, height, width))
        except BadMask as error:
            raise UserError(f"{name(index)}: `segmentation` cannot be used: {error}") from None
    _require_whole(result, name)
    return result


def _filled(shape: Any, height: int, width: int) -> dict:
    """The run lengths of polygons, as pycocotools fills them: of an odd count of numbers it takes no heed of the last
    one, and four alone are a box. Those under three points beside others have no area, but where one of them is the
    first, pycocotools reads none: they are left out."""
    if not (height and width):
        raise BadMask("polygons need the size of their image (`height`, `width`), which has none")
    given = polygons(shape)
    given = [numbers for numbers in given if len(numbers) >= MIN_NUMBERS] or given
    try:
        return coco_mask.merge(coco_mask.frPyObjects([list(numbers) for numbers in given], height, width))
    except Exception as error:  # pycocotools raises plain Exception, TypeError and others for what it cannot read
        raise BadMask(f"no polygon of three points or more ({error or type(error).__name__})") from None


def _require_whole(masks: list[dict], name) -> None:
    """Raises UserError where compressed run lengths are damaged: pycocotools would fill in what they do not cover."""
    for start in range(0, len(masks), MASKS_AT_ONCE):
        part = masks[start : start + MASKS_AT_ONCE]
        pixels = np.array([mask["size"][0] * mask["size"][1] for mask in part], dtype=np.int64)
        wrong = np.flatnonzero(pixels_of([mask["counts"] for mask in part]) != pixels)
        if len(wrong):
            raise UserError(
                f"{name(start + wrong[0])}: `segmentation` cannot be used: damaged run lengths, which do not cover the "
                f"{pixels[wrong[0]]} pixels of their `size`"
            )


def mask_area(masks: list[dict]) -> np.ndarray:
    # One at a time: pycocotools 2.0.11 counts the masks of one call in a uint8 under numpy 2, and 256
    # overflow it.
    return np.array([coco_mask.area(mask) for mask in masks], dtype=np.float64)
