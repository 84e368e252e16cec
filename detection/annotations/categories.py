"""The classes of a COCO-format set, as training, evaluation and drawing name them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from detection.annotations.report import Problem
from detection.annotations.values import (
    as_id,
    is_id,
    is_of_kind,
    shown,
    usual_kind,
    what_is_wrong,
)
from engine.names import printable


def class_list(coco: dict) -> tuple[list[str], dict[int | str, int]]:
    """The class names in ascending order of category ids, and {category id: index in that list}.

    COCO's 80 ids run from 1 to 90 with gaps; a model's class indices have none.
    """
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    return [class_name(category["name"]) for category in categories], {
        as_id(category["id"]): index for index, category in enumerate(categories)
    }


def class_name(value: str) -> str:
    """A category's `name` as it is meant: without blanks and line breaks around it, which lists read line by line
    leave there, and with each accent in its letter (Unicode's NFC), since names are compared."""
    return unicodedata.normalize("NFC", value.strip().strip("\ufeff").strip())


def name_problem(value: Any) -> str:
    """What keeps a value from naming a class in tables, files and pictures, after "`name` is"; "" if nothing does."""
    if not isinstance(value, str):
        return f"{shown(value)}, not a text"
    name = class_name(value)
    if not name:
        return f"{shown(value)}, without a letter"
    if printable(name) != name:
        return f"'{printable(name):.60}', with a line break or another character that cannot be written"
    return ""


def check_categories(categories: list, class_names: Sequence[str] | None, problems: list[Problem]) -> set:
    """Adds what is wrong with each category, and whether all are the classes of a model; returns the ids of the sound
    ones."""
    ids: set = set()
    names: set[str] = set()
    kind = usual_kind(record.get("id") for record in categories if isinstance(record, dict))

    def add(problem, index, message):
        problems.append(Problem(problem, "categories", index, message))

    for index, record in enumerate(categories):
        wrong = what_is_wrong(record, {"id": is_id, "name": lambda value: True})
        wrong = wrong or ((problem := name_problem(record["name"])) and f"`name` is {problem}")
        name = "" if wrong else class_name(record["name"])
        if wrong:
            add("category_record", index, wrong)
        elif not is_of_kind(record["id"], kind):
            add("category_record", index, f"`id` is {shown(record['id'])}: some ids are numbers and some are text")
        elif record["id"] in ids:
            add("duplicate_category_id", index, f"id {shown(record['id'])} ({name!r}) is taken by an earlier one")
        elif name in names:
            add("duplicate_category_name", index, f"{name!r} (id {shown(record['id'])}) is an earlier one's name")
        else:
            ids.add(record["id"])
            names.add(name)
    if class_names is not None and not problems:
        _compare(class_list({"categories": categories})[0], list(class_names), add)
    return ids


def _compare(found: list[str], expected: list[str], add) -> None:
    if found == expected:
        return
    pairs = enumerate(zip(found, expected, strict=False))
    place = next((i for i, (own, other) in pairs if own != other), None)
    message = f"the json has {len(found)} categories, the model {len(expected)} classes"
    if place is not None:
        message += f"; number {place} is {found[place]!r} in the json, {expected[place]!r} in the model"
    add("class_names", 0 if place is None else place, message)
