"""What COCO's format asks of a file, a record and a value.

The check before training lists everything that is wrong, AP stops at the first value that it cannot use: both ask here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np

from engine.errors import UserError

LISTS = ("images", "annotations", "categories")


def require_lists(coco: Any, source: str) -> None:
    """Raises UserError unless `coco` is an object with COCO's three lists; `source` names it in the message."""
    if not isinstance(coco, dict):
        raise UserError(f"{source} holds {kind_of(coco)}, not the object of a COCO instances file")
    for key in LISTS:
        if not isinstance(coco.get(key), list):
            found = f"`{key}` is {kind_of(coco[key])}, not a list" if key in coco else keys_of(coco)
            hint = " (a file of test images has none: it can be neither trained on nor evaluated against)"
            raise UserError(f"{source}: the list `{key}` is missing{hint if key == 'annotations' else ''}; {found}")


def wrong_key(record: dict, keys: dict[str, Callable[[Any], bool]]) -> str | None:
    """The first of `keys`, {key: whether a value is right}, that a record lacks or that has a wrong value in it."""
    for key, is_right in keys.items():
        if key not in record or not is_right(record[key]):
            return key
    return None


def box_problem(box: Any) -> str:
    """Which of `not_four`, `not_numbers`, `not_finite` and `negative` (a side) keeps a value from being x, y, width,
    height; "" for a box, which may have no area."""
    if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
        return "not_four"
    if not all(map(is_number, box)):
        return "not_numbers"
    if not all(map(math.isfinite, box)):
        return "not_finite"
    return "negative" if min(box[2:]) < 0 else ""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    # The first question settles nearly all of half a million detections, in half the time.
    return type(value) is int or isinstance(value, int | str | np.integer) and not isinstance(value, bool)


def is_other_kind(identity: int | str, ids: Iterable[int | str]) -> bool:
    """Whether an id is text where the first of `ids` is a number, or the other way round: they could not be sorted."""
    return any(isinstance(identity, str) != isinstance(one, str) for one in islice(ids, 1))


def is_size(value: Any) -> bool:
    """Whether a value is a width or height in pixels: a whole number above 0."""
    return is_number(value) and math.isfinite(value) and value > 0 and value == int(value)


def kind_of(value: Any) -> str:
    """A value for a message: itself where it is short, its type where it has parts."""
    if value is None or isinstance(value, bool | int | float | str):
        return f"{value!r:.60}"
    return {dict: "an object", list: "a list"}.get(type(value), f"a {type(value).__name__}")


def keys_of(record: dict) -> str:
    return f"its keys: {', '.join(map(str, record)) or 'none'}"
