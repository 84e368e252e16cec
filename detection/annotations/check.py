"""Checks a COCO-format set, its records and its image files, before anything is trained on it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detection.annotations.categories import check_categories, class_list
from detection.annotations.image_files import DamagedImage, inspect_image
from detection.annotations.origin import Origin
from detection.annotations.records import check_annotation_records
from detection.annotations.report import KINDS, AnnotationReport, DropSummary, Problem, drop_bad_records
from detection.annotations.values import (
    LISTS,
    as_text,
    is_id,
    is_of_kind,
    is_size,
    require_lists,
    shown,
    usual_kind,
    what_is_wrong,
)
from engine.errors import UserError
from engine.images.by_pillow import MAX_PIXELS
from engine.json_files import read_json

__all__ = [
    "AnnotationReport",
    "DropSummary",
    "Problem",
    "check_annotations",
    "class_list",
    "drop_bad_records",
]

IMAGES_A_TASK = 64  # of a thread


def check_annotations(
    source: str | os.PathLike | dict,
    image_root: str | os.PathLike,
    *,
    class_names: Sequence[str] | None = None,
    check_pixels: str = "header",
    need_masks: bool = False,
    for_evaluation: bool = False,
    num_workers: int | None = None,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    origin: Origin | None = None,
) -> AnnotationReport:
    """Checks everything that would stop or quietly spoil a training run, and lists all of it.

    Args:
        source: a COCO instances file or its dictionary (which is not changed).
        image_root: the folder that `file_name`s are relative to.
        class_names: the classes that a model has, in order, to compare the categories with.
        check_pixels: "header" reads each image's header and end (finds missing, foreign and cut-off files and
            wrong sizes, 0.1 ms an image), "full" decodes each, "none" opens no file.
        need_masks: every annotation needs a usable segmentation.
        for_evaluation: AP is to be computed against the set, which reads the areas, too.
        num_workers: threads for the image files; default: four a core, at most 32, for file systems that are
            slow to answer.
        name: the file of a dictionary, for messages.
        max_pixels: width times height that an image may have (INPUT.MAX_PIXELS); 0: any.
        origin: of a dictionary that was converted from another format: its records' places, and what was wrong there.

    Returns:
        the report; `report.ok` is whether training may start. `report.KINDS` lists the kinds of problems. A box
        that reaches out of its image is a warning, one that lies outside of it an error. An image's size is that
        with its EXIF orientation applied.

    Raises:
        UserError: the json cannot be read, lacks one of its three lists, or the folder does not exist.
    """
    if check_pixels not in ("header", "full", "none"):
        raise ValueError(f"check_pixels is {check_pixels!r}, not header, full or none")
    coco = source if isinstance(source, dict) else read_json(source, "annotations")
    where = name or ("annotations" if isinstance(source, dict) else str(source))
    require_lists(coco, where)
    root = Path(image_root)
    if check_pixels != "none" and not root.is_dir():
        raise UserError(f"{where}: the image folder {root} does not exist")
    problems: list[Problem] = []
    category_ids = check_categories(coco["categories"], class_names, problems)
    images = _check_image_records(coco["images"], problems)
    if check_pixels != "none":
        inspect = partial(inspect_image, decode=check_pixels == "full", max_pixels=max_pixels)
        _check_image_files(coco["images"], root, inspect, num_workers, problems)
    check_annotation_records(coco["annotations"], images, category_ids, need_masks, for_evaluation, problems)
    if origin is not None:
        problems = origin.placed(problems)
    order = {kind: position for position, kind in enumerate(KINDS)}
    problems.sort(key=lambda problem: (order[problem.kind], problem.index))
    return AnnotationReport(where, str(root), *(len(coco[key]) for key in LISTS), problems)


def _check_image_records(images: list, problems: list[Problem]) -> dict:
    """{id: record} of the images whose record is sound (the first of those with one id)."""
    by_id: dict = {}
    files: dict[str, Any] = {}
    keys = {
        "id": is_id,
        "file_name": lambda value: isinstance(value, str) and bool(value),
        "width": is_size,
        "height": is_size,
    }
    kind = usual_kind(record.get("id") for record in images if isinstance(record, dict))
    for index, record in enumerate(images):
        wrong = what_is_wrong(record, keys)
        if not wrong and not is_of_kind(record["id"], kind):
            wrong = f"`id` is {shown(record['id'])}: some ids are numbers and some are text"
        if wrong:
            name, identity = (record.get(key) if isinstance(record, dict) else None for key in ("file_name", "id"))
            problems.append(Problem("image_record", "images", index, wrong, as_text(name), as_text(identity)))
            continue
        name, identity = record["file_name"], as_text(record["id"])
        if identity in by_id:
            message = f"its id {identity} is taken by {by_id[identity]['file_name']}"
            problems.append(Problem("duplicate_image_id", "images", index, message, name, identity))
            continue
        if name in files:
            message = f"is image {files[name]} as well"
            problems.append(Problem("duplicate_file_name", "images", index, message, name, identity))
        by_id[identity] = record
        files.setdefault(name, identity)
    return by_id


def _check_image_files(
    images: list, root: Path, inspect: Callable, num_workers: int | None, problems: list[Problem]
) -> None:
    named = [
        (index, record)
        for index, record in enumerate(images)
        if isinstance(record, dict) and isinstance(record.get("file_name"), str) and record["file_name"]
    ]

    def check(chunk: list) -> list[Problem]:
        return [problem for index, record in chunk for problem in _check_image_file(index, record, root, inspect)]

    chunks = [named[start : start + IMAGES_A_TASK] for start in range(0, len(named), IMAGES_A_TASK)]
    workers = num_workers or min(32, 4 * (os.cpu_count() or 1))
    # Warnings of the image library concern odd but harmless metadata. Filters are global, hence here
    # and not in the threads.
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(named), desc="checking images", unit=" images", disable=None, delay=1) as bar,
    ):
        warnings.simplefilter("ignore")
        try:
            for chunk, found in zip(chunks, pool.map(check, chunks), strict=True):
                problems += found
                bar.update(len(chunk))
        except BaseException:  # Ctrl-C: do not read the rest first
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_image_file(index: int, record: dict, root: Path, inspect: Callable) -> Iterator[Problem]:
    name, identity = record["file_name"], as_text(record.get("id"))
    path = root / name
    try:
        size = inspect(path)
    except FileNotFoundError:
        hint = " (its folders are separated by \\; write /)" if "\\" in name else ""
        yield Problem("missing_image", "images", index, f"there is no file {path}{hint}", name, identity)
        return
    except DamagedImage as error:
        yield Problem("unreadable_image", "images", index, str(error), name, identity)
        return
    width, height = record.get("width"), record.get("height")
    if not (is_size(width) and is_size(height)) or (width, height) == (size.width, size.height):
        return
    message = f"the annotations say {shown(width)} x {shown(height)}, the file is {size.width} x {size.height}"
    if size.turned:
        message += " after the quarter turn that its EXIF orientation asks for"
        if (width, height) == (size.height, size.width):
            message += " (remove that tag if the boxes were drawn on the unturned image)"
    yield Problem("image_size", "images", index, message, name, identity)
