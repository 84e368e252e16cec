"""A checked set made sound: what has one meaning is mended, the rest is dropped, and each change is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from detection.annotations.categories import class_name
from detection.annotations.masks import is_polygon
from detection.annotations.report import AnnotationReport, Problem
from detection.annotations.values import LISTS, is_id
from engine.errors import UserError

MAX_ROUNDS = 10  # of dropping what is wrong in what was mended; each takes records away
OF_THE_WHOLE = ("box_form", "class_names")
HARMLESS = ("no_label_file", "unlisted_picture")  # beside the records, which are as they should be
TWINS = {
    "duplicate_category_name": ("name", class_name, "category_id"),
    "duplicate_file_name": ("file_name", str, "image_id"),
}
"""Records that are listed twice: what they share, in which form, and the key by which annotations name them."""


@dataclass
class Mended:
    """A sound set, and what was done for it.

    Attributes:
        coco: the content, in which the check finds nothing.
        changes: a line for each record that was mended or dropped, but for those counted in ``gone``.
        mended, dropped: how many records; of the dropped, ``gone`` are annotations whose image went.
    """

    coco: dict
    changes: list[str] = field(default_factory=list)
    mended: int = 0
    dropped: int = 0
    gone: int = 0


def mend(coco: dict, report: AnnotationReport, check: Callable[[dict], AnnotationReport]) -> Mended:
    """A copy of a set in which nothing is wrong.

    Mended are boxes that reach out of their image (clipped), repeated annotation ids (numbered anew), categories and
    images that are listed twice (made one), areas that cannot be used (the box's), polygons without three points
    (taken out of their mask) and `ignore` (taken out: nothing reads it). All else that is wrong is dropped, with the
    annotations of images that are.

    Args:
        report: of ``coco``, with its warnings.
        check: the same check of another content.

    Raises:
        UserError: something is wrong that no dropping puts right, such as boxes in another form.
    """
    result = Mended({**coco, **{section: list(coco[section]) for section in LISTS}})
    problems = [problem for problem in report.problems if problem.kind not in HARMLESS]
    _refuse_the_whole(report)
    twins = {key: _twins(problems, kind, coco) for kind, (*_, key) in TWINS.items()}
    known = _Known(coco)
    by_record: dict[tuple[str, int], list[Problem]] = {}
    for problem in problems:
        by_record.setdefault((problem.section, problem.index), []).append(problem)
    hopeless = [found[0] for found in by_record.values() if not _mended(result, known, found, twins)]
    _join(result, twins)
    _drop(result, hopeless)
    for _ in range(MAX_ROUNDS):
        report = check(result.coco)
        _refuse_the_whole(report)
        if not report.problems:
            return result
        _drop(result, report.problems)
    raise UserError(f"{report.source}: something was still wrong after {MAX_ROUNDS} rounds of dropping")


def _refuse_the_whole(report: AnnotationReport) -> None:
    for problem in report.errors:
        if problem.kind in OF_THE_WHOLE:
            raise UserError(f"{report.source}: {problem.message}; mending or dropping records does not help here")


def _drop(result: Mended, problems: Iterable[Problem]) -> None:
    """Takes the records of the problems out, and the annotations of images that go."""
    bad: dict[str, dict[int, Problem]] = {section: {} for section in LISTS}
    for problem in problems:
        bad[problem.section].setdefault(problem.index, problem)
    for section, found in bad.items():
        result.changes += [f"dropped: {problem}" for problem in found.values()]
        result.coco[section] = [one for index, one in enumerate(result.coco[section]) if index not in found]
        result.dropped += len(found)
    if bad["images"]:
        kept, before = {image["id"] for image in result.coco["images"]}, result.coco["annotations"]
        result.coco["annotations"] = [one for one in before if one["image_id"] in kept]
        result.gone += len(before) - len(result.coco["annotations"])
        result.dropped += len(before) - len(result.coco["annotations"])


def _twins(problems: Iterable[Problem], kind: str, coco: dict) -> dict:
    """{id of a record that is listed again: the id of the first}."""
    shared, form, _ = TWINS[kind]
    again = [problem for problem in problems if problem.kind == kind]
    first: dict[str, Any] = {}
    for record in coco[again[0].section] if again else ():
        if isinstance(record, dict) and isinstance(record.get(shared), str) and is_id(record.get("id")):
            first.setdefault(form(record[shared]), record["id"])
    twins = [coco[problem.section][problem.index] for problem in again]
    return {one["id"]: first[form(one[shared])] for one in twins if one["id"] != first[form(one[shared])]}


class _Known:
    """What mendings look up.

    Attributes:
        coco: the content as it was.
        images: {id: record}, the first of each id.
        ids: numbers that are no annotation's id.
    """

    def __init__(self, coco: dict):
        self.coco, self.images = coco, {}
        for image in coco["images"]:
            if isinstance(image, dict) and is_id(image.get("id")):
                self.images.setdefault(image["id"], image)
        ids = [one["id"] for one in coco["annotations"] if isinstance(one, dict) and is_id(one.get("id"))]
        self.ids = count(1 + max((int(one) for one in ids if not isinstance(one, str) or one.isdecimal()), default=0))


def _join(result: Mended, twins: dict[str, dict]) -> None:
    """Gives the annotations of what is listed again to what is listed first."""
    annotations = result.coco["annotations"]
    for key, firsts in twins.items():
        for index, record in enumerate(annotations if firsts else ()):
            if isinstance(record, dict) and is_id(record.get(key)) and record[key] in firsts:
                annotations[index] = {**record, key: firsts[record[key]]}
                result.changes.append(
                    f"mended: annotations[{index}]: `{key}` {record[key]} is now {firsts[record[key]]}"
                )
                result.mended += 1


def _mended(result: Mended, known: _Known, problems: list[Problem], twins: dict[str, dict]) -> bool:
    """Mends a record; whether all that is wrong with it could be."""
    section, index = problems[0].section, problems[0].index
    record = known.coco[section][index]
    if section != "annotations" or not isinstance(record, dict):
        return False
    record, done = dict(record), []
    for problem in problems:
        if problem.kind == "unknown_category" and record.get("category_id") in twins["category_id"]:
            continue  # joined below
        if problem.kind not in _MENDINGS:
            return False
        done.append(_MENDINGS[problem.kind](record, known))
    result.coco["annotations"][index] = record
    if done:
        result.changes.append(f"mended: {problems[0].where}: {'; '.join(done)}")
        result.mended += 1
    return True


def _clip(record: dict, known: _Known) -> str:
    image = known.images[record["image_id"]]
    x, y, width, height = old = record["bbox"]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
    record["bbox"] = [left, top, right - left, bottom - top]
    if not record.get("segmentation"):
        record["area"] = (right - left) * (bottom - top)
    return f"bbox {_rounded(old)} clipped to {_rounded(record['bbox'])}"


def _rounded(box: Iterable[float]) -> list[float]:
    return [round(number, 2) for number in box]


def _number(record: dict, known: _Known) -> str:
    old, new = record["id"], next(known.ids)
    record["id"] = str(new) if isinstance(old, str) else new
    return f"id {old} is now {record['id']}"


def _area(record: dict, _known: _Known) -> str:
    old = record.pop("area")
    if not record.get("segmentation"):
        record["area"] = record["bbox"][2] * record["bbox"][3]
    return f"`area` {old!r:.40} is now {record.get('area', 'not there: it is the mask')!r:.40}"


def _polygons(record: dict, _known: _Known) -> str:
    record["segmentation"] = [one for one in record["segmentation"] if is_polygon(one)]
    return "polygons without three points were taken out"


def _ignore(record: dict, _known: _Known) -> str:
    return f"`ignore` {record.pop('ignore')!r:.40} was taken out"


_MENDINGS: dict[str, Callable[[dict, _Known], str]] = {
    "box_over_the_edge": _clip,
    "duplicate_annotation_id": _number,
    "area": _area,
    "bad_polygon": _polygons,
    "ignore_flag": _ignore,
}
