"""What COCO's format asks of a file, a record and a value.

The check before training lists everything that is wrong, AP stops at the first value that it cannot use: both ask here.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from engine.errors import UserError
from engine.names import printable

LISTS = ("images", "annotations", "categories")
MAX_PIXELS_AWAY = 2**31
"""Pixels: no side or coordinate is beyond. PyTorch takes no whole numbers over 64 bits, and makes infinity of what is
over 3e38."""


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


def what_is_wrong(record: Any, keys: dict[str, Callable[[Any], bool]]) -> str:
    """What is wrong with the first wrong key of a record, "" for none."""
    if not isinstance(record, dict):
        return f"{shown(record)} is not an object"
    key = wrong_key(record, keys)
    if key is None:
        return ""
    return f"`{key}` is {shown(record[key])}" if key in record else f"`{key}` is missing ({keys_of(record)})"


def as_text(value: Any) -> int | str | None:
    """An id or name for a message, whatever the json holds there."""
    if is_id(value):
        return as_id(value)
    return value if value is None or isinstance(value, int) else shown(value)


def box_problem(box: Any) -> str:
    """Which of `not_four`, `not_numbers`, `not_finite`, `too_large` (over `MAX_PIXELS_AWAY`) and `negative` (a side)
    keeps a value from being x, y, width, height; "" for a box, which may have no area."""
    if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
        return "not_four"
    if not all(map(is_number, box)):
        return "not_numbers"
    if not all(map(is_finite, box)):
        return "not_finite"
    if max(map(abs, box)) > MAX_PIXELS_AWAY:
        return "too_large"
    return "negative" if min(box[2:]) < 0 else ""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that float64 can hold: a json may have whole numbers of any length."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a whole number or a text. Tables of floats make 1.0 of 1, and are right as long as
    no digit is lost; 1.0 == 1 here as in pycocotools."""
    if type(value) is int:  # settles nearly all of half a million detections, in half the time
        return True
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)  # which no file can hold
    if isinstance(value, float | np.floating):
        return abs(value) <= 2**53 and value == int(value)
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def as_id(value: Any) -> int | str:
    """An id (`is_id`) in the form that every writer of JSON knows: 1 for 1.0."""
    return value if isinstance(value, str) else int(value)


def usual_kind(ids: Iterable[Any]) -> type:
    """`str` where most ids are text, else `int`: the kind that the others of a file have to have, for ids of two kinds
    can be neither sorted nor told from those that were meant to be the same."""
    counts = Counter(isinstance(identity, str) for identity in ids if is_id(identity))
    return str if counts[True] > counts[False] else int


def is_of_kind(identity: int | str, kind: type) -> bool:
    """Whether an id is text where `kind` is `str`, and a number where it is `int`."""
    return isinstance(identity, str) == (kind is str)


CROWDS = {"0": False, "1": True, "false": False, "true": True}


def read_crowd(record: dict) -> bool:
    """Whether an annotation is a crowd, a group drawn as one, which is neither trained on nor counted as missed.

    The check, training and evaluation ask here. Missing and null are no crowd; any number but 0 is one, as in
    pycocotools and Detectron2; the texts 0, 1, true and false are what they say (to pycocotools any text is a crowd).

    Raises:
        ValueError: `iscrowd` is none of these.
    """
    value = record.get("iscrowd")
    if value is None or isinstance(value, bool | np.bool_):
        return bool(value)
    if is_finite(value) and value == int(value):
        return bool(value != 0)
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in CROWDS:
        raise ValueError(f"`iscrowd` is {shown(value)}, neither 0 (one object) nor 1 (a crowd)")
    return CROWDS[text]


def is_size(value: Any) -> bool:
    """Whether a value is a width or height in pixels: a whole number above 0, of `MAX_PIXELS_AWAY` at most."""
    return is_finite(value) and 0 < value <= MAX_PIXELS_AWAY and value == int(value)


def kind_of(value: Any) -> str:
    """A value for a message: itself where it is short, its type where it has parts."""
    if value is None or isinstance(value, bool | int | float | str):
        return shown(value)
    return {dict: "an object", list: "a list"}.get(type(value), f"a {type(value).__name__}")


_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring, _short.maxlong = 2, 6, 4, 60, 40


def shown(value: Any) -> str:
    """A value as JSON has it, cut short, for a message: however long or deep it is."""
    return _short.repr(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)


def keys_of(record: dict) -> str:
    return f"its keys: {printable(', '.join(map(str, record))[:300]) or 'none'}"
